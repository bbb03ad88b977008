"""A server that answers each command by a function of the test: what no real one does on demand."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import attrs

from pika_balancer.testing import settle

Command = tuple[str, ...]


@attrs.define
class FakeServer:
    """What has been said to it."""

    port: int = 0
    commands: list[Command] = attrs.Factory(list[Command])
    first_bytes: list[bytes] = attrs.Factory(list[bytes])
    """The beginning of each connection."""


@asynccontextmanager
async def fake_server(answer: Callable[[Command], bytes]) -> AsyncGenerator[FakeServer]:
    """Serve for the length of the block; `answer` has the command, its name in capitals."""
    fake = FakeServer()
    writers: set[asyncio.StreamWriter] = set()

    async def command(reader: asyncio.StreamReader) -> Command:
        count = int(await reader.readline())
        words: list[str] = []
        for _ in range(count):
            size = int((await reader.readline())[1:])
            words.append((await reader.readexactly(size + 2))[:-2].decode())
        return words[0].upper(), *words[1:]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        try:
            first = await reader.read(1)
            fake.first_bytes.append(first)
            while first == b"*":
                said = await command(reader)
                fake.commands.append(said)
                writer.write(answer(said))
                first = await reader.read(1)
        except (OSError, EOFError):
            pass
        finally:
            writers.discard(writer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    fake.port = server.sockets[0].getsockname()[1]
    try:
        yield fake
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await settle()
