"""Fuzzes one target with Atheris, which sees what each input reaches; run by `python -m tests.fuzz`."""

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

_SLOW = 10
_MEGABYTES = 2048


def main() -> None:
    """Run the target of the command line from its seeds; exit with 0 if all cases passed."""
    target, seconds, seed = sys.argv[1:4]
    atheris: Any = importlib.import_module("atheris")  # has no types
    with atheris.instrument_imports(include=["pika_balancer"]):
        targets = importlib.import_module("tests.fuzz.targets")
        seeds = importlib.import_module("tests.fuzz.seeds")
    with tempfile.TemporaryDirectory(prefix="pika-fuzz-") as directory:
        for number, data in enumerate([*seeds.SEEDS[target], *seeds.FOUND.get(target, ())]):
            (Path(directory) / str(number)).write_bytes(data)
        atheris.Setup(
            [
                sys.argv[0],
                directory,
                f"-max_total_time={seconds}",
                f"-seed={seed}",
                f"-timeout={_SLOW}",
                f"-rss_limit_mb={_MEGABYTES}",
                "-max_len=4096",
                "-print_final_stats=1",
                f"-artifact_prefix={tempfile.gettempdir()}/pika-{target}-",
            ],
            targets.TARGETS[target],
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
