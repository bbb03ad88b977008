"""The Lua of the shared store: headers, includes, and that the package contains it."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pika_balancer.store.redis import scripts
from pika_balancer.store.redis.scripts import KEYS, names, script
from tests.redis_servers import Servers

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", names())
def test_every_operation_states_what_it_takes_and_includes_what_it_needs(name: str) -> None:
    operation = script(name)
    assert "-- include" not in operation.text
    # Its own arguments begin after the common ones.
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


def test_every_file_includes_what_it_calls_at_its_top() -> None:
    folder = ROOT / "pika_balancer/store/redis/lua"
    files = {path.name: path.read_text() for path in folder.glob("*.lua")}
    shared = set(re.findall(r"^local function (\w+)", "\n".join(files.values()), re.MULTILINE))
    for name, text in files.items():
        whole = scripts._expand(text, set())
        called = {function for function in shared if re.search(rf"\b{function}\(", text)}
        assert called <= set(re.findall(r"local function (\w+)", whole)), name
        assert "-- include" not in re.sub(r"\A(--.*\n)+", "", text), name


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


def test_the_lua_files_are_in_the_package_and_the_build_omits_none() -> None:
    inside = {path.name for path in (ROOT / "pika_balancer").rglob("*.lua")}
    assert inside > {f"{name}.lua" for name in names()}
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"] == {"packages": ["pika_balancer"]}
    assert build.keys() == {"targets"}
    assert "lua" not in (ROOT / ".gitignore").read_text()


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
