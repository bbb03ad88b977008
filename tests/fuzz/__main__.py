"""Feed bad input for a given time: first the known bad cases, then cases found by coverage.

    python -m tests.fuzz                               # a minute for each target
    python -m tests.fuzz --target wire --seconds 600   # parse, wire, request, callbacks, trace, jobfile, …

For a nightly run: `pip install atheris && python -m tests.fuzz --seconds 900 --seed $RANDOM`. Without Atheris
(it is not to be had for every platform, and is in no extra) inputs are changed blindly. It exits with 1 if
anything failed, and shows the input; mend what let it through, and add the input to `FOUND` in
`tests/fuzz/seeds.py`, from where every run of the tests feeds it again.
"""

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec

from tests.fuzz.seeds import cases, mutated
from tests.fuzz.targets import TARGETS

_SHOWN = 2000


def main(argv: list[str] | None = None, *, now: Callable[[], float] = time.monotonic) -> int:
    """Fuzz what the command line names, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--target", choices=TARGETS, action="append", help="may be repeated (default: all)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (default: 60)")
    parser.add_argument("--seed", type=int, default=1, help="another one leads elsewhere (default: 1)")
    parser.add_argument("--blind", action="store_true", help="go without Atheris")
    args = parser.parse_args(argv)
    guided = not args.blind and find_spec("atheris") is not None
    if not guided and not args.blind:
        print("Atheris is missing (pip install atheris): inputs are changed blindly")
    held = True
    for name in args.target or TARGETS:
        began = now()
        until = began + args.seconds
        held = feed(name, cases(name), began + args.seconds / 2, now) and held
        held = (_guided if guided else _blind)(name, args.seed, until, now) and held
    return 0 if held else 1


def feed(name: str, data: Iterable[bytes], until: float, now: Callable[[], float]) -> bool:
    """Feed the target until its time is up; print the number of cases, and return whether all passed."""
    count, failed = 0, 0
    for case in data:
        if now() >= until:
            break
        count += 1
        try:
            TARGETS[name](case)
        except Exception as error:  # noqa: BLE001 - any error is a finding
            failed += 1
            print(f"{name}: {type(error).__name__}: {error!s:.300}\n  {case!r:.{_SHOWN}}")
    print(f"{name}: {count:,} inputs, {failed} failed")
    return not failed


def _blind(name: str, seed: int, until: float, now: Callable[[], float]) -> bool:
    rng = random.Random(f"{name} {seed}")
    return feed(name, iter(lambda: mutated(name, rng), None), until, now)


def _guided(name: str, seed: int, until: float, now: Callable[[], float]) -> bool:
    # In its own process, which Atheris ends at the first finding.
    seconds = max(1, int(until - now()))
    command = [sys.executable, "-m", "tests.fuzz.guided", name, str(seconds), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    lines = done.stderr.splitlines()
    if done.returncode:
        print("\n".join(lines[-60:]))
    told = [line for line in lines if line.startswith(("Done ", "#")) and ("Done" in line or "DONE" in line)]
    print(f"{name}: guided, exit code {done.returncode}: {'; '.join(told[-2:])}")
    return not done.returncode


if __name__ == "__main__":
    sys.exit(main())
