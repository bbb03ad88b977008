"""The house as seen from outside: what may import what, what is public, what an import costs."""

import ast
import functools
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import pika_balancer

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pika_balancer"

PURE = {
    "errors",
    "secret",
    "models",
    "policy",
    "books",
    "selector",
    "line",
    "holders",
    "text",
    "mask",
    "strict",
    "answer",
    "parse",
    "units",
    "load/arrivals",
    "load/latency",
    "load/tally",
    "load/compare",
    "dispatch/verdict",
    "dispatch/health",
}
"""Rooms without an event loop, a socket or a clock."""

ARROWS: dict[str, set[str]] = {
    "text": set(),
    "errors": {"text"},
    "secret": {"errors"},
    "models": {"secret", "errors"},
    "clock": set(),
    "reach": set(),
    "closing": set(),
    "policy": {"errors", "models"},
    "books": {"models"},
    "why_unavailable": {"books", "models"},
    "selector": {"books", "policy", "why_unavailable", "models", "errors"},
    "line": set(),
    "events": {"errors"},
    "holders": {"models"},
    "store": {
        "store",
        "selector",
        "policy",
        "books",
        "why_unavailable",
        "line",
        "events",
        "mask",
        "text",
        "models",
        "errors",
        "clock",
        "closing",
    },
    "refresh": {"events", "models", "errors", "clock"},
    "leasing": {"holders", "drain", "models", "errors"},
    "drain": {"clock"},
    "balancer": {
        "store",
        "policy",
        "refresh",
        "holders",
        "leasing",
        "drain",
        "events",
        "models",
        "errors",
        "clock",
    },
    "mask": {"text", "models", "errors"},
    "strict": {"text", "mask", "models", "errors"},
    "answer": {"mask", "strict", "models", "errors"},
    "parse": {"text", "mask", "strict", "answer", "models", "errors"},
    "wire": {"text", "mask", "strict", "answer", "parse", "models", "errors"},
    "transport": {"wire", "answer", "text", "models", "errors", "clock"},
    "calls": {"wire", "transport", "models", "errors", "clock"},
    "client": {"wire", "calls", "transport", "models", "errors", "clock"},
    "dispatch": {
        "dispatch",
        "balancer",
        "leasing",
        "client",
        "wire",
        "text",
        "drain",
        "events",
        "models",
        "errors",
        "clock",
    },
    "callbacks": {"parse", "models", "errors", "clock", "closing"},
    "simulate": {"simulate", "selector", "policy", "units", "text", "models", "errors"},
    "metrics": {"events", "models", "errors"},
    "server": {"server", "secret", "reach", "clock", "closing"},
    "units": {"errors"},
    "apart": {"closing"},
    "load": {"load", "apart", "dispatch", "server", "events", "models", "errors", "clock"},
    "testing": {"clock", "closing", "server"},
}
"""Room → the rooms that it may import. The doors (`cli`, `__main__`, `__init__`) may import anything."""


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        yield room, path


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def imports(path: Path) -> list[str]:
    return list(imported(path))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide an arrow"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(name: str) -> str | None:
    """Return the room that an import names, None for a module of another project."""
    parts = name.split(".")
    if parts[0] != "pika_balancer":
        return None
    return parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize(("room", "path"), list(modules()), ids=lambda value: Path(value).stem)
def test_imports_point_inward_only(room: str, path: Path) -> None:
    if room in {"__init__", "__main__", "cli"}:
        return
    assert room in ARROWS, f"{room} has no place on the map yet; give it one in ARROWS"
    rooms = {target for target in map(own, imports(path)) if target is not None}
    assert rooms <= ARROWS[room] | {room}


def test_no_room_is_on_the_map_that_does_not_exist() -> None:
    assert {room for room, _ in modules()} >= ARROWS.keys()


@pytest.mark.parametrize("room", sorted(PURE))
def test_the_centre_knows_no_event_loop_no_network_and_no_clock(room: str) -> None:
    foreign = {name.split(".")[0] for name in imports(PACKAGE / f"{room}.py")}
    assert not foreign & {"asyncio", "aiohttp", "socket", "time", "threading", "os"}


