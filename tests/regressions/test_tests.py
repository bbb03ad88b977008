"""Regressions of tests themselves."""

import ast
import tomllib
from pathlib import Path

import aiohttp
import pytest
from aioresponses import aioresponses

from pika_balancer import ConnectionLost, PikaClient
from tests.raw_server import Connection, RawServer, reply

PROJECT = Path(__file__).parents[2]


async def test_the_mock_works_with_the_aiohttp_that_is_installed(mocked: aioresponses) -> None:
    mocked.get("http://pika.test/jobs", payload=["job:1"])
    async with PikaClient("token", base_url="http://pika.test") as client:
        assert await client.jobs() == ["job:1"]
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    (floor,) = (need for need in project["dependencies"] if need.startswith("aiohttp"))
    assert floor.startswith("aiohttp>=3.14")
    assert "<" not in floor


async def test_a_mock_does_not_show_what_a_socket_does(mocked: aioresponses) -> None:
    """An answer shorter than its Content-Length passes in a mock and breaks a real connection."""
    promised = {"Content-Length": "1000"}
    mocked.get("http://pika.test/jobs", body=b"[]", headers=promised)
    async with PikaClient("token", base_url="http://pika.test") as client:
        assert await client.jobs() == []

    async def half(connection: Connection) -> None:
        await connection.request()
        await connection.send(reply(200, b"[]", headers=promised))

    mocked.stop()
    async with (
        RawServer(half) as server,
        PikaClient("token", base_url=server.url, retries=0) as client,
    ):
        with pytest.raises(ConnectionLost):
            await client.jobs()
        assert aiohttp.__version__ >= "3.14"


def _asserts_when_raised(tree: ast.AST) -> list[int]:
    """Return the lines of `try` blocks that check an error only if one is raised."""
    return [
        block.lineno
        for block in ast.walk(tree)
        if isinstance(block, ast.Try)
        and any(isinstance(node, ast.Assert) for handler in block.handlers for node in ast.walk(handler))
        and not block.orelse
        and not any(isinstance(node, ast.Raise) for node in ast.walk(block))
    ]


def test_an_assert_inside_except_passes_when_nothing_is_raised() -> None:
    naive = "try:\n    call()\nexcept ValueError as error:\n    assert error.args\n"
    assert _asserts_when_raised(ast.parse(naive)) == [1]
    found = {
        str(path.relative_to(PROJECT)): lines
        for path in sorted((PROJECT / "tests").rglob("*.py"))
        if "except" in (text := path.read_text()) and (lines := _asserts_when_raised(ast.parse(text)))
    }
    assert found == {}
