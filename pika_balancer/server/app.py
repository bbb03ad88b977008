"""The routes of the local server: host and token checks, accounts, jobs and result files."""

import functools
import hashlib
import hmac
import ipaddress
import logging
import re
import traceback
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

import attrs
from aiohttp import HttpVersion10, web

from pika_balancer.server.accounts import ServerAccount
from pika_balancer.server.answers import Refusal, error_answer, json_answer
from pika_balancer.server.form import read_body, too_large
from pika_balancer.server.jobs import SAMPLE, Jobs
from pika_balancer.server.params import VERBS, check_account
from pika_balancer.server.state import State
from pika_balancer.server.submit import Submits

PREFIX: Final = "/v1/pika"
"""Path of the API on its host."""

_log = logging.getLogger(__name__)
_HOST: Final = re.compile(r"(\[[^\[\]]+\]|[^:\[\]]+)(?::\d+)?")
_NO_BODY: Final = 204


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Handlers:
    """The handlers of one server."""

    state: State
    jobs: Jobs
    submits: Submits
    token_digest: bytes | None
    """Of the token to require; None accepts any bearer token."""
    allowed_hosts: frozenset[str]
    """Host names to accept beside localhost, in lower case."""

    def application(self) -> web.Application:
        """Return a new application with the routes below `PREFIX`."""
        app = web.Application(middlewares=[self._guard], client_max_size=self.submits.body_limit)
        expect = self._expect
        for method, path, handler in (
            ("GET", "/account", self._get_accounts),
            ("GET", "/account/{channel}", self._get_account),
            ("POST", "/account/{channel}", self._put_account),
            ("DELETE", "/account/{channel}", self._delete_account),
            ("GET", "/jobs", self._get_jobs),
            ("GET", "/jobs/", self._get_jobs),
            ("GET", "/files/{jobid}/{name}", self._get_file),
            ("HEAD", "/files/{jobid}/{name}", self._get_file),
            *(("POST", f"/{verb}", self.submits.handle) for verb in VERBS),
        ):
            app.router.add_route(method, PREFIX + path, handler, expect_handler=expect)
        return app

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            check_host(request, self.allowed_hosts)
            if request.match_info.http_exception is None and request.match_info.handler != self._get_file:
                self._check_token(request)
            return await handler(request)
        except ConnectionError:
            # The caller has disconnected; aiohttp notices when it sends this, and logs nothing.
            return web.Response()
        except Exception as error:  # noqa: BLE001 - the caller gets a JSON body after any error
            return self._failure(error)

    def _failure(self, error: Exception) -> web.Response:
        if isinstance(error, Refusal):
            return error.answer()
        if isinstance(error, web.HTTPRequestEntityTooLarge):
            return too_large(self.submits.body_limit).answer()
        if isinstance(error, web.HTTPException):
            allow = {key: value for key, value in error.headers.items() if key == "Allow"}
            return error_answer(error.status, error.reason, allow)
        if isinstance(error, web.RequestPayloadError):
            return error_answer(400, "Request body cannot be unpacked: its chunks or compression are broken")
        # The traceback's lines without the message, which could quote a token.
        where = "".join(traceback.format_tb(error.__traceback__))
        _log.error("%s in a handler:\n%s", type(error).__name__, where)
        return error_answer(500, "Internal Server Error")

    def _check_token(self, request: web.Request) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        good = scheme.lower() == "bearer" and bool(token.strip())
        if good and self.token_digest is not None:
            good = hmac.compare_digest(digest(token.strip()), self.token_digest)
        if not good:
            raise Refusal(401, "Unauthorized")

    async def _expect(self, request: web.Request) -> web.StreamResponse | None:
        # Refused before the 100, so that the sender does not send the body.
        if request.headers["Expect"].lower() != "100-continue":
            return error_answer(417, "Expectation Failed")
        if (request.content_length or 0) > self.submits.body_limit:
            answer = too_large(self.submits.body_limit).answer()
            answer.force_close()
            return answer
        if request.version > HttpVersion10:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # As in aiohttp's own handler: the interim answer does not count as part of the answer.
            request.writer.output_size = 0
        return None

    async def _get_accounts(self, _request: web.Request) -> web.Response:
        accounts = self.state.accounts
        if not accounts:
            raise Refusal(404, "No accounts are configured")
        return json_answer(200, {channel: account.as_wire() for channel, account in accounts.items()})

    async def _get_account(self, request: web.Request) -> web.Response:
        return json_answer(200, self._configured(request).as_wire())

    async def _put_account(self, request: web.Request) -> web.Response:
        body = await read_body(request, self.submits.timeline.clock)
        channel = request.match_info["channel"]
        self.state.put_account(check_account(body, channel, self.state.accounts.values()))
        return web.Response(status=_NO_BODY)

    async def _delete_account(self, request: web.Request) -> web.Response:
        self.state.delete_account(self._configured(request).channel)
        return web.Response(status=_NO_BODY)

    def _configured(self, request: web.Request) -> ServerAccount:
        channel = request.match_info["channel"]
        account = self.state.accounts.get(channel)
        if account is None:
            raise Refusal(404, f"Channel {channel} is not configured")
        return account

    async def _get_jobs(self, request: web.Request) -> web.Response:
        jobid = request.query.get("jobid")
        if jobid is None:
            return json_answer(200, self.state.executing())
        job = self.jobs.get(jobid)
        if job is None:
            raise Refusal(404, f"Job {jobid} not found")
        return json_answer(200, self.jobs.as_wire(job))

    async def _get_file(self, request: web.Request) -> web.StreamResponse:
        job = self.jobs.get(request.match_info["jobid"])
        if job is None or self.jobs.status(job) != "completed" or request.match_info["name"] != job.file_name:
            raise Refusal(404, "File not found")
        size = SAMPLE.stat().st_size
        try:
            start = request.http_range.start or 0
        except ValueError:
            start = size
        if start >= size:
            # aiohttp's own answer has no body.
            raise Refusal(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
        return web.FileResponse(SAMPLE, headers={"Content-Type": "video/mp4"})


def check_host(request: web.Request, allowed: Collection[str]) -> None:
    """Refuse host names that may belong to a web page, and are not in `allowed`.

    Against DNS rebinding: a page of `evil.example` reaches this server by its own name, which has a dot.

    Raises:
        Refusal: 403.
    """
    # A Unix socket has no address.
    address: Any = request.get_extra_info("sockname") or ("",)
    match = _HOST.fullmatch(request.headers.get("Host", ""))
    name = match[1].strip("[]").lower() if match else ""
    if name == "localhost" or name in allowed or is_loopback(name):
        return
    here = str(address[0])
    if is_loopback(here):
        raise Refusal(403, "Host header is not a name of this machine; use localhost or 127.0.0.1")
    if _address(here) and not _address(name) and "." in name:
        raise Refusal(403, "Host header is a name that is not allowed here; use the address or --allow-host")


def digest(token: str) -> bytes:
    """Return the digest of a token, which the server stores so that no repr or traceback shows the token."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


@functools.lru_cache(maxsize=256)
def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_loopback(name: str) -> bool:
    """Return whether a name is the text of a loopback address; `localhost` is none."""
    address = _address(name)
    return address is not None and address.is_loopback
