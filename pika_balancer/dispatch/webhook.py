"""`Webhook`: receives the service's callbacks of ended jobs, mounted in an aiohttp server or on its own.

The URL contains a secret: a request to it is trusted, and any other request gets the same 404. Each callback
goes to the subscribers at once; they decide whose job it is. The sender learns only whether its body was a
job, never whether a subscriber knew it.
"""

import asyncio
import http
import inspect
import ipaddress
import logging
import re
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from secrets import token_urlsafe
from typing import Any, Final, Never, cast

import attrs
from aiohttp import HttpVersion10, web
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from pika_balancer._util.tasks import shielded
from pika_balancer.client.responses import read_job
from pika_balancer.clock import Clock, SystemClock, alarm
from pika_balancer.errors import InvalidArgument, InvalidResponse, PikaError
from pika_balancer.models import Job, Secret, guarded, hidden

READ_TIMEOUT: Final = 30.0
"""Seconds within which the body of a callback must arrive."""

Subscriber = Callable[[Job], bool]
"""Called with a job; returns whether the job is the subscriber's."""

_LONGEST_URL: Final = 1024
_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{16,256}")
_CONTINUE: Final = "100-continue"
_STOP_WITHIN: Final = 0.25
_LINGER: Final = 1.0
# HttpProcessingError comes only from aiohttp's pure Python parser; RuntimeError means that the connection was
# closed before reading began.
_BROKEN_OFF: Final = (OSError, web.RequestPayloadError, HttpProcessingError, RuntimeError)

_log = logging.getLogger(__name__)


@attrs.frozen
class WebhookStatistics:
    """Counts of callbacks whose body was read."""

    matched: int = 0
    """Callbacks of a job that a subscriber knew."""
    unmatched: int = 0
    """Callbacks of other jobs: duplicates, and jobs of other submitters."""
    broken: int = 0
    """Bodies that were refused: malformed, compressed, too large, too slow or cut off."""
    failed: int = 0
    """Exceptions raised by subscribers."""

    @property
    def received(self) -> int:
        """All callbacks to the right URL."""
        return self.matched + self.unmatched + self.broken


