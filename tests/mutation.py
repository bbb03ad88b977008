"""Mutation testing of one room: do its tests notice changes to the code?

`pip install mutmut`, then `python -m tests.mutation selector` changes the room in every small way that mutmut
knows, runs the tests that concern it against each change, and prints the changes that no test noticed.
`--sample 20` runs 20 of the changes, the same ones each time.

It works on a copy, in a directory of its own. With `--work DIR` that is kept, and what was found out there is
not found out again unless the code has changed. Texts for people are not changed.
"""

import argparse
import ast
import functools
import importlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Final

import attrs
import pytest
from _pytest.config import _prepareconfig

ROOT: Final = Path(__file__).parent.parent
MEMORY: Final = 4 << 30
"""Maximum memory of a mutant in bytes."""

SEED: Final = 7
"""Chooses the mutants of a sample."""

TIMEOUT: Final = 36
"""Exit code that mutmut reads as a timeout."""


@attrs.frozen
class Room:
    """Files to mutate together, and their tests."""

    files: tuple[str, ...]
    """The files, as patterns below the package."""
    tests: tuple[str, ...]
    """Files or folders of tests, below `tests/`."""
    but: str = "uniform or storm or valkey or cluster or costs"
    """Tests to leave out, as an expression for `-k`: slow ones that notice no more than others."""


ROOMS: Final = {
    "selector": Room(
        ("selection/*.py",),
        ("test_selector.py", "test_policy.py", "test_wait_queue.py"),
    ),
    "balancer": Room(
        ("balancer/*.py", "store/memory.py"),
        (
            "test_balancer.py",
            "test_held.py",
            "test_store_contract.py",
            "test_cancellation.py",
            "test_events.py",
        ),
    ),
    "client": Room(
        ("client/requests.py", "client/responses.py", "client/error_map.py"),
        ("test_requests.py", "test_responses.py"),
        but="holds_no_body or costs",  # the first finds what mutmut's trampolines hold
    ),
    "dispatch": Room(
        ("dispatch/*.py",),
        ("dispatch",),
        but="polls_go_on or tells_nothing or did_not_see_everything or is_kept_anew or outlives or asked_less"
        " or whatever_turn",
    ),
}


def main() -> None:
    """Run the tests of one room against its mutants, and print the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("room", choices=ROOMS)
    parser.add_argument("names", nargs="*", help="only these mutants, as patterns such as '*wake*'")
    parser.add_argument("--work", type=Path, help="keep the copy in this directory, and go on from there")
    parser.add_argument("--workers", type=int, default=1, help="processes at a time")
    parser.add_argument("--sample", type=int, metavar="N", help="run N of the mutants, the same each time")
    parser.add_argument("--within", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.within:
        run(options.names, options.workers, options.sample)
        return
    with tempfile.TemporaryDirectory() as passing:
        work = options.work or Path(passing)
        prepare(ROOMS[options.room], work)
        # In a process that has not imported the package or the tests from here.
        command = [sys.executable, "-P", __file__, options.room, *options.names, "--within"]
        command += [] if options.sample is None else [f"--sample={options.sample}"]
        subprocess.run([*command, f"--workers={options.workers}"], cwd=work, check=False)
        report(work)


def prepare(room: Room, work: Path) -> None:
    """Bring the copy up to date, with mutmut's settings for the room."""
    package = ROOT / "pika_balancer"
    rooms = {file for pattern in room.files for file in package.glob(pattern)}
    for file in (*package.rglob("*"), *(ROOT / "tests").rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            content = file.read_bytes()
            refresh(work / file.relative_to(ROOT), undecorated(content) if file in rooms else content)
    settings = {
        "source_paths": ["pika_balancer"],
        "only_mutate": [f"pika_balancer/{file}" for file in room.files],
        "pytest_add_cli_args_test_selection": [f"tests/{test}" for test in room.tests],
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "-k", f"not ({room.but})"],
        "timeout_multiplier": 10.0,
        "use_git_change_detection": False,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    own = (ROOT / "pyproject.toml").read_text()
    (work / "pyproject.toml").write_text("\n".join([own, "[tool.mutmut]", *lines, ""]))


def refresh(copy: Path, content: bytes) -> None:
    """Write the file if it differs; else it keeps its modification time, which mutmut checks."""
    if not copy.exists() or copy.read_bytes() != content:
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)


