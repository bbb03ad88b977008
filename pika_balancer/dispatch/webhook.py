"""`Callbacks`: where the service reports that jobs have ended, as a part of your own web server or alone.

The address is a capability: whoever knows it is believed, and nobody else learns whether it exists. What
comes is told to the subscribers at once, whether or not anybody waits for it; whose job it is they decide.
A sender learns only whether it sent a job, never whether somebody knew that job.
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

READ_WITHIN: Final = 30.0
"""Seconds within which a callback must have arrived whole."""

Taker = Callable[[Job], bool]
"""Is told a job and says whether it was its own."""

_LONGEST_URL: Final = 1024
_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{16,256}")
_CONTINUE: Final = "100-continue"
_STOP_WITHIN: Final = 0.25
_LINGER: Final = 1.0
_CAUSES: Final = 3
# The third is what aiohttp's parser in Python raises, and the compiled one does not; the last is what it says
# of a sender that had gone before anybody began to read.
_BROKEN_OFF: Final = (OSError, web.RequestPayloadError, HttpProcessingError, RuntimeError)

_log = logging.getLogger(__name__)


@attrs.frozen
class WebhookStatistics:
    """What has come so far, callbacks that are still being read left out."""

    matched: int = 0
    """Callbacks that a subscriber took for its own."""
    unmatched: int = 0
    """Callbacks that none did: duplicates, and jobs of somebody else."""
    broken: int = 0
    """Bodies that were no job: wrong, compressed, too large, too slow or cut off."""
    failed: int = 0
    """How often a subscriber raised."""

    @property
    def received(self) -> int:
        """All that came to the right address."""
        return self.matched + self.unmatched + self.broken


class Webhook:
    """Receives callbacks and tells its subscribers. Mount `app()` in a server of yours, or `run()` it alone.

    The log of a server that it is mounted in is that server's own: an access log there shows the address.

    Args:
        public_url: Where the service reaches the mounted application, such as `https://worker.example/pika`;
            None where `run()` is reached directly, at the address that it binds.
        secret: The last segment of the path: 16 to 256 of `A-Z a-z 0-9 _ -`. None draws one, which then
            lasts as long as this object: jobs of an earlier process call an address that is gone.
        body_limit: Bytes of a callback above which it is refused. A compressed one always is.
        clock: Runs the deadline for reading.

    Raises:
        InvalidArgument: `field` names the argument, which is not quoted.
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
                "secret must be 16 to 256 letters, digits, '_' or '-'; leave it out to have one drawn",
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
        self._takers: dict[object, Taker] = {}
        self._counts: Counter[str] = Counter()

    @property
    def reply_url(self) -> str:
        """The whole URL to pass as `reply_url` with a submit; at most 1024 characters. Keep it secret.

        Raises:
            InvalidArgument: It is not known: there is no `public_url`, and `run()` is not under way.
        """
        return str(self._base() / self._secret.reveal())

    def subscribe(self, take: Taker) -> Callable[[], None]:
        """Have `take(job)` called for every callback that is a job; return what ends that.

        Subscribers are asked one after the other, in the order in which they came, within the event loop and
        before the sender has its answer, until one returns True. They must be quick. What one raises is
        logged, and the others are asked all the same. The same job may come more than once.

        Raises:
            InvalidArgument: `take` cannot be called, or is a coroutine function.
        """
        if inspect.iscoroutinefunction(take) or not callable(take):
            raise InvalidArgument(
                "take must be a plain function of a job; have it start a task if there is to wait",
                field="take",
            )
        key = object()
        self._takers[key] = take

        def unsubscribe() -> None:
            self._takers.pop(key, None)

        return unsubscribe

    def statistics(self) -> WebhookStatistics:
        """Return what has come until now."""
        return WebhookStatistics(**self._counts)

    def app(self) -> web.Application:
        """Return an application to mount with `add_subapp`, where `public_url` leads; each call makes one."""
        app = web.Application(middlewares=[self._refuse])
        app.router.add_post("/{secret}", self._receive, expect_handler=_expected)
        return app

    @asynccontextmanager
    async def run(self, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str, None]:
        """Serve while the context lasts, and yield `reply_url`.

        The secret is the whole path here. A proxy between `public_url` and this has to take its path off.

        Args:
            host: Address to bind; the default keeps other machines out.
            port: Port to bind; 0 takes a free one.

        Raises:
            InvalidArgument: All addresses are bound, and without a `public_url` none is the one to tell.
            OSError: The address cannot be bound.
        """
        runner = web.AppRunner(self.app(), shutdown_timeout=_STOP_WITHIN)
        try:
            await runner.setup()
            loop, server = (
                asyncio.get_running_loop(),
                cast("web.Server", runner.server),
            )  # None before setup()

            def protocol() -> _Protocol:
                return _Protocol(
                    server,
                    loop=loop,
                    access_log=cast("logging.Logger", None),
                    logger=cast("logging.Logger", _Discreet(_log)),
                    keepalive_timeout=READ_WITHIN,
                    # What nobody will read is not worth unpacking, which can take long.
                    auto_decompress=False,
                )

            # Not `TCPSite`, which offers no way to a protocol of one's own, and which loses the socket if it
            # is cancelled while it begins to serve.
            subscriber = await loop.create_server(protocol, host, port, start_serving=False)
            bound = _url(*subscriber.sockets[0].getsockname()[:2])
            self._bound.append(bound)
            try:
                await subscriber.start_serving()
                yield self.reply_url
            finally:
                subscriber.close()
                self._bound.remove(bound)
        finally:
            await shielded(runner.cleanup())

    @guarded
    def __repr__(self) -> str:
        where = self._public or next(reversed(self._bound), None)
        return f"<Callbacks at {where or 'no known address'}, subscribers: {len(self._takers)}>"

    def __reduce__(self) -> Never:
        raise TypeError("a receiver belongs to the process that it tells and cannot be pickled or copied")

    def _base(self) -> URL:
        if self._public is not None:
            return self._public
        if not self._bound:
            raise InvalidArgument(
                "the address is not known yet: pass public_url, or ask within `async with receiver.run()`",
                field="public_url",
            )
        bound = self._bound[-1]
        if ipaddress.ip_address(bound.host or "").is_unspecified:
            raise InvalidArgument(
                "all addresses are bound, so public_url has to say at which one the service gets here",
                field="public_url",
            )
        return bound

    # --- one request -----------------------------------------------------------------------------------

    @web.middleware
    async def _refuse(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Answer every refusal, aiohttp's own included, in the service's shape."""
        try:
            return await handler(request)
        except web.HTTPException as error:
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            answer = _refusal(error.status, error.reason, allow)
        if not request.content.at_eof():
            answer.force_close()
            # A connection cut while the sender still sends would cost it the answer.
            with suppress(*_BROKEN_OFF):
                async with asyncio.timeout(None) as window, alarm(window, self._clock, _LINGER):
                    await answer.prepare(request)
                    await answer.write_eof()
                    async for _ in request.content.iter_any():
                        pass
            # aiohttp would go on for longer, even when the sender is gone.
            request.protocol.force_close()
        return answer

    async def _receive(self, request: web.Request) -> web.Response:
        # Secrets are compared in constant time.
        if Secret(request.match_info["secret"]) != self._secret:
            raise web.HTTPNotFound
        try:
            job = read_job(await self._read(request), secrets=(self._secret,))
        except InvalidResponse as error:
            raise self._broken(web.HTTPBadRequest, _causes(error)) from None
        self._counts["matched" if self._tell(job) else "unmatched"] += 1
        return web.json_response({})

    async def _read(self, request: web.Request) -> bytes:
        """Return the body, in bounded time and memory; raise the answer to one that cannot be had."""
        if not _knows_expectation(request):
            raise self._broken(web.HTTPExpectationFailed, "nothing is expected but 100-continue")
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise self._broken(web.HTTPUnsupportedMediaType, "the body must not be compressed")
        try:
            async with asyncio.timeout(None) as window, alarm(window, self._clock, READ_WITHIN):
                body = await _bounded(request, self._body_limit)
        except TimeoutError:
            problem = f"the body did not arrive within {READ_WITHIN:g} s"
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

    def _tell(self, job: Job) -> bool:
        for key, take in tuple(self._takers.items()):
            if key not in self._takers:  # ended by one that was asked before
                continue
            try:
                if take(job) is True:
                    return True
            except Exception as error:  # noqa: BLE001 - one subscriber must not keep it from the others
                self._counts["failed"] += 1
                # Only our own errors are known to hold no token, and a traceback's locals may hold some.
                said = str(error) if isinstance(error, PikaError) else ""
                _log.error("a subscriber failed on a callback: %s %s", type(error).__name__, said)
        return False


class _TooLarge(web.HTTPClientError):
    """aiohttp's own wants two sizes, of which one is not known here."""

    status_code = 413


class _Protocol(web.RequestHandler):
    """aiohttp's connection handler, which answers what is no HTTP in the service's shape, quoting nothing."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's words, which quote the first line
    ) -> web.StreamResponse:
        super().handle_error(request, status, exc)  # logs it; an answer that was under way is cut off
        if isinstance(exc, UnicodeEncodeError):
            # Where no route is found, aiohttp quotes an `Expect` that it does not know, and fails at bytes.
            status = 417
        answer = _refusal(status, http.HTTPStatus(status).phrase)
        answer.force_close()
        return answer


class _Discreet(logging.LoggerAdapter[logging.Logger]):
    """aiohttp's log of requests that went wrong, without the bytes that it quotes: perhaps the address."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return f"{msg}: {type(kwargs.pop('exc_info', None)).__name__}", kwargs


async def _expected(request: web.Request) -> None:
    """Let a sender that asks go on with its body. aiohttp's own fails at an expectation of bytes."""
    if _knows_expectation(request) and request.version > HttpVersion10:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the interim answer is no part of the answer


def _knows_expectation(request: web.Request) -> bool:
    return request.headers.get("Expect", _CONTINUE).lower() == _CONTINUE


def _refusal(status: int, error: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": error, "code": status}, status=status, headers=headers)


async def _bounded(request: web.Request, limit: int) -> bytes | None:
    """Return the body; None as soon as it is known to be longer than `limit`."""
    if (request.content_length or 0) > limit:
        return None
    if request.content.at_eof():
        # A middleware of the server around this may have read it already.
        body = await request.read()
        return body if len(body) <= limit else None
    read = bytearray()
    async for chunk in request.content.iter_any():
        read += chunk
        if len(read) > limit:
            return None
    return bytes(read)


def _causes(error: InvalidResponse) -> str:
    more = len(error.faults) - _CAUSES
    told = [str(fault) for fault in error.faults[:_CAUSES]] + ([f"and {more} more"] if more > 0 else [])
    return f"the body is not a job: {'; '.join(told)}"


def _public(text: str, room: int) -> URL | str:
    """Return the base of the reply URL, which has to leave `room` characters; else what is wrong with it."""
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


def _url(host: str, port: int) -> URL:
    return URL.build(scheme="http", host=host, port=port)
