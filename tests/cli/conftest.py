"""A service in a thread, the command line in this process, and the command line in processes of its own."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Protocol

import attrs
import pytest

from pika_balancer.cli import main
from pika_balancer.server import LocalServer, parse_accounts

CANARY = "user:1234-canary0canary0canary0"
DISCORD = "made-up-discord-token-"
ROOT = Path(__file__).parents[2]
FIRST, SECOND, THIRD = (account.channel for account in parse_accounts("1,1,1"))


@attrs.frozen
class Ran:
    """What a command line left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """What the JSON document says went wrong."""
        return self.document["error"]


class Service:
    """A local server that runs in a thread of its own until the test is over."""

    def __init__(self, accounts: str = "2,1", **settings: Any) -> None:
        defaults: dict[str, Any] = {"token": CANARY, "service": "fixed:0.1s", "rng": random.Random(1)}
        self.server = LocalServer(parse_accounts(accounts), **(defaults | settings))
        self.url = ""
        self._ready = threading.Event()
        self._stop: Callable[[], object] | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(stop.set)
        async with self.server.run() as self.url:
            self._ready.set()
            await stop.wait()

    def start(self) -> "Service":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def stop(self) -> None:
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()
            self._thread.join(10)


class Run(Protocol):
    def __call__(self, *argv: str) -> Ran: ...


class Serve(Protocol):
    def __call__(self, accounts: str = "2,1", **settings: Any) -> Service: ...


class Spawn(Protocol):
    def __call__(self, *argv: str, **options: Any) -> subprocess.Popen[str]: ...


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "USEAPI_TOKEN",
        "PIKA_BASE_URL",
        "PIKA_STORE_URL",
        "NO_COLOR",
        "FORCE_COLOR",
        "TTY_COMPATIBLE",
        "COLUMNS",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process; whatever it prints, no token may be in it."""

    def run(*argv: str) -> Ran:
        code = main(argv)
        out, err = capsys.readouterr()
        assert "canary0" not in out + err
        assert DISCORD not in out + err
        assert "Traceback" not in err
        assert not any(char < " " and char != "\n" for char in out + err)
        return Ran(code, out, err)

    return run


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Generator[Serve]:
    """Start a service, and name it and its token in the environment."""
    started: list[Service] = []

    def start(accounts: str = "2,1", **settings: Any) -> Service:
        service = Service(accounts, **settings).start()
        started.append(service)
        monkeypatch.setenv("USEAPI_TOKEN", CANARY)
        monkeypatch.setenv("PIKA_BASE_URL", service.url)
        return service

    yield start
    for service in started:
        service.stop()


@pytest.fixture
def spawn() -> Generator[Spawn]:
    """Start a command line in a process group of its own; what is left of it is killed in the end."""
    started: list[subprocess.Popen[str]] = []

    def start(*argv: str, **options: Any) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        process: subprocess.Popen[str]
        process = subprocess.Popen(
            [sys.executable, "-m", "pika_balancer", *argv],
            **(pipes | options),
            cwd=ROOT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if group_lives(process):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def group_lives(process: "subprocess.Popen[str]") -> bool:
    """Return whether the process or a child of it is still there."""
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def read_until(stream: Any, text: str) -> str:
    """Return the lines up to the first that holds `text`; fail at the end of the stream."""
    lines: list[str] = []
    for line in stream:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"{text!r} never came after {lines}")
