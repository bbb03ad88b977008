"""A loopback server that sends given bytes: tests can stall, cut and break answers on a real socket."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import attrs

Script = Callable[["Connection"], Awaitable[None]]


@attrs.frozen
class Received:
    """One request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes = attrs.field(repr=False)
    connection: int
    """Number of the connection that brought it, from 0."""


class Connection:
    """The server's end of one connection, for a script."""

    def __init__(
        self, server: "RawServer", number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server = server
        self.number = number
        self._reader = reader
        self._writer = writer

    async def request(self, *, body: bool = True) -> Received:
        """Read a request and record it; without `body` only its head. Raises if the connection ends."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        start, *lines = head.strip().split("\r\n")
        method, target, _ = start.split(" ")
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        length = int(headers.get("content-length", "0")) if body else 0
        content = await self._reader.readexactly(length)
        received = Received(method, target, headers, content, self.number)
        self.server.requests.append(received)
        return received

    async def rest_of(self, received: Received | None) -> None:
        """Read the rest of a request of which only the head was read."""
        if received is None:
            await self.request()
        else:
            length = int(received.headers.get("content-length", "0"))
            await self._reader.readexactly(length - len(received.body))

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()

    async def drip(self, data: bytes) -> None:
        """Send the bytes one by one, repeatedly, as long as the client reads."""
        while True:
            for byte in data:
                await self.send(bytes([byte]))
                await asyncio.sleep(0.001)

    async def gone(self) -> None:
        """Stall: wait until the client hangs up, reading nothing into account."""
        while await self._reader.read(65_536):
            pass

    async def silence(self) -> None:
        """Stall without even reading, until the server is stopped."""
        await self.server.stopped.wait()

    def reset(self) -> None:
        """Cut the connection with a reset instead of a proper end."""
        sock: socket.socket = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


class RawServer:
    """Runs `script` for every connection, on a free port, and counts what arrives."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.requests: list[Received] = []
        self.accepted = 0
        self.open = 0
        self.stopped = asyncio.Event()
        self.failures: list[BaseException] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where the server listens."""
        host, port = self._server.sockets[0].getsockname()
        return f"http://{host}:{port}"

    @property
    def methods(self) -> list[str]:
        """The methods of the requests received, in order."""
        return [request.method for request in self.requests]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks)
        if error is None and self.failures:
            raise self.failures[0]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.accepted = self.accepted, self.accepted + 1
        self.open += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._script(Connection(self, number, reader, writer))
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the client hung up or the server was stopped, as they may
        except Exception as failure:  # noqa: BLE001 - an error of the script must reach the test
            self.failures.append(failure)
        finally:
            self.open -= 1
            writer.close()


def reply(
    status: int = 200,
    body: bytes = b"{}",
    *,
    length: int | None = None,
    headers: dict[str, str] | None = None,
) -> bytes:
    """Return a whole response; `length` states another length than the body's."""
    fields = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body) if length is None else length),
    }
    lines = [f"{name}: {value}" for name, value in (fields | (headers or {})).items()]
    return "\r\n".join([f"HTTP/1.1 {status} Whatever", *lines, "", ""]).encode() + body
