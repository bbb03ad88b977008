"""The Lua of the shared store: its headers, its parts, and that it is there wherever the package is."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from pika_balancer.store.redis import scripts
from pika_balancer.store.redis.scripts import KEYS, names, script
from tests.depth import sized
from tests.redis_servers import Servers

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", names())
def test_every_operation_states_what_it_takes_and_includes_what_it_needs(name: str) -> None:
    operation = script(name)
    assert "-- include" not in operation.text
    # What it takes is what it reads: its own arguments begin after the common ones.
    read = {int(index) for index in re.findall(r"ARGV\[(\d+)\]", operation.text)}
    named = [argument for argument in operation.arguments if not argument.endswith("...")]
    assert max(read) <= 8 + len(named) + any(argument.endswith("...") for argument in operation.arguments)


@pytest.mark.parametrize("name", names())
def test_every_operation_runs_on_declared_keys_alone(name: str, servers: Servers) -> None:
    text = script(name).text
    assert "KEYS[" not in text.replace("KEYS[i]", "")
    assert not re.findall(r"call\('[A-Z]+', '", text.replace("call('TIME')", ""))
    with servers["valkey"].client() as client:
        assert client.script_load(text) == script(name).sha


def test_a_file_that_takes_other_keys_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts, "KEYS", (*KEYS, "more"))
    with pytest.raises(ValueError, match="other KEYS"):
        script.__wrapped__("acquire")


def test_a_file_without_a_header_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts, "_read", lambda name: "return 1")
    with pytest.raises(ValueError, match="begin with"):
        script.__wrapped__("acquire")


def test_the_readme_lists_every_key() -> None:
    readme = (ROOT / "pika_balancer/store/redis/README.md").read_text()
    assert re.findall(r"^\| `(\w+)` \| (?:hash|sorted set) \|", readme, re.MULTILINE) == list(KEYS)


def test_the_lua_lies_in_the_package_and_the_build_leaves_nothing_of_it_out() -> None:
    inside = {path.name for path in (ROOT / "pika_balancer").rglob("*.lua")}
    assert inside > {f"{name}.lua" for name in names()}
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"] == {"packages": ["pika_balancer"]}
    assert build.keys() == {"targets"}
    assert "lua" not in (ROOT / ".gitignore").read_text()


@pytest.mark.deep
@pytest.mark.skipif(sized(short=True, deep=False), reason="makes a wheel; `--deep` does")
def test_the_lua_is_in_the_wheel(tmp_path: Path) -> None:
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = {Path(name).name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".lua")}
    assert inside == {path.name for path in (ROOT / "pika_balancer").rglob("*.lua")}


def test_without_the_extra_the_message_names_it() -> None:
    code = (
        "import sys\n"
        "for name in ('redis', 'valkey'): sys.modules[name] = None\n"
        "from pika_balancer.store.redis.store import RedisStore\n"
        "RedisStore('redis://127.0.0.1')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'pika-balancer[redis]'" in done.stderr
