"""The local server in a process of its own, so that it and its load share no event loop.

Settings go in as one line of JSON on its stdin, its address comes out as one on its stdout. Each further line
in asks for its statistics. The end of its stdin ends it: it never outlives whoever started it.
"""

import asyncio
import contextlib
import json
import random
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import attrs

from pika_balancer.closing import see_through
from pika_balancer.errors import PikaError
from pika_balancer.models import Secret
from pika_balancer.server import LocalServer

_ENDS_WITHIN: Final = 10.0


@attrs.frozen(kw_only=True)
class Settings:
    """What the server is to be."""

    accounts: Mapping[str, int]
    """Caps by channel id."""
    service: str
    """Law of service times."""
    faults: Sequence[str] = ()
    """Scripted faults."""
    seed: str
    """Fixes its chance."""
    token: Secret
    """The API token to insist on."""


class Server:
    """The handle of a server that runs in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._owed = 0

    url: str
    """Its base URL."""

    async def ask(self, line: str) -> Any:
        """Write it a line and return what it answers.

        Raises:
            PikaError: It has ended.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # noqa: S101 - both were asked for
        assert stdout is not None  # noqa: S101 - the same
        self._owed += 1
        with contextlib.suppress(ConnectionError):
            stdin.write(f"{line}\n".encode())
            await stdin.drain()
        answer = b""
        # Whoever was cancelled has left an answer behind.
        while self._owed:
            answer = await stdout.readline()
            if not answer:
                raise PikaError("the local server has ended unexpectedly; what it said is above")
            self._owed -= 1
        return json.loads(answer)

    async def statistics(self) -> dict[str, Any]:
        """Return what it has seen until now, the fields of `pika_balancer.server.Statistics`."""
        statistics: dict[str, Any] = await self.ask("statistics")
        return statistics


@contextlib.asynccontextmanager
async def server_apart(settings: Settings) -> AsyncGenerator[Server]:
    """Run the local server in a process of its own while the context lasts.

    Raises:
        PikaError: It could not start.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,
        # In a session of its own, where a Ctrl-C that is meant for the load does not reach it.
        start_new_session=True,
    )
    try:
        server = Server(process)
        server.url = await server.ask(json.dumps(_wire(settings)))
        yield server
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(_ENDS_WITHIN):
                await process.wait()
        except (TimeoutError, asyncio.CancelledError) as late:
            with contextlib.suppress(ProcessLookupError):  # it may have ended in this very tick
                process.kill()
            await see_through(process.wait())
            if not isinstance(late, TimeoutError):
                raise


async def serve(
    settings: Mapping[str, Any], asked: Callable[[], Awaitable[str]], tell: Callable[[str], object]
) -> None:
    """Run the server, tell its address, and tell its statistics for each line asked, until an empty one."""
    server = LocalServer(
        settings["accounts"],
        token=settings["token"],
        service=settings["service"],
        faults=settings["faults"],
        rng=random.Random(settings["seed"]),  # noqa: S311 - service times, not cryptography
    )
    async with server.run() as url:
        tell(json.dumps(url))
        while await asked():
            tell(json.dumps(attrs.asdict(server.statistics())))


def _wire(settings: Settings) -> dict[str, Any]:
    return {
        "accounts": dict(settings.accounts),
        "service": settings.service,
        "faults": list(settings.faults),
        "seed": settings.seed,
        "token": settings.token.reveal(),
    }


def main() -> None:
    """Run the server of this process."""

    async def asked() -> str:
        return await asyncio.to_thread(sys.stdin.readline)

    def tell(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    line = sys.stdin.readline()
    if line:
        asyncio.run(serve(json.loads(line), asked, tell))


if __name__ == "__main__":
    main()
