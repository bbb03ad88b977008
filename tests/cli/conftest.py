"""A service in a thread, the command line in this process, and the command line in processes of its own."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import attrs
import pytest

from pika_balancer import Job, PikaClient
from pika_balancer.cli import main
from pika_balancer.clock import SystemClock
from pika_balancer.server import LocalServer, parse_accounts
from pika_balancer.testing import ManualClock

T = TypeVar("T")

CANARY = "user:1234-canary0canary0canary0"
DISCORD = "made-up-discord-token-"
ROOT = Path(__file__).parents[2]
FIRST, SECOND, THIRD = (account.channel for account in parse_accounts("1,1,1"))
PATIENCE = 60.0
"""Seconds after which a test that hangs is ended; no test waits so long for what comes."""
LIMITS = {
    "drain of the demo": "pika_balancer.cli.workers._DRAIN",
    "drain of a batch": "pika_balancer.cli.submit_batch._DRAIN",
    "wait for a slot": "pika_balancer.cli.job_batch._SLOT_TIMEOUT",
    "tries of a submit": "pika_balancer.dispatch.submitter._TRIES",
    "size of a result": "pika_balancer.cli.download._LARGEST",
    "silence of a download": "pika_balancer.cli.download._SILENCE",
}
"""What the commands limit by constants: tests that reach a limit make it smaller."""


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
    """A local server that runs in a thread of its own until the test is over.

    With a `ManualClock` as `clock`, time of the service passes by `advance()` alone.
    """

    def __init__(self, accounts: str = "2,1", **settings: Any) -> None:
        self.clock = settings.get("clock")
        defaults: dict[str, Any] = {"token": CANARY, "service": "fixed:0.1s", "rng": random.Random(1)}
        self.server = LocalServer(parse_accounts(accounts), **(defaults | settings))
        self.url = ""
        self._ready = threading.Event()
        self._stop: Callable[[], object] | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        stop = asyncio.Event()
        self._loop = loop = asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(stop.set)
        async with self.server.run() as self.url:
            self._ready.set()
            await stop.wait()

    def start(self) -> "Service":
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def stop(self) -> None:
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()
            self._thread.join(PATIENCE)

    def advance(self, seconds: float) -> None:
        """Let so much time of the service pass."""
        assert isinstance(self.clock, ManualClock)
        asyncio.run_coroutine_threadsafe(self.clock.advance(seconds), self._loop).result(PATIENCE)

    def ask(self, work: Callable[[PikaClient], Coroutine[Any, Any, T]]) -> T:
        """Return what a client of the service is told."""

        async def asking() -> T:
            async with PikaClient(CANARY, base_url=self.url) as client:
                return await work(client)

        return asyncio.run(asking())

    def submit(self, prompt: str, channel: str | None = None) -> str:
        """Submit a job and return its id."""
        return self.ask(lambda client: client.create(prompt, channel=channel)).jobid

    def delete_account(self, channel: str) -> None:
        self.ask(lambda client: client.delete_account(channel))

    def jobs(self, jobids: Iterable[str]) -> list[Job]:
        """Return the jobs with these ids, which must be all that the service has accepted."""
        ids = list(dict.fromkeys(jobids))

        async def each(client: PikaClient) -> list[Job]:
            return [await client.job(jobid) for jobid in ids]

        assert self.server.statistics().jobs == len(ids)
        return self.ask(each)

    def prompts(self, jobids: Iterable[str]) -> Counter[str | None]:
        """Return how often each prompt was accepted, by the ids of all jobs that were."""
        return Counter(job.prompt for job in self.jobs(jobids))


class Run(Protocol):
    def __call__(self, *argv: str) -> Ran: ...


class Serve(Protocol):
    def __call__(self, accounts: str = "2,1", **settings: Any) -> Service: ...


class Spawn(Protocol):
    def __call__(self, *argv: str, **options: Any) -> subprocess.Popen[str]: ...


class Limit(Protocol):
    def __call__(self, name: str, value: float) -> None: ...


@contextlib.contextmanager
def terminal_signals() -> Generator[None]:
    """Have SIGINT and SIGTERM handled, here and in children, as when a terminal started the tests."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGTERM: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def default_signals() -> Generator[None]:
    """Handle signals as when a terminal started the tests."""
    with terminal_signals():
        yield


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
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    """Change one of the `LIMITS` for the test."""

    def change(name: str, value: float) -> None:
        monkeypatch.setattr(LIMITS[name], value)

    return change


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


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    """Return as soon as the condition holds; fail if the process ends before, or after a minute."""
    clock = SystemClock()
    deadline = clock.now() + PATIENCE
    while not condition():
        assert process is None or process.poll() is None or condition(), "the process has ended"
        assert clock.now() < deadline, "it took too long"
        time.sleep(0.005)


@contextlib.contextmanager
def beside(work: Callable[[], object]) -> Generator[None]:
    """Do `work` in another thread meanwhile, and fail if it fails."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        yield
        done.result(PATIENCE)


def states(journal: Path) -> dict[str, str]:
    """Return the last state of each job in the journal; its last line may be half written."""
    text = journal.read_text() if journal.exists() else ""
    rows: list[dict[str, Any]] = [
        json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"
    ]
    return {row["job"]: row["state"] for row in rows if "job" in row}


def in_doubt(journal: Path) -> set[str]:
    """Return the jobs of which the journal does not know whether the service has them."""
    return {job for job, state in states(journal).items() if state == "sending"}


class Passing:
    """Lets time of the service pass while a run goes on, from when what was in doubt before is found.

    A job that is in doubt can be found as long as it runs, and not later.
    """

    def __init__(self, service: Service, journal: Path) -> None:
        self.service = service
        self.journal = journal
        self.doubtful = in_doubt(journal)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.over.wait(0.01):
            if not self.doubtful & in_doubt(self.journal):
                self.service.advance(5)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join(PATIENCE)
