"""`PikaClient`: the API over aiohttp. It never balances; it sends what it is told, and a POST at most once.

Every method raises nothing but `PikaError` and lets a cancellation pass. An error that leaves this room has
no foreign frames behind it, and no frame of ours holds a token in the clear.
"""

import logging
import math
import os
import random
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Never, Self, TypeVar

import aiohttp
import attrs
from yarl import URL

from pika_balancer.client import requests
from pika_balancer.client.requests import CAP_RANGE, Request, Upload, Verb
from pika_balancer.client.transport import Transport, read_upload
from pika_balancer.clock import Clock, SystemClock
from pika_balancer.errors import (
    ConnectFailed,
    ConnectionLost,
    InvalidArgument,
    LostTrack,
    PikaError,
    RateLimited,
    RequestTimeout,
    ServiceError,
)
from pika_balancer.models import Account, Job, Secret, guarded, hidden, hide

T = TypeVar("T")

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 8.0
_FLAKY: Final = frozenset({500, 502, 503})
_PASSING: Final = (ConnectFailed, ConnectionLost, RequestTimeout, RateLimited, LostTrack)

_log = logging.getLogger("pika_balancer.client.client")


@attrs.frozen
class Calls:
    """Makes calls over one transport."""

    transport: Transport = attrs.field(repr=False)
    """Carries a request, once."""
    token: Secret
    """The API token, which no message may show."""
    retries: int
    """How often a failed GET is repeated at most."""
    clock: Clock
    """Runs deadlines and pauses."""
    rng: random.Random
    """Draws the pauses."""
    wall: Callable[[], float]
    """Seconds since 1970."""

    async def make(self, request: Request[T], deadline: float) -> T:
        """Return the value of the request by `deadline`, a moment on the clock.

        Raises:
            PikaError: The call failed. Only a GET is ever repeated before that.
        """
        attempt = 0
        while True:
            try:
                result = await self._attempt(request, deadline)
            except BaseException as stop:
                # A cancellation has come through aiohttp's frames, whose locals hold the tokens.
                stop.__traceback__ = stop.__context__ = stop.__cause__ = None
                raise
            if not isinstance(result, PikaError):
                return result
            pause = self._pause(request, result, attempt)
            if pause is None or pause >= deadline - self.clock.now():
                break
            attempt += 1
            what = (request.method, request.path, type(result).__name__)
            _log.debug("%s %s failed: %s; retry %d in %.2f s", *what, attempt, pause)
            await self.clock.sleep(pause)
        try:
            raise result
        finally:
            del result  # the error's traceback refers to this frame

    async def _attempt(self, request: Request[T], deadline: float) -> T | PikaError:
        answer = await self.transport.send(request, deadline - self.clock.now())
        if isinstance(answer, PikaError):
            return answer
        return requests.outcome(request, answer, now=self.wall(), secrets=(self.token,))

    def _pause(self, request: Request[Any], error: PikaError, attempt: int) -> float | None:
        """Return the seconds to wait before the next attempt, with full jitter; None if there is none."""
        passing = isinstance(error, _PASSING) or (isinstance(error, ServiceError) and error.status in _FLAKY)
        if not request.idempotent or not passing or attempt >= self.retries:
            return None
        jitter = self.rng.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt))
        return max(jitter, error.retry_after or 0.0)


BASE_URL: Final = "https://api.useapi.net/v1/pika"
"""Where the service documents its API."""

Image = bytes | Path | Upload
"""A file to send: its content, where to read it, or both with a name and media type."""


_MAX_RETRIES: Final = 10


