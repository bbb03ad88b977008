"""What the package shows and costs: public names, errors, docstrings, imports."""

import ast
import subprocess
import sys
import tomllib

import pika_balancer
from pika_balancer import errors
from tests.structure import PACKAGE, modules, own

ROOT = PACKAGE.parent


def test_time_and_chance_are_handed_in() -> None:
    own_time = {
        "time.time",
        "time.monotonic",
        "time.sleep",
        "random.random",
        "random.choice",
        "random.uniform",
    }
    for room, path in modules():
        # Progress for people is measured on the machine's clock.
        measured = room == "cli" or path.stem == "replicate"
        for node in ast.walk(ast.parse(path.read_text())) if not measured else ():
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in own_time, f"{path.name}:{node.lineno}"


def test_the_public_names_are_sorted_and_all_there() -> None:
    names = pika_balancer.__all__
    # Constants, then classes: the order in which a style checker sorts them.
    assert names == sorted(names, key=lambda name: (not name.isupper(), name))
    for name in names:
        assert getattr(pika_balancer, name).__class__.__name__ != "module"


def test_every_public_class_is_documented() -> None:
    things = (getattr(pika_balancer, name) for name in pika_balancer.__all__)
    assert [thing for thing in things if isinstance(thing, type) and not thing.__doc__] == []


def test_every_error_is_public_and_in_the_tree() -> None:
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


def test_asyncio_and_aiohttp_are_imported_on_first_use() -> None:
    said = run(
        "import sys, pika_balancer as p\n"
        "missing = lambda: sorted({'aiohttp', 'asyncio', 'msgspec'} - sys.modules.keys())\n"
        "print(missing(), set(p.__all__) <= set(dir(p)), hasattr(p, 'nonsense'))\n"
        "p.Selector([p.Account('1', 1)]).try_acquire(); print(missing())\n"
        "p.Balancer; print(missing())\n"
        "from pika_balancer import *; print(missing(), PikaClient is p.PikaClient)"
    )
    assert said.splitlines() == [
        "['aiohttp', 'asyncio', 'msgspec'] True False",
        "['aiohttp', 'asyncio', 'msgspec']",
        "['aiohttp', 'msgspec']",
        "[] True",
    ]


def test_commands_without_network_do_not_import_aiohttp() -> None:
    said = run(
        "import sys\n"
        "from pika_balancer.cli import main\n"
        "assert main(['--version']) == 0\n"
        "assert main(['simulate', '--help']) == main(['plan', '--help']) == 0\n"
        "print({'aiohttp', 'msgspec'} & sys.modules.keys())"
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