def undecorated(source: bytes) -> bytes:
    """Return the same code with properties and the like spelled out: mutmut changes no decorated function."""
    lines = source.decode().splitlines()
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    for function in sorted(functions, key=lambda node: node.lineno, reverse=True):
        decorators = [ast.unparse(decorator) for decorator in function.decorator_list]
        if not decorators or set(decorators) & {"overload", "staticmethod", "classmethod"}:
            continue
        name, plain = function.name, f"{function.name}__plain"
        call = "(".join([*decorators, plain]) + ")" * len(decorators)
        lines.insert(function.end_lineno or 0, f"{' ' * function.col_offset}{name} = {call}")
        at = function.lineno - 1
        lines[at] = lines[at].replace(f"def {name}(", f"def {plain}(", 1)
        del lines[function.decorator_list[0].lineno - 1 : at]
    return "\n".join([*lines, ""]).encode()


def run(names: list[str], workers: int, sample: int | None) -> None:
    """Run mutmut in this process, with limited memory."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    mutators = importlib.import_module("mutmut.mutation.mutators")
    operators: list[Any] = mutators.mutation_operators
    operators[:] = [(kind, but_texts(operator)) for kind, operator in operators]
    hasten()
    hide_trampolines()
    # The first argument of `cast` is for the type checker.
    importlib.import_module("mutmut.mutation.file_mutation").NEVER_MUTATE_FUNCTION_CALLS.add("cast")
    mutmut: Any = importlib.import_module("mutmut.__main__")
    if sample is not None:
        everything: Callable[..., tuple[list[Any], Any]] = mutmut.collect_source_file_mutation_data

        def some(**options: Any) -> tuple[list[Any], Any]:
            mutants, files = everything(**options)
            mutants.sort(key=lambda mutant: str(mutant[1]))
            return random.Random(SEED).sample(mutants, min(sample, len(mutants))), files

        mutmut.collect_source_file_mutation_data = some
    command = mutmut.cli
    command(["run", f"--max-children={workers}", *names])


class Brief:
    """A pytest plugin: few examples of each property, no shrinking, no caches."""

    def pytest_configure(self) -> None:
        import hypothesis  # noqa: PLC0415 - pytest has to see it first

        hypothesis.settings.register_profile(
            "brief", max_examples=30, derandomize=True, database=None, phases=[hypothesis.Phase.generate]
        )
        hypothesis.settings.load_profile("brief")

    def pytest_runtest_setup(self) -> None:
        # A value cached by an earlier test would hide the mutants that compute it.
        for name, module in list(sys.modules.items()):
            for thing in vars(module).values() if name.startswith("pika_balancer.") else ():
                if isinstance(thing, functools._lru_cache_wrapper):
                    thing.cache_clear()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        cases: set[Any] = {getattr(item, "cls", None) for item in items}
        for case in cases:
            if hasattr(case, "settings"):  # a walk, which has settings of its own
                case.settings = type(case.settings)(case.settings, max_examples=30)


def hasten() -> None:
    """Start every mutant after the collection of the tests, with a time limit for each test."""
    harness = importlib.import_module("mutmut.runners.harness").PytestRunner
    isolation = importlib.import_module("mutmut.workers.isolation").ForkRunner
    trampoline: Any = importlib.import_module("mutmut.mutation.trampoline")
    state = importlib.import_module("mutmut.state").state
    execute, run_tests, startup = harness.execute_pytest, harness.run_tests, isolation.startup

    def briefly(self: Any, params: list[str], plugins: Iterable[object] = ()) -> int:
        ended: int = execute(self, params, plugins=[*plugins, Brief()])
        return ended

    def start(self: Any) -> None:
        runner = self.test_runner
        runner.session = collected(
            [*runner._pytest_add_cli_args, *runner._pytest_add_cli_args_test_selection]
        )
        startup(self)

    def run(self: Any, *, mutant_name: str | None, tests: Iterable[str]) -> int:
        if mutant_name is None:
            clean: int = run_tests(self, mutant_name=None, tests=tests)
            return clean
        trampoline.get_mutant_under_test = lambda: mutant_name  # not read from the environment at every call
        return passed(self.session, tests, state().duration_by_test)

    harness.execute_pytest, harness.run_tests, isolation.startup = briefly, run, start


def collected(options: list[str]) -> pytest.Session:
    """Return a session of pytest in the folder of mutants that has everything collected."""
    os.chdir("mutants")
    config = _prepareconfig(["--rootdir=.", "-s", "-o", "addopts=", "-p", "no:terminal", *options], [Brief()])
    config.option.tbstyle = "native"  # another one reads the huge mutated file anew at every failure
    session = pytest.Session.from_config(config)
    config._do_configure()
    config.hook.pytest_sessionstart(session=session)
    config.hook.pytest_collection(session=session)
    os.chdir("..")
    return session


def passed(session: pytest.Session, tests: Iterable[str], durations: Mapping[str, float]) -> int:
    """Run the tests up to the first failure; return 0 if none fails. A test that hangs ends the process."""
    os.chdir("mutants")
    signal.signal(signal.SIGALRM, lambda *_: os._exit(TIMEOUT))
    items = {item.nodeid: item for item in session.items}
    chosen = [items[test] for test in tests]
    for item, following in zip(chosen, [*chosen[1:], None], strict=True):
        signal.setitimer(signal.ITIMER_REAL, 2 + 10 * durations[item.nodeid])
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return 1
    return 0


def hide_trampolines() -> None:
    """Make `sys._getframe` skip mutmut's frames."""
    own = importlib.import_module("mutmut.mutation.trampoline").__file__
    getframe = sys._getframe

    def caller(depth: int = 0) -> FrameType | None:
        frame: FrameType | None = getframe(1)
        for _ in range(depth):
            frame = frame.f_back if frame is not None else None
            while frame is not None and frame.f_code.co_filename == own:
                frame = frame.f_back
        return frame

    sys._getframe = caller  # type: ignore[assignment]  # it ends in None where the real one raises