class PikaClient:
    """Calls the service. Use it as a context manager, or `close()` it.

    Belongs to the event loop in which it is first used.

    Args:
        token: The API token; None takes `USEAPI_TOKEN` from the environment.
        base_url: Where the API is; None takes `PIKA_BASE_URL`, else `BASE_URL`.
        session: A session of yours, which is then never closed here; None makes one when first needed. One
            of yours may take what came on a kept connection after the last answer for the next one.
        timeout: Seconds for a whole call: connecting, sending, reading and retries together; above 0.
        retries: How often a failed GET is repeated at most, 0 to 10. Nothing else is ever sent twice.
        cap_range: Lowest and highest `max_jobs` that is sent or believed; 1 to 10 by the contract.
        max_body: Bytes of an answer, decompressed, above which it is refused.
        clock: Runs the deadline and the pauses between retries.
        rng: Draws the pauses and the separators of forms.
        wall: Seconds since 1970, for a `Retry-After` that is a date.

    Raises:
        InvalidArgument: `field` names the argument, which is not quoted.
    """

    def __init__(
        self,
        token: str | Secret | None = None,
        *,
        base_url: str | None = None,
        session: aiohttp.ClientSession | None = None,
        timeout: float = 30.0,
        retries: int = 2,
        cap_range: tuple[int, int] = CAP_RANGE,
        max_body: int = 8 * 2**20,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        token = hidden(os.environ.get("USEAPI_TOKEN", "") if token is None else token)
        if base_url is None:
            base_url = os.environ.get("PIKA_BASE_URL") or BASE_URL
        base, base_url = _base(base_url), None
        if not isinstance(token, Secret) or not token.reveal():
            raise InvalidArgument("no API token: pass one or set USEAPI_TOKEN", field="token")
        if not re.fullmatch(r"[!-~]+", token.reveal()):
            raise InvalidArgument(
                "token must be printable ASCII without spaces; look for a line end at its end", field="token"
            )
        if base is None:
            raise InvalidArgument(
                "base_url must be http(s)://host[:port][/path], without credentials, query or fragment",
                field="base_url",
            )
        if type(timeout) not in (int, float) or not 0 < timeout < math.inf:
            raise InvalidArgument("timeout must be a number of seconds above 0", field="timeout")
        requests.whole("retries", retries, 0, _MAX_RETRIES)
        requests.whole("max_body", max_body, 1)
        lowest, highest = cap_range
        requests.whole("cap_range", lowest, 1, requests.whole("cap_range", highest, 1))
        self._base = base
        self._timeout = float(timeout)
        self._cap_range = (lowest, highest)
        self._clock = clock = clock or SystemClock()
        rng = rng or random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._transport = Transport(token, base, session=session, clock=clock, rng=rng, max_body=max_body)
        self._calls = Calls(self._transport, token, retries, clock, rng, wall)

    @property
    def base_url(self) -> str:
        """Where the API is, without the slash at its end."""
        return self._base

    # --- accounts --------------------------------------------------------------------------------------

    async def accounts(self) -> dict[str, Account]:
        """Return the account map by channel, in the server's order.

        Raises:
            NotFound: The service has no account configured. An empty map means the same.
            PikaError: See the tree in `pika_balancer.errors`; so for every method here.
        """
        return await self._call(requests.get_accounts(self._cap_range))

    async def account(self, channel: str) -> Account:
        """Return one account; `NotFound` if it is not configured."""
        return await self._call(requests.get_account(channel, self._cap_range))

    async def put_account(
        self, channel: str | Account, *, discord: str | Secret | None = None, max_jobs: int | None = None
    ) -> None:
        """Configure an account, or change it.

        Args:
            channel: Its Discord channel id, or an `Account`, whose values then stand in for the others.
            discord: The Discord token.
            max_jobs: How many jobs may run at once.
        """
        discord = hidden(discord)
        if isinstance(channel, Account):
            discord = channel.discord if discord is None else discord
            max_jobs = channel.max_jobs if max_jobs is None else max_jobs
            channel = channel.channel
        await self._call(requests.set_account(channel, discord, max_jobs, self._cap_range))

    async def delete_account(self, channel: str) -> None:
        """Remove an account; `NotFound` if it is not configured."""
        await self._call(requests.remove_account(channel))

    # --- jobs ------------------------------------------------------------------------------------------
    # The five submits share their last parameters: `channel` alone for a configured account, or all of
    # `discord`, `channel` and `max_jobs`; `reply_url` is called back at the end with `reply_ref`.

    async def create(
        self,
        prompt: str,
        *,
        image: Image | None = None,
        channel: str | None = None,
        discord: str | Secret | None = None,
        max_jobs: int | None = None,
        reply_url: str | Secret | None = None,
        reply_ref: str | None = None,
    ) -> Job:
        """Submit a video from a prompt of at most 1500 characters, perhaps with an image to start from.

        Args:
            prompt: What to show.
            image: The file to send along.
            channel: The channel to run on; None lets the service choose.
            discord: The Discord token, for an account that is not configured.
            max_jobs: The cap to apply to the channel.
            reply_url: Where the service reports the end, at most 1024 characters.
            reply_ref: Comes back verbatim in the report, at most 1024 characters.

        Raises:
            InvalidArgument: Before anything is sent; `field` names the argument.
            ChannelFull: Every slot of the channel is taken.
            TransportError: `maybe_sent` says if the job may have been accepted all the same.
            InvalidResponse: Accepted, but told in a broken way; `jobid` where it could be read.
        """
        discord, reply_url = hidden(discord), hidden(reply_url)
        return await self._submit(
            "create",
            prompt=prompt,
            image=image,
            channel=channel,
            discord=discord,
            max_jobs=max_jobs,
            reply_url=reply_url,
            reply_ref=reply_ref,
        )

    async def animate(
        self,
        image: Image,
        *,
        prompt: str | None = None,
        channel: str | None = None,
        discord: str | Secret | None = None,
        max_jobs: int | None = None,
        reply_url: str | Secret | None = None,
        reply_ref: str | None = None,
    ) -> Job:
        """Submit a video from an image, perhaps with a prompt; the rest as for `create`."""
        discord, reply_url = hidden(discord), hidden(reply_url)
        return await self._submit(
            "animate",
            image=image,
            prompt=prompt,
            channel=channel,
            discord=discord,
            max_jobs=max_jobs,
            reply_url=reply_url,
            reply_ref=reply_ref,
        )

    async def encrypt_text(
        self,
        message: str,
        prompt: str,
        *,
        font: str | None = None,
        image: Image | None = None,
        channel: str | None = None,
        discord: str | Secret | None = None,
        max_jobs: int | None = None,
        reply_url: str | Secret | None = None,
        reply_ref: str | None = None,
    ) -> Job:
        """Submit a video that hides a text of at most 20 characters; see `create`."""
        discord, reply_url = hidden(discord), hidden(reply_url)
        return await self._submit(
            "encrypt_text",
            message=message,
            prompt=prompt,
            font=font,
            image=image,
            channel=channel,
            discord=discord,
            max_jobs=max_jobs,
            reply_url=reply_url,
            reply_ref=reply_ref,
        )

    async def encrypt_image(
        self,
        message: Image,
        prompt: str,
        *,
        image: Image | None = None,
        channel: str | None = None,
        discord: str | Secret | None = None,
        max_jobs: int | None = None,
        reply_url: str | Secret | None = None,
        reply_ref: str | None = None,
    ) -> Job:
        """Submit a video that hides a picture; the rest as for `create`."""
        discord, reply_url = hidden(discord), hidden(reply_url)
        return await self._submit(
            "encrypt_image",
            message=message,
            prompt=prompt,
            image=image,
            channel=channel,
            discord=discord,
            max_jobs=max_jobs,
            reply_url=reply_url,
            reply_ref=reply_ref,
        )

    async def button(
        self,
        jobid: str,
        button: str = "retry",
        *,
        channel: str | None = None,
        discord: str | Secret | None = None,
        max_jobs: int | None = None,
        reply_url: str | Secret | None = None,
        reply_ref: str | None = None,
    ) -> Job:
        """Press a button of a completed job, on whose channel the new job runs; see `create`."""
        discord, reply_url = hidden(discord), hidden(reply_url)
        return await self._submit(
            "button",
            jobid=jobid,
            button=button,
            channel=channel,
            discord=discord,
            max_jobs=max_jobs,
            reply_url=reply_url,
            reply_ref=reply_ref,
        )

    async def prepare(self, verb: Verb, /, **values: Any) -> Request[Job]:
        """Read the files that a submit names and check all its values, sending nothing.

        Args:
            verb: One of the five submits: `create`, `animate`, …
            values: Its parameters.

        Raises:
            InvalidArgument: `field` names the argument.
            RequestTimeout: A file could not be read in time.
        """
        deadline = self._clock.now() + self._timeout
        hide(values)
        for name in ("image", "message"):
            if isinstance(value := values.get(name), bytes | Path):
                left = deadline - self._clock.now()
                values[name] = await read_upload(name, value, clock=self._clock, seconds=left)
        return requests.submit(verb, values, self._cap_range)

    async def send(self, prepared: Request[Job], **values: str | Secret) -> Job:
        """Submit what `prepare` returned, once, with `channel`, `reply_ref` or `reply_url` set as given.

        Raises: As `create`.
        """
        hide(values)
        return await self._call(requests.amend(prepared, values))

    async def jobs(self) -> list[str]:
        """Return the ids of the jobs that run now, on all channels."""
        return await self._call(requests.get_jobs())

    async def job(self, jobid: str) -> Job:
        """Return a job; `NotFound` if it is unknown. A careful caller asks every 10–30 s, not faster."""
        return await self._call(requests.get_job(jobid))

    # --- life ------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Refuse further calls and close the session if it is its own; a second time does nothing.

        Raises:
            WrongLoop: The client was used in another event loop, where it has to be closed.
        """
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_reason: object) -> None:
        await self.close()

    @guarded
    def __repr__(self) -> str:
        return f"<PikaClient {self._base}{', closed' if self._transport.closed else ''}>"

    def __reduce__(self) -> Never:
        raise TypeError("a client holds a token and sockets, and cannot be pickled or copied")

    def __del__(self) -> None:
        transport: Transport | None = getattr(self, "_transport", None)
        if transport is not None and transport.left_open:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2, source=self)

    # --- one call --------------------------------------------------------------------------------------

    async def _submit(self, verb: Verb, **values: Any) -> Job:
        deadline = self._clock.now() + self._timeout
        request = await self.prepare(verb, **values)
        return await self._call(request, deadline)

    async def _call(self, request: Request[T], deadline: float | None = None) -> T:
        if deadline is None:
            deadline = self._clock.now() + self._timeout
        return await self._calls.make(request, deadline)


def _base(text: object) -> str | None:
    base = requests.base_url(text)
    try:
        return base if base and URL(base, encoded=True).raw_host else None
    except ValueError:
        return None