def test_nothing_but_the_doors_knows_the_commands() -> None:
    knowing = {room for room, path in modules() if "cli" in set(map(own, imports(path)))}
    assert knowing <= {"cli", "__main__"}


@pytest.mark.parametrize(("room", "path"), list(modules()), ids=lambda value: Path(value).stem)
def test_every_room_can_be_read_in_one_sitting(room: str, path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400, f"{room} is more than one room"


def test_time_and_chance_are_handed_in() -> None:
    own_time = {
        "time.time",
        "time.monotonic",
        "time.sleep",
        "random.random",
        "random.choice",
        "random.uniform",
    }
    for _, path in modules():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in own_time, f"{path.name}:{node.lineno}"


def test_the_public_names_are_sorted_and_all_there() -> None:
    names = pika_balancer.__all__
    # Constants, then classes: the order in which a style checker sorts them.
    assert names == sorted(names, key=lambda name: (not name.isupper(), name))
    for name in names:
        assert getattr(pika_balancer, name).__class__.__name__ != "module"


def test_everything_public_is_documented() -> None:
    for name in pika_balancer.__all__:
        thing = getattr(pika_balancer, name)
        if isinstance(thing, type):
            assert thing.__doc__, name
            for attribute, value in vars(thing).items():
                if not attribute.startswith("_") and callable(value):
                    assert value.__doc__, f"{name}.{attribute}"


def test_every_error_is_in_the_tree_and_in_the_open() -> None:
    from pika_balancer import errors  # noqa: PLC0415 - read as a module here

    for name, thing in vars(errors).items():
        if isinstance(thing, type) and issubclass(thing, Exception):
            assert issubclass(thing, errors.PikaError)
            assert name in pika_balancer.__all__
            assert name in (errors.__doc__ or "")


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_brings_nothing_heavy() -> None:
    loaded = run("import sys\nfrom pika_balancer import *\nprint('\\n'.join(sys.modules))").split()
    heavy = {"rich", "redis", "numpy", "numba", "matplotlib", "prometheus_client", "argparse", "hdrh"}
    assert not {name for name in loaded if name.split(".")[0] in heavy}
    assert not {name for name in loaded if own(name) in {"cli", "server", "testing"}}


def test_the_asynchronous_ring_comes_when_it_is_asked_for() -> None:
    said = run(
        "import sys, pika_balancer as p\n"
        "waits = lambda: sorted({'aiohttp', 'asyncio', 'cattrs'} - sys.modules.keys())\n"
        "print(waits(), set(p.__all__) <= set(dir(p)), hasattr(p, 'nonsense'))\n"
        "p.Selector([p.Account('1', 1)]).try_acquire(); print(waits())\n"
        "p.Balancer; print(waits())\n"
        "from pika_balancer import *; print(waits(), PikaClient is p.PikaClient, Dispatcher is p.Dispatcher)"
    )
    assert said.splitlines() == [
        "['aiohttp', 'asyncio', 'cattrs'] True False",
        "['aiohttp', 'asyncio', 'cattrs']",
        "['aiohttp', 'cattrs']",
        "[] True True",
    ]


def test_commands_that_need_no_network_do_not_wait_for_its_library() -> None:
    said = run(
        "import sys\n"
        "from pika_balancer.cli import main\n"
        "assert main(['--version']) == 0\n"
        "assert main(['simulate', '--help']) == main(['plan', '--help']) == 0\n"
        "print({'aiohttp', 'cattrs'} & sys.modules.keys())"
    )
    assert said.endswith("set()\n")


def test_the_package_imports_without_any_extra() -> None:
    missing = ("rich", "redis", "numpy", "numba", "matplotlib", "prometheus_client", "hdrh")
    run(
        f"import sys\nfor name in {missing!r}: sys.modules[name] = None\n"
        "import pika_balancer.testing, pika_balancer.server, pika_balancer.cli\nfrom pika_balancer import *"
    )


def test_the_test_group_and_the_test_extra_are_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["dependency-groups"]["test"] == project["project"]["optional-dependencies"]["test"]
