"""The local server in a process of its own, so that it and its load share no event loop.

Settings go in as one line of JSON on its stdin, its address comes out as one on its stdout. Each further line
in asks for its statistics, and the end of its stdin ends it.
"""

import asyncio
import contextlib
import json
import random
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import attrs

from pika_balancer._util.child_process import Apart
from pika_balancer.errors import PikaError
from pika_balancer.models import Secret
from pika_balancer.server import LocalServer


@attrs.frozen(kw_only=True)
class ServerSettings:
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

    def __init__(self, apart: Apart) -> None:
        self._apart = apart
        self._owed = 0

    url: str
    """Its base URL."""

    async def ask(self, line: str) -> Any:
        """Write it a line and return what it answers.

        Raises:
            PikaError: It has ended.
        """
        self._owed += 1
        with contextlib.suppress(ConnectionError):
            self._apart.stdin.write(f"{line}\n".encode())
            await self._apart.stdin.drain()
        answer = b""
        # Whoever was cancelled has left an answer behind.
        while self._owed:
            answer = await self._apart.stdout.readline()
            if not answer:
                raise PikaError("the local server has ended unexpectedly; what it said is above")
            self._owed -= 1
        return json.loads(answer)

    async def statistics(self) -> dict[str, Any]:
        """Return what it has seen until now, the fields of `pika_balancer.server.Statistics`."""
        statistics: dict[str, Any] = await self.ask("statistics")
        return statistics


@contextlib.asynccontextmanager
async def server_apart(settings: ServerSettings) -> AsyncGenerator[Server]:
    """Run the local server in a process of its own while the context lasts.

    Raises:
        PikaError: It could not start.
    """
    apart = await Apart.start(__name__, longest_line=2**24)
    try:
        server = Server(apart)
        server.url = await server.ask(json.dumps(_wire(settings)))
        yield server
    finally:
        await apart.end()


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


def _wire(settings: ServerSettings) -> dict[str, Any]:
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
