"""The local server as a child process, so that it and its load share no event loop.

The settings are one line of JSON on its stdin, its address is one line on its stdout. Each further line on
stdin is answered with its statistics; the end of stdin ends it.
"""

import asyncio
import contextlib
import json
import random
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Self

import attrs

from pika_balancer._util.child_process import Apart
from pika_balancer.errors import PikaError
from pika_balancer.models import Secret
from pika_balancer.server import LocalServer


@attrs.frozen(kw_only=True)
class ServerSettings:
    """Settings of the server."""

    accounts: Mapping[str, int]
    """Caps by channel id."""
    service: str
    """Distribution of service times."""
    faults: Sequence[str] = ()
    """Scripted faults."""
    seed: str
    """Seed of service times and balancing."""
    token: Secret
    """The API token to require."""


class ServerProcess:
    """A server in a child process, at the base URL `url`."""

    def __init__(self, process: Apart) -> None:
        self._process = process
        self._unread = 0
        self.url = ""

    @classmethod
    @contextlib.asynccontextmanager
    async def run(cls, settings: ServerSettings) -> AsyncGenerator[Self]:
        """Run a server while the context lasts.

        Raises:
            PikaError: It could not start.
        """
        process = await Apart.start(__name__, longest_line=2**24)
        try:
            server = cls(process)
            server.url = await server.ask(
                json.dumps(attrs.asdict(settings) | {"token": settings.token.reveal()})
            )
            yield server
        finally:
            await process.end()

    async def ask(self, line: str) -> Any:
        """Send a line and return the answer.

        Raises:
            PikaError: The process has ended.
        """
        self._unread += 1
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(f"{line}\n".encode())
            await self._process.stdin.drain()
        answer = b""
        # Earlier calls that were cancelled have left their answers unread.
        while self._unread:
            answer = await self._process.stdout.readline()
            if not answer:
                raise PikaError("the local server has ended unexpectedly; its output is above")
            self._unread -= 1
        return json.loads(answer)

    async def statistics(self) -> dict[str, Any]:
        """Return its statistics so far, the fields of `pika_balancer.server.ServerStatistics`."""
        statistics: dict[str, Any] = await self.ask("statistics")
        return statistics


async def serve(
    settings: Mapping[str, Any], asked: Callable[[], Awaitable[str]], tell: Callable[[str], object]
) -> None:
    """Run the server: tell its address, then its statistics for each line asked, until an empty one."""
    options = dict(settings)
    rng = random.Random(options.pop("seed"))  # noqa: S311 - service times, not cryptography
    server = LocalServer(**options, rng=rng)
    async with server.run() as url:
        tell(json.dumps(url))
        while await asked():
            tell(json.dumps(attrs.asdict(server.statistics())))


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