class Webhook:
    """Receive callbacks and pass them to subscribers. Mount `app()` in an aiohttp server, or `run()` it.

    The access log of a server that it is mounted in shows the secret URL.

    Args:
        public_url: URL at which the service reaches the mounted application, e.g.
            `https://worker.example/pika`; None if the service reaches the address that `run()` binds.
        secret: Last segment of the path: 16 to 256 characters of `A-Z a-z 0-9 _ -`. None draws one for this
            object: callbacks of jobs of an earlier process then get a 404.
        body_limit: Maximum size of a body in bytes. A compressed body is always refused.
        clock: Measures the time limit for reading.

    Raises:
        InvalidArgument: An argument cannot work; `field` names it, and the message does not quote it.
    """

    def __init__(
        self,
        public_url: str | None = None,
        *,
        secret: str | Secret | None = None,
        body_limit: int = 2**20,
        clock: Clock | None = None,
    ) -> None:
        secret = hidden(token_urlsafe(32) if secret is None else secret)
        if not isinstance(secret, Secret) or not _SECRET.fullmatch(secret.reveal()):
            raise InvalidArgument(
                "secret must be 16 to 256 letters, digits, '_' or '-'; None draws one",
                field="secret",
            )
        if type(body_limit) is not int or body_limit < 1:
            raise InvalidArgument("body_limit must be a whole number of at least 1", field="body_limit")
        self._secret = secret
        self._body_limit = body_limit
        self._clock = clock or SystemClock()
        public, public_url = None if public_url is None else _public(public_url, len(secret.reveal())), None
        if isinstance(public, str):
            raise InvalidArgument(public, field="public_url")
        self._public = public
        self._bound: list[URL] = []
        self._subscribers: dict[object, Subscriber] = {}
        self._counts: Counter[str] = Counter()

    @property
    def reply_url(self) -> str:
        """The secret URL to pass as `reply_url` with a submit; at most 1024 characters.

        Raises:
            InvalidArgument: There is no `public_url`, and `run()` is not active.
        """
        if self._public is not None:
            return str(self._public / self._secret.reveal())
        if not self._bound:
            raise InvalidArgument(
                "the webhook has no URL yet: pass public_url, or read it within `async with webhook.run()`",
                field="public_url",
            )
        bound = self._bound[-1]
        if ipaddress.ip_address(bound.host or "").is_unspecified:
            raise InvalidArgument(
                "host stands for all addresses: pass public_url, the URL at which the service gets here",
                field="public_url",
            )
        return str(bound / self._secret.reveal())

    def subscribe(self, subscriber: Subscriber) -> Callable[[], object]:
        """Call `subscriber(job)` for every callback; return a function that ends the subscription.

        Subscribers are called in order of subscription, in the event loop and before the sender gets its
        answer, until one returns True; they must be quick. If one raises, the error is logged and the next
        one is called. The same job may come more than once.

        Raises:
            InvalidArgument: `subscriber` is not callable, or is a coroutine function.
        """
        if inspect.iscoroutinefunction(subscriber) or not callable(subscriber):
            raise InvalidArgument(
                "subscriber must be a plain function of a job; start a task in it if it has to wait",
                field="subscriber",
            )
        key = object()
        self._subscribers[key] = subscriber
        return partial(self._subscribers.pop, key, None)

    def statistics(self) -> WebhookStatistics:
        """Return the counts so far."""
        return WebhookStatistics(**self._counts)

    def app(self) -> web.Application:
        """Return a new application, to mount with `add_subapp` at the path of `public_url`."""
        app = web.Application(middlewares=[self._refuse])
        app.router.add_post("/{secret}", self._receive, expect_handler=_expected)
        return app

    @asynccontextmanager
    async def run(self, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str, None]:
        """Serve while the context lasts, and yield `reply_url`.

        The secret is the whole path: a proxy has to strip the path of `public_url`.

        Args:
            host: Address to bind; the default accepts connections from this machine only.
            port: Port to bind; 0 takes a free one.

        Raises:
            InvalidArgument: `host` stands for all addresses, and there is no `public_url`.
            OSError: The address cannot be bound.
        """
        runner = web.AppRunner(self.app(), shutdown_timeout=_STOP_WITHIN)
        try:
            await runner.setup()
            loop = asyncio.get_running_loop()
            server = cast("web.Server", runner.server)  # None before setup()

            def protocol() -> _Protocol:
                return _Protocol(
                    server,
                    loop=loop,
                    access_log=cast("logging.Logger", None),
                    logger=cast("logging.Logger", _Discreet(_log)),
                    keepalive_timeout=READ_TIMEOUT,
                    # Compressed bodies are refused; decompressing them can take long.
                    auto_decompress=False,
                )

            # Not `TCPSite`: it takes no protocol class, and leaks its socket if cancelled while starting.
            listener = await loop.create_server(protocol, host, port, start_serving=False)
            bound_host, bound_port = listener.sockets[0].getsockname()[:2]
            bound = URL.build(scheme="http", host=bound_host, port=bound_port)
            self._bound.append(bound)
            try:
                await listener.start_serving()
                yield self.reply_url
            finally:
                listener.close()
                self._bound.remove(bound)
        finally:
            await shielded(runner.cleanup())

    @guarded
    def __repr__(self) -> str:
        where = self._public or next(reversed(self._bound), None)
        return f"<Webhook at {where or 'an unknown address'}, subscribers: {len(self._subscribers)}>"

    def __reduce__(self) -> Never:
        raise TypeError("a webhook belongs to its process and cannot be pickled or copied")

    # --- one request -----------------------------------------------------------------------------------

    @web.middleware
    async def _refuse(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Answer every refusal, aiohttp's own included, with the service's JSON."""
        try:
            return await handler(request)
        except web.HTTPException as error:
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            answer = _refusal(error.status, error.reason, allow)
        if not request.content.at_eof():
            answer.force_close()
            # If the connection closed while the sender still sends, the sender would not get the answer.
            with suppress(*_BROKEN_OFF):
                async with asyncio.timeout(None) as window, alarm(window, self._clock, _LINGER):
                    await answer.prepare(request)
                    await answer.write_eof()
                    async for _ in request.content.iter_any():
                        pass
            # aiohttp would wait longer, even if the sender is gone.
            request.protocol.force_close()
        return answer

    async def _receive(self, request: web.Request) -> web.Response:
        # `Secret` compares in constant time.
        if Secret(request.match_info["secret"]) != self._secret:
            raise web.HTTPNotFound
        try:
            job = read_job(await self._read(request), secrets=(self._secret,))
        except InvalidResponse as error:
            raise self._broken(web.HTTPBadRequest, f"the body is not a job: {error.faults[0]}") from None
        self._counts["matched" if self._publish(job) else "unmatched"] += 1
        return web.json_response({})

    async def _read(self, request: web.Request) -> bytes:
        """Return the body, in bounded time and memory; raise the refusal of one that cannot be read."""
        if not _knows_expectation(request):
            raise self._broken(web.HTTPExpectationFailed, "only 100-continue may be expected")
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise self._broken(web.HTTPUnsupportedMediaType, "the body must not be compressed")
        try:
            async with asyncio.timeout(None) as window, alarm(window, self._clock, READ_TIMEOUT):
                body = await _bounded(request, self._body_limit)
        except TimeoutError:
            problem = f"the body did not arrive within {READ_TIMEOUT:g} s"
            raise self._broken(web.HTTPRequestTimeout, problem) from None
        except _BROKEN_OFF:
            problem = "the body broke off, or its chunks are broken"
            raise self._broken(web.HTTPBadRequest, problem) from None
        if body is None:
            problem = f"the body is larger than {self._body_limit} bytes"
            raise self._broken(_TooLarge, problem)
        return body

    def _broken(self, answer: type[web.HTTPException], problem: str) -> web.HTTPException:
        self._counts["broken"] += 1
        _log.info("a callback was refused with %d: %s", answer.status_code, problem)
        return answer(reason=problem)

    def _publish(self, job: Job) -> bool:
        for key, subscriber in tuple(self._subscribers.items()):
            if key not in self._subscribers:  # an earlier one has ended its subscription
                continue
            try:
                if subscriber(job) is True:
                    return True
            except Exception as error:  # noqa: BLE001 - the other subscribers must be called all the same
                self._counts["failed"] += 1
                # Only this library's errors are known to hold no token; a traceback's locals may hold some.
                message = str(error) if isinstance(error, PikaError) else ""
                _log.error("a subscriber failed on a callback: %s %s", type(error).__name__, message)
        return False


class _TooLarge(web.HTTPClientError):
    """aiohttp's own class needs both sizes, and the size of the body is not known."""

    status_code = 413


class _Protocol(web.RequestHandler):
    """Connection handler that answers invalid HTTP with the service's JSON and does not quote it."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - quotes the request
    ) -> web.StreamResponse:
        super().handle_error(request, status, exc)  # logs it, and cuts off an unfinished answer
        if isinstance(exc, UnicodeEncodeError):
            # aiohttp quotes an unknown `Expect` in its answer, and fails to encode one that is not ASCII.
            status = 417
        answer = _refusal(status, http.HTTPStatus(status).phrase)
        answer.force_close()
        return answer


class _Discreet(logging.LoggerAdapter[logging.Logger]):
    """aiohttp's error log without the bytes that it quotes, which may hold the secret URL."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return f"{msg}: {type(kwargs.pop('exc_info', None)).__name__}", kwargs


async def _expected(request: web.Request) -> None:
    """Answer `Expect: 100-continue`; aiohttp's own handler fails on an `Expect` that is not ASCII."""
    if _knows_expectation(request) and request.version > HttpVersion10:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the interim answer does not count as the answer


def _knows_expectation(request: web.Request) -> bool:
    return request.headers.get("Expect", _CONTINUE).lower() == _CONTINUE


def _refusal(status: int, error: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": error, "code": status}, status=status, headers=headers)


async def _bounded(request: web.Request, limit: int) -> bytes | None:
    """Return the body; None if it is longer than `limit`, which stops reading."""
    if (request.content_length or 0) > limit:
        return None
    if request.content.at_eof():
        # A middleware of the enclosing server may have read it already.
        body = await request.read()
        return body if len(body) <= limit else None
    read = bytearray()
    async for chunk in request.content.iter_any():
        read += chunk
        if len(read) > limit:
            return None
    return bytes(read)


def _public(text: str, room: int) -> URL | str:
    """Return the base of the reply URL, or the problem with it; it has to leave `room` characters."""
    try:
        url = URL(text) if text.isprintable() and " " not in text else URL()
        port = url.port
    except (AttributeError, TypeError, ValueError):
        url, port = URL(), None
    more = url.raw_user or url.raw_password or url.raw_query_string or url.raw_fragment
    if url.scheme not in {"http", "https"} or not url.raw_host or not port or more:
        return "public_url must be http(s)://host[:port][/path], without credentials, query or fragment"
    if len(str(url / ("x" * room))) > _LONGEST_URL:
        return f"public_url and secret make a URL of more than {_LONGEST_URL} characters; shorten one"
    return url
