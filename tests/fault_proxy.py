"""A TCP proxy between a real client and a real server that loses, delays and cuts connections on purpose."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncGenerator
from typing import Final, Self
from urllib.parse import urlsplit

from pika_balancer._util.tasks import shielded
from pika_balancer.clock import Clock, SystemClock
from tests.connection_faults import (
    BlackHole,
    Cut,
    Delay,
    Direction,
    Drip,
    Drop,
    Fault,
    HalfClose,
    Injection,
    Reorder,
    Reset,
    Stall,
)

_CHUNK: Final = 65_536


class FaultProxy:
    """Listen on a free port of this machine and pass bytes on, except for the injected faults.

    `async with FaultProxy("127.0.0.1", 6379) as proxy: ...`, or `FaultProxy.before(url)`. No socket and no
    task is left after the block.

    Args:
        host: The server's host.
        port: The server's port.
        tls: Certificate with which the proxy speaks TLS to clients; None for plain TCP.
        clock: Measures `Delay` and `Drip`.

    Attributes:
        clock: Measures `Delay` and `Drip`.
        host: Host of the proxy.
        port: Port of the proxy; the same after an outage.
        accepted: Connections so far.
        requests: Requests so far; bytes that arrive before the reply to earlier ones belong to the same
            request.
        request_bytes: Bytes from clients.
        reply_bytes: Bytes from the server.
    """

    def __init__(
        self, host: str, port: int, *, tls: ssl.SSLContext | None = None, clock: Clock | None = None
    ) -> None:
        self._target = (host, port)
        self._tls = tls
        self._url = urlsplit(f"tcp://{host}:{port}")
        self.clock = clock or SystemClock()
        self._injections: list[Injection] = []
        self._connections: dict[int, _Connection] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.host = "127.0.0.1"
        self.port = 0
        self.accepted = 0
        self.requests = 0
        self.request_bytes = 0
        self.reply_bytes = 0

    @classmethod
    def before(cls, url: str, *, clock: Clock | None = None) -> Self:
        """Return a proxy for the server of that URL, of any scheme.

        Raises:
            ValueError: The URL names no host or no port.
        """
        parts = urlsplit(url)
        if not parts.hostname or not parts.port:
            raise ValueError("a URL with a host and a port is needed, such as http://127.0.0.1:8080")
        proxy = cls(parts.hostname, parts.port, clock=clock)
        proxy._url = parts
        return proxy

    @property
    def url(self) -> str:
        """The server's URL with the proxy's host and port."""
        credentials, at, _ = self._url.netloc.rpartition("@")
        return self._url._replace(netloc=f"{credentials}{at}{self.host}:{self.port}").geturl()

    @property
    def open(self) -> int:
        """Number of open connections."""
        return len(self._connections)

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.refuse()
        for connection in self._connections.values():
            connection.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def inject(
        self,
        fault: Fault,
        *,
        connection: int | None = None,
        matching: bytes = b"",
        times: int | None = None,
    ) -> Injection:
        """Put a fault in, for connections that exist as for new ones, and return what withdraws it.

        Of several that fit, the one that was put in first strikes.

        Args:
            fault: What shall go wrong.
            connection: Only with the connection of this number, counted from 0.
            matching: Only from a piece on that holds these bytes.
            times: So many requests, replies or connections at most; what has begun goes on.
        """
        injection = Injection(fault, connection=connection, matching=matching, times=times)
        self._injections.append(injection)
        return injection

    def heal(self) -> None:
        """Withdraw all faults; what they hold back goes on."""
        for injection in self._injections:
            injection.withdraw()
        self._injections.clear()

    def cut(self, connection: int | None = None, *, reset: bool = False) -> None:
        """Break the connection of that number, or all of them, now."""
        for number, broken in list(self._connections.items()):
            if connection in (None, number):
                broken.cut(reset=reset)

    def refuse(self) -> None:
        """Refuse new connections until `listen`; open ones stay."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    async def listen(self) -> None:
        """Accept connections; does nothing if it already does."""
        if self._server is None:
            # Stored before it serves: a cancellation in between would leave it open.
            self._server = await asyncio.start_server(
                self._accept, self.host, self.port, ssl=self._tls, reuse_address=True, start_serving=False
            )
            self.port = self._server.sockets[0].getsockname()[1]
            await self._server.start_serving()

    @contextlib.asynccontextmanager
    async def outage(self, *, reset: bool = False) -> AsyncGenerator[None]:
        """Break all connections, and refuse new ones until the block ends."""
        self.refuse()
        self.cut(reset=reset)
        try:
            yield
        finally:
            await shielded(self.listen())

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.accepted = self.accepted, self.accepted + 1
        connection = self._connections[number] = _Connection(self, number, reader, writer)
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: "_Connection") -> None:
        try:
            await self._pass_on(connection)
        except (OSError, EOFError):
            pass  # either side hung up, as it may
        finally:
            del self._connections[connection.number]
            await connection.close()

    async def _pass_on(self, connection: "_Connection") -> None:
        injection = self.find(connection.number, None)
        match injection and injection.fault:
            case Reset():
                connection.cut(reset=True)
                return
            case BlackHole():
                while data := await connection.client_reader.read(_CHUNK):
                    self.note(connection, "requests", data)
                return
            case Reorder(count):
                assert injection is not None
                await injection.turn(count)
                try:
                    await connection.connect(*self._target)
                finally:
                    injection.let_in()
            case _:
                await connection.connect(*self._target)
        await connection.carry()

    def find(self, connection: int, direction: Direction | None, data: bytes = b"") -> Injection | None:
        """Return the fault that applies to a connection, or to bytes on it."""
        return next((one for one in self._injections if one.strikes(connection, direction, data)), None)

    def note(self, connection: "_Connection", direction: Direction, data: bytes) -> bool:
        """Count bytes, and return whether they begin a new request or reply."""
        begins = connection.speaks != direction
        connection.speaks = direction
        if direction == "requests":
            self.request_bytes += len(data)
            self.requests += begins
        else:
            self.reply_bytes += len(data)
        return begins


