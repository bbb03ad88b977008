"""One HTTP exchange over aiohttp: sends a request at most once and returns a bounded answer, or an error.

`send` returns its errors: raised here they would carry aiohttp's frames, whose locals hold the tokens.
"""

import asyncio
import errno
import functools
import os
import random
import selectors
import ssl
import weakref
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp import tracing
from aiohttp.abc import AbstractStreamWriter
from aiohttp.connector import Connection
from aiohttp.http_exceptions import ContentEncodingError
from aiohttp.payload import Payload
from yarl import URL

from pika_balancer._util.text import printable
from pika_balancer.client.error_map import Answer
from pika_balancer.client.requests import Request, Upload
from pika_balancer.client.responses import find_jobid
from pika_balancer.clock import Clock, alarm
from pika_balancer.errors import (
    Closed,
    ConnectFailed,
    ConnectionLost,
    Fault,
    InvalidArgument,
    InvalidResponse,
    PikaError,
    RequestTimeout,
    TransportError,
    WrongLoop,
)
from pika_balancer.models import Secret

_CHUNK: Final = 65_536
_LARGEST: Final = 100 << 20
# Common servers close an idle connection after 5 s; a POST should rarely meet a closed one.
_KEEPALIVE: Final = 4.0

_NO_CONNECTION: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerFingerprintMismatch,
)


class Transport:
    """Sends requests to one base URL with one token, over its own session or the caller's."""

    def __init__(
        self,
        token: Secret,
        base_url: str,
        *,
        session: aiohttp.ClientSession | None,
        clock: Clock,
        rng: random.Random,
        max_body: int,
    ) -> None:
        self.closed = False
        self.base_url = base_url
        self._token = token
        self._session = session
        self._own = session is None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clock = clock
        self._rng = rng
        self._max_body = max_body

    @property
    def left_open(self) -> bool:
        """Whether it has an own session that is not closed."""
        return self._own and self._session is not None

    async def close(self) -> None:
        """Refuse further requests and close the own session; closing twice does nothing.

        Raises:
            WrongLoop: The own session belongs to another event loop; nothing has changed.
        """
        if self.left_open and self._loop is not asyncio.get_running_loop():
            raise WrongLoop("this client was used in another event loop; close it there")
        self.closed = True
        session, self._session = self._session, None
        if self._own and session is not None:
            await session.close()

    async def send(self, request: Request[Any], seconds: float) -> Answer | PikaError:
        """Return the answer, or an error, within `seconds` of the clock."""
        session = self._ready()
        if isinstance(session, PikaError):
            return session
        encoded = request.encode(f"{self._rng.getrandbits(128):032x}") if request.fields else None
        body = _Body(*encoded) if encoded else None
        received = _Received()
        window = asyncio.timeout(None)
        try:
            async with window, alarm(window, self._clock, seconds):
                await self._exchange(session, request, body, received)
        except Exception as error:  # noqa: BLE001 - aiohttp's errors have no common root
            if received.status and not received.success:
                # The status says what happened; the rest of the body would only have explained it.
                return Answer(received.status, received.headers, b"")
            # An unsent body is certain only after the own deadline, which ended the exchange, and only in the
            # own session: middleware of another one may have replaced the body.
            sent = body is None or body.started or not (self._own and window.expired())
            failure = self._explain(error, sent=sent)
            failure.status = received.status
            failure.channel = request.channel
            failure.jobid = request.jobid or find_jobid(bytes(received.body[:_CHUNK]), (self._token,))
            return failure
        return Answer(received.status or 0, received.headers, bytes(received.body))

    def _ready(self) -> aiohttp.ClientSession | PikaError:
        """Return the session; create it on first use, since that needs a running event loop."""
        if self.closed:
            return Closed("this client has been closed; make a new one")
        loop = asyncio.get_running_loop()
        if self._session is None:
            connector = _Connector(keepalive_timeout=_KEEPALIVE)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        if self._session.closed:
            return Closed("the session that was passed in has been closed; pass an open one")
        self._loop = self._loop or getattr(self._session, "_loop", loop)
        if self._loop is not loop:
            return WrongLoop("this client or its session belongs to another event loop; make one per loop")
        return self._session

    async def _exchange(
        self,
        session: aiohttp.ClientSession,
        request: Request[Any],
        body: "_Body | None",
        received: "_Received",
    ) -> None:
        response = await session.request(
            request.method,
            URL(self.base_url + request.path, encoded=True),
            data=body,
            headers={"Authorization": f"Bearer {self._token.reveal()}", "Accept": "application/json"},
            allow_redirects=False,
            raise_for_status=False,
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=True,
            read_bufsize=_CHUNK,
            # The argument replaces the session's middlewares.
            middlewares=(_send_once, *getattr(session, "_middlewares", ())),
        )
        try:
            received.start(response, self._max_body)
            async for chunk in response.content.iter_any():
                received.more(chunk, self._max_body)
        except BaseException:
            response.close()
            raise
        response.release()

    def _explain(self, error: Exception, *, sent: bool) -> PikaError:
        """Translate aiohttp's error without its text, which may quote URLs and headers."""
        if (problem := self._problem(error)) is not None:
            fault = Fault("$", problem)
            return InvalidResponse(f"the service's answer breaks the contract: {fault}", faults=(fault,))
        host = urlsplit(self.base_url).netloc
        if isinstance(error, _NO_CONNECTION):
            return ConnectFailed(f"no connection to {host}: {_reason(error)}", maybe_sent=False)
        if isinstance(error, TimeoutError):
            return RequestTimeout(f"no complete answer from {host} in time", maybe_sent=sent)
        if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | OSError):
            return ConnectionLost(f"the connection to {host} broke: {_reason(error)}")
        return TransportError(f"the request to {host} failed: {type(error).__name__}", maybe_sent=sent)

    def _problem(self, error: Exception) -> str | None:
        """Return how the answer breaks the contract; None if the connection failed."""
        if isinstance(error, _TooLargeError):
            return f"is larger than {self._max_body} bytes"
        if isinstance(error, aiohttp.ClientPayloadError) and _caused_by(error, ContentEncodingError):
            return "cannot be decompressed"
        if isinstance(error, aiohttp.ClientResponseError) and not isinstance(error, _NO_CONNECTION):
            return "is not valid HTTP, or has a compression that was not requested"
        return None


