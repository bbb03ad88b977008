"""The local server of a soak, in a process of its own: sped up, every fault switched on, every job noted."""

import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, cast

import attrs

from pika_balancer.clock import SystemClock, Timer
from pika_balancer.server import FAULTS, LocalServer

CAPS = {str(100_000_000_000_000_001 + place): cap for place, cap in enumerate((1, 3, 5, 8, 10))}
"""Accounts of the soak: channel to cap."""

FAULT_SCRIPT = (
    "429:0.03:15s",
    "402:0.003",
    "422:0.02",
    "500:0.006",
    "500-but-accepted:0.012",
    "502:0.004",
    "503:0.004",
    "504:0.006",
    "596:0.004",
    "slow:0.02:10s",
    "slow:0.003:600s",
    "drop:0.006",
    "drop-accepted:0.012",
    "html:0.004",
    "fail:0.03",
    "moderated:0.02",
    "cancel:0.02",
)
"""Every fault that the server knows, one of them twice: late, and later than the client waits."""

assert {line.split(":")[0] for line in FAULT_SCRIPT} == set(FAULTS)


RETAINED: Final = 2000
"""How many jobs that are over the server knows: those of an hour of service time and more."""


class ScaledClock:
    """Service time: the machine's, so many times as fast."""

    def __init__(self, speed: float) -> None:
        self._system = SystemClock()
        self._origin = time.monotonic()
        self.speed = speed

    def now(self) -> float:
        """Return the seconds of service time since the clock was made."""
        return (time.monotonic() - self._origin) * self.speed

    async def sleep(self, seconds: float) -> None:
        """Sleep so many seconds of service time."""
        await self._system.sleep(seconds / self.speed)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Arrange a call in so many seconds of service time."""
        return self._system.call_later(seconds / self.speed, callback)


@contextlib.asynccontextmanager
async def server_process(*, speed: float, seed: int) -> AsyncGenerator["ServerProcess"]:
    """Run the server in a process of its own, and yield the way to it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.soak.server", str(speed), str(seed)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**27,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        url = json.loads(await process.stdout.readline())
        yield ServerProcess(url, process.pid, process.stdin, process.stdout)
    finally:
        process.stdin.close()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await process.stdin.wait_closed()
        await process.wait()


@attrs.frozen
class ServerProcess:
    """A server that runs elsewhere."""

    url: str
    """Where the API is."""
    process: int
    """The process that runs it."""
    _asks: asyncio.StreamWriter
    _answers: asyncio.StreamReader

    async def report(self) -> dict[str, Any]:
        """Return the server's statistics, and `[replyRef, jobid, outcome]` of each job that is news."""
        self._asks.write(b"report\n")
        await self._asks.drain()
        return cast("dict[str, Any]", json.loads(await self._answers.readline()))


async def serve(speed: float, seed: int) -> None:
    """Serve until the input ends; answer every line of it with a report."""
    server = LocalServer(
        CAPS,
        # Whole service time from a faster clock, so that what the server asks for in seconds is right, too.
        clock=ScaledClock(speed),
        service="exp:90s",
        notice=30.0,
        faults=FAULT_SCRIPT,
        rng=random.Random(seed),
        retain=RETAINED,
    )
    taken: list[tuple[str | None, str, str]] = []
    accept = server._jobs.accept

    def noted(**facts: Any) -> Any:
        job = accept(**facts)
        taken.append((job.reply_ref, job.jobid, job.outcome))
        return job

    server._jobs.accept = noted  # type: ignore[method-assign]
    async with server.run() as url:
        _say(url)
        while await asyncio.to_thread(sys.stdin.readline):
            statistics = attrs.asdict(server.statistics())
            _say({"statistics": statistics, "jobs": taken})
            taken.clear()


def _say(document: Any) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1]), int(sys.argv[2])))