class _Connection:
    """A client's connection and its connection to the server."""

    def __init__(
        self, proxy: FaultProxy, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.number = number
        self.client_reader = reader
        self.speaks: Direction | None = None
        self._proxy = proxy
        self._suffers: dict[Direction, Injection] = {}
        self._writers = [writer]
        self._server_reader: asyncio.StreamReader
        self._cut = asyncio.Event()

    async def connect(self, host: str, port: int) -> None:
        self._server_reader, writer = await asyncio.open_connection(host, port)
        self._writers.append(writer)

    def cut(self, *, reset: bool) -> None:
        for writer in self._writers:
            if reset:
                sock: socket.socket = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()
        self._cut.set()

    async def _until_cut(self) -> None:
        await self._cut.wait()

    def abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
        for writer in self._writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def carry(self) -> None:
        """Pass bytes on, both ways, until both have ended or the connection is cut."""
        client, server = self._writers
        loop = asyncio.get_running_loop()
        pumps = {
            loop.create_task(self._pump(self.client_reader, server, "requests")),
            loop.create_task(self._pump(self._server_reader, client, "replies")),
        }
        cut = loop.create_task(self._until_cut())
        try:
            while pumps and not cut.done():
                ended, _ = await asyncio.wait({*pumps, cut}, return_when=asyncio.FIRST_COMPLETED)
                pumps -= ended
                if any([not task.cancelled() and task.exception() is not None for task in ended]):  # noqa: C419 - every exception has to be retrieved
                    return
        finally:
            for task in (*pumps, cut):
                task.cancel()
            await asyncio.gather(*pumps, cut, return_exceptions=True)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: Direction
    ) -> None:
        while data := await source.read(_CHUNK):
            begins = self._proxy.note(self, direction, data)
            before = self._suffers.get(direction)
            injection = before
            if injection is None or injection.withdrawn.is_set() or (begins and not injection.goes_on):
                injection = self._proxy.find(self.number, direction, data)
            if injection is None:
                self._suffers.pop(direction, None)
                await _send(sink, data)
                continue
            self._suffers[direction] = injection
            if not await self._suffer(injection, sink, data, begins=begins or injection is not before):
                while await source.read(_CHUNK):  # discard the rest, so that the sender notices nothing
                    pass
                return
        if sink.can_write_eof():
            sink.write_eof()

    async def _suffer(
        self, injection: Injection, sink: asyncio.StreamWriter, data: bytes, *, begins: bool
    ) -> bool:
        """Send what the fault lets through; return whether the direction stays open."""
        match injection.fault:
            case Drop():
                return True
            case Delay(seconds) if begins:
                await injection.pause(seconds, self._proxy.clock)
            case Drip(seconds):
                for byte in data:
                    await _send(sink, bytes([byte]))
                    await injection.pause(seconds, self._proxy.clock)
                return True
            case Cut(after) | HalfClose(after) | Stall(after):
                head, over = injection.share(self.number, data, after)
                await _send(sink, head)
                data = data[len(head) :]
                if over and not await self._stop(injection, sink):
                    return False
            case _:
                pass  # the rest of a delayed request or reply, or a fault of new connections
        await _send(sink, data)
        return True

    async def _stop(self, injection: Injection, sink: asyncio.StreamWriter) -> bool:
        """Stop the direction as the fault says; return whether it stays open."""
        match injection.fault:
            case Cut(reset=reset):
                self.cut(reset=reset)
            case HalfClose():
                sink.write_eof()
            case _:
                await injection.withdrawn.wait()
                return True
        return False


async def _send(sink: asyncio.StreamWriter, data: bytes) -> None:
    sink.write(data)
    await sink.drain()