async def read_upload(name: str, value: bytes | Path, *, clock: Clock, seconds: float) -> Upload:
    """Return a file to send; a path is read in a thread.

    Raises:
        InvalidArgument: The file cannot be read or is empty; the field is `name`.
        RequestTimeout: Reading took longer than `seconds` of the clock.
    """
    if isinstance(value, bytes):
        return _upload(name, "blob", value)
    content: bytes | str | None = None
    try:
        async with asyncio.timeout(None) as window, alarm(window, clock, seconds):
            content = await asyncio.to_thread(_read, value)
    except TimeoutError:
        pass
    if content is None:
        raise RequestTimeout(f"{name} could not be read in time", maybe_sent=False)
    if isinstance(content, str):
        raise InvalidArgument(f"{name} cannot be read: {printable(content)}", field=name)
    return _upload(name, value.name, content)


def _upload(name: str, filename: str, content: bytes) -> Upload:
    if not content:
        raise InvalidArgument(f"{name} is empty", field=name)
    return Upload(filename, content)


def _read(path: Path) -> bytes | str:
    """Return the file's content, or why it cannot be read."""
    try:
        # A pipe or device could block the thread forever, and a huge file could fill the memory.
        if not path.is_file():
            return "not a file"
        if path.stat().st_size > _LARGEST:
            return f"larger than {_LARGEST >> 20} MiB"
        return path.read_bytes()
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or type(error).__name__)


class _Connector(aiohttp.TCPConnector):
    """Reuses a kept-alive connection only if nothing has arrived on it meanwhile, not even its end.

    Else a request could take stray bytes for its answer, or be lost with its fate unknown.
    """

    @functools.cached_property
    def _seen(self) -> weakref.WeakSet[object]:
        """Connections that are not new. On a new one the server may speak first, to refuse it."""
        return weakref.WeakSet()

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[tracing.Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            if connection.protocol not in self._seen:
                self._seen.add(connection.protocol)
                return connection
            if _is_quiet(connection):
                return connection
            connection.close()


def _is_quiet(connection: Connection) -> bool:
    """Return whether nothing has arrived, neither read nor still in the socket's buffer."""
    protocol, transport = connection.protocol, connection.transport
    if protocol is None or transport is None or protocol.should_close:
        return False
    with selectors.DefaultSelector() as selector:
        selector.register(transport.get_extra_info("socket"), selectors.EVENT_READ)
        return not selector.select(0)


class _Received:
    """The part of an answer that has arrived."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.body = bytearray()

    def start(self, response: aiohttp.ClientResponse, limit: int) -> None:
        self.status = response.status
        self.headers = dict(response.headers)
        if (response.content_length or 0) > limit:
            raise _TooLargeError

    def more(self, chunk: bytes, limit: int) -> None:
        if len(self.body) + len(chunk) > limit:
            raise _TooLargeError
        self.body += chunk

    @property
    def success(self) -> bool:
        return self.status is not None and 200 <= self.status < 300  # noqa: PLR2004 - the class of successes


class _Body(Payload):
    """A request body, written in pieces, that records whether any of it was written."""

    _autoclose = True  # bytes need no closing

    def __init__(self, content_type: str, content: bytes) -> None:
        super().__init__(content, content_type=content_type)
        self._size = len(content)
        self.started = False

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return bytes(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        self.started = True
        for start in range(0, len(self._value), _CHUNK):
            await writer.write(self._value[start : start + _CHUNK])


class _TooLargeError(Exception):
    """The body exceeds the limit."""


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from repeating a GET or DELETE when a kept-alive connection turns out to be closed."""
    try:
        return await handler(request)
    except _NO_CONNECTION:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        number = error.errno if isinstance(error, OSError) else None
    raise aiohttp.ClientConnectionError(number)


def _caused_by(error: BaseException | None, cls: type[Exception]) -> bool:
    while error is not None:
        if isinstance(error, cls):
            return True
        error = error.__cause__
    return False


def _reason(error: Exception) -> str:
    cause = getattr(error, "certificate_error", getattr(error, "os_error", error))
    if isinstance(cause, ssl.SSLError) and cause.reason:  # its errno counts SSL's errors, not the system's
        return printable(f"TLS failed: {cause.reason}", 100)
    number = getattr(cause, "errno", None) or next(iter(cause.args), None)
    if isinstance(number, int) and number in errno.errorcode:
        return os.strerror(number)
    words = getattr(cause, "verify_message", None) or getattr(cause, "strerror", None)
    return printable(words, 100) if isinstance(words, str) else "closed by the other side"
