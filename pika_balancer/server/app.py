"""The routes of the local server: accounts, jobs and result files, each answer with a JSON body."""

import functools
import hashlib
import hmac
import ipaddress
import json
import logging
import re
import traceback
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any, Final, cast

from aiohttp import HttpVersion10, web

from pika_balancer.clock import Clock
from pika_balancer.server.accounts import CHANNEL_ID, ServerAccount
from pika_balancer.server.answers import error_answer, json_answer, refusal_answer
from pika_balancer.server.errors import Refusal
from pika_balancer.server.form import read_body, too_large
from pika_balancer.server.jobs import Jobs
from pika_balancer.server.params import VERBS
from pika_balancer.server.state import State
from pika_balancer.server.submit import Submits

PREFIX: Final = "/v1/pika"
"""Where the API lives on its host."""

SAMPLE: Final = Path(__file__).with_name("sample.mp4")
"""The video that every completed job has made."""

_log = logging.getLogger(__name__)
_HOST: Final = re.compile(r"(\[[^\[\]]+\]|[^:\[\]]+)(?::\d+)?")
_NO_BODY: Final = 204


class Handlers:
    """The handlers of one server."""

    def __init__(
        self,
        *,
        state: State,
        jobs: Jobs,
        submits: Submits,
        token_digest: bytes | None,
        allowed_hosts: Collection[str],
        max_jobs_limit: int,
        body_limit: int,
        clock: Clock,
    ) -> None:
        self._state = state
        self._jobs = jobs
        self._submits = submits
        self._token_digest = token_digest
        self._allowed_hosts = frozenset(host.lower() for host in allowed_hosts)
        self._max_jobs_limit = max_jobs_limit
        self._body_limit = body_limit
        self._clock = clock

    def application(self) -> web.Application:
        """Return a new application with the routes below `PREFIX`."""
        app = web.Application(middlewares=[self._guard], client_max_size=self._body_limit)
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
            *(("POST", f"/{verb}", self._submit) for verb in VERBS),
        ):
            app.router.add_route(method, PREFIX + path, handler, expect_handler=expect)
        return app

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            self._check_host(request)
            if request.match_info.http_exception is None and request.match_info.handler != self._get_file:
                self._check_token(request)
            return await handler(request)
        except ConnectionError:
            # The caller is gone: aiohttp finds that out again, quietly, when it sends this.
            return web.Response()
        except Exception as error:  # noqa: BLE001 - whatever goes wrong in here, the caller gets a JSON body
            return self._failure(error)

    def _failure(self, error: Exception) -> web.Response:
        if isinstance(error, Refusal):
            return refusal_answer(error)
        if isinstance(error, web.HTTPRequestEntityTooLarge):
            return refusal_answer(too_large(self._body_limit))
        if isinstance(error, web.HTTPException):
            allow = {key: value for key, value in error.headers.items() if key == "Allow"}
            return error_answer(error.status, error.reason, allow)
        if isinstance(error, web.RequestPayloadError):
            return error_answer(400, "Request body cannot be unpacked: its chunks or compression are broken")
        # The traceback's lines, but no values: a message could quote a token.
        where = "".join(traceback.format_tb(error.__traceback__))
        _log.error("%s in a handler:\n%s", type(error).__name__, where)
        return error_answer(500, "Internal Server Error")

    def _check_host(self, request: web.Request) -> None:
        """Refuse names that need not be this machine's: a web page may have made them up.

        Against DNS rebinding: a page of `evil.example` reaches this server by its own name, which has a dot.
        """
        # A socket of another family than the internet's has a name of another shape.
        address: Any = request.get_extra_info("sockname") or ("",)
        match = _HOST.fullmatch(request.headers.get("Host", ""))
        name = match[1].strip("[]").lower() if match else ""
        if name == "localhost" or name in self._allowed_hosts or _is_loopback(name):
            return
        here = str(address[0])
        if _is_loopback(here):
            raise Refusal(403, "Host header is not a name of this machine; use localhost or 127.0.0.1")
        if _is_address(here) and not _is_address(name) and "." in name:
            raise Refusal(403, "Host header is a name that is not allowed here; use the address, or allow it")

    def _check_token(self, request: web.Request) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        good = scheme.lower() == "bearer" and bool(token.strip())
        if good and self._token_digest is not None:
            good = hmac.compare_digest(digest(token.strip()), self._token_digest)
        if not good:
            raise Refusal(401, "Unauthorized")

    async def _expect(self, request: web.Request) -> web.StreamResponse | None:
        # Answering before the 100 spares the sender a body that would be refused.
        if request.headers["Expect"].lower() != "100-continue":
            return error_answer(417, "Expectation Failed")
        if (request.content_length or 0) > self._body_limit:
            answer = refusal_answer(too_large(self._body_limit))
            answer.force_close()
            return answer
        if request.version > HttpVersion10:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # As in aiohttp's own handler: the interim answer is no part of the answer's size.
            request.writer.output_size = 0
        return None

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        return await self._submits.handle(request)

    async def _get_accounts(self, _request: web.Request) -> web.Response:
        accounts = self._state.accounts
        if not accounts:
            raise Refusal(404, "No accounts are configured")
        return json_answer(200, {channel: account.as_wire() for channel, account in accounts.items()})

    async def _get_account(self, request: web.Request) -> web.Response:
        return json_answer(200, self._configured(request).as_wire())

    async def _put_account(self, request: web.Request) -> web.Response:
        body = _json_object(await read_body(request, self._clock))
        account = check_account(
            body,
            path_channel=request.match_info["channel"],
            limit=self._max_jobs_limit,
            others=self._state.accounts.values(),
        )
        self._state.put_account(account)
        return web.Response(status=_NO_BODY)

    async def _delete_account(self, request: web.Request) -> web.Response:
        self._state.delete_account(self._configured(request).channel)
        return web.Response(status=_NO_BODY)

    def _configured(self, request: web.Request) -> ServerAccount:
        channel = request.match_info["channel"]
        account = self._state.accounts.get(channel)
        if account is None:
            raise Refusal(404, f"Channel {channel} is not configured")
        return account

    async def _get_jobs(self, request: web.Request) -> web.Response:
        jobid = request.query.get("jobid")
        if jobid is None:
            return json_answer(200, self._jobs.executing())
        job = self._jobs.get(jobid)
        if job is None:
            raise Refusal(404, f"Job {jobid} not found")
        return json_answer(200, self._jobs.as_wire(job))

    async def _get_file(self, request: web.Request) -> web.StreamResponse:
        job = self._jobs.get(request.match_info["jobid"])
        if (
            job is None
            or self._jobs.status(job) != "completed"
            or request.match_info["name"] != job.file_name
        ):
            raise Refusal(404, "File not found")
        size = SAMPLE.stat().st_size
        try:
            start = request.http_range.start or 0
        except ValueError:
            start = size
        if start >= size:
            # aiohttp would answer this one without a body.
            raise Refusal(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
        return web.FileResponse(SAMPLE, headers={"Content-Type": "video/mp4"})


def check_account(
    body: dict[str, Any], *, path_channel: str, limit: int, others: Collection[ServerAccount]
) -> ServerAccount:
    """Return the account that the body of `POST /account/<channel>` describes.

    Raises:
        Refusal: 400 with one of the documented texts, checked in the documented order.
    """
    for param in ("discord", "channel"):
        if not (isinstance(body.get(param), str) and body[param]):
            raise Refusal(400, f"Required param {param} is missing or empty")
    discord, channel = body["discord"], body["channel"]
    if not CHANNEL_ID.fullmatch(channel):
        raise Refusal(400, f"Required param channel ({channel}) is not valid Discord channel id")
    if channel != path_channel:
        raise Refusal(400, f"Required param channel ({channel}) not matching to /pika/account/{path_channel}")
    if body.get("maxJobs") in (None, "", 0):
        raise Refusal(400, "Required param maxJobs is missing or empty")
    max_jobs = _whole(body["maxJobs"])
    if max_jobs is None or max_jobs < 1:
        raise Refusal(400, f"Required param maxJobs must be a whole number from 1 to {limit}")
    if max_jobs > limit:
        # Sic: the service's own words.
        raise Refusal(400, f"Required param maxJobs {max_jobs} can't be more that {limit}")
    account = ServerAccount(channel, max_jobs, discord)
    for other in others:
        if other.channel != channel and other.discord == account.discord:
            raise Refusal(400, f"Channel {other.channel} configuration has same discord value")
    return account


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        return int(value)
    return value if type(value) is int else None


def _json_object(text: bytes) -> dict[str, Any]:
    try:
        body: Any = json.loads(text)
    except (ValueError, RecursionError):
        # Not chained: the message of a parser could quote a Discord token.
        raise Refusal(400, "Request body is not valid JSON") from None
    if not isinstance(body, dict):
        raise Refusal(400, "Request body must be a JSON object")
    return cast("dict[str, Any]", body)


def digest(token: str) -> bytes:
    """Return what is kept of a token, so that no repr, traceback or dump of the server can hold it."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@functools.lru_cache(maxsize=256)
def _is_loopback(name: str) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