def but_texts(operator: Callable[[Any], Iterator[Any]]) -> Callable[[Any], Iterator[Any]]:
    """Return the operator, without its changes to a text or to an argument that is one."""

    def changed(node: Any) -> Iterator[Any]:
        for mutant in operator(node) if not is_text(node) else ():
            kept = {id(part) for part in getattr(mutant, "args", ())}
            gone = [part for part in getattr(node, "args", ()) if id(part) not in kept]
            if not any(is_text(part.value) for part in gone):
                yield mutant

    return changed


def is_text(node: Any) -> bool:
    """Return whether the node is a literal with a space in it: text for people."""
    match type(node).__name__:
        case "SimpleString":
            return " " in node.value
        case "ConcatenatedString":
            return is_text(node.left) or is_text(node.right)
        case "FormattedString":
            return any(" " in getattr(part, "value", "") for part in node.parts if hasattr(part, "value"))
        case _:
            return False


def report(work: Path) -> None:
    """Print the number of mutants by outcome for each file, and the diffs of those that no test noticed."""
    statuses: Mapping[int | None, str] = importlib.import_module("mutmut.stats").status_by_exit_code
    show = importlib.import_module("mutmut.mutation.diff_apply").get_diff_for_mutant
    os.chdir(work)
    total: Counter[str] = Counter()
    unnoticed: list[str] = []
    for found in sorted(Path("mutants").rglob("*.py.meta")):
        ends = {
            name: statuses[code] for name, code in json.loads(found.read_text())["exit_code_by_key"].items()
        }
        if ends:
            counts = Counter(ends.values())
            total += counts
            say(f"{found.relative_to('mutants').with_suffix('')}: {dict(counts)}")
            unnoticed += [
                name for name, end in ends.items() if end not in {"killed", "timeout", "not checked"}
            ]
    for name in unnoticed:
        say(show(name))
    noticed = total["killed"] + total["timeout"]
    say(f"all: {dict(total)}, {noticed / max(1, total.total() - total['not checked']):.1%} noticed")


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
