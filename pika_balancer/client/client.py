"""`PikaClient`: the Pika API over aiohttp, without balancing. It sends a POST at most once.

Every method raises only `PikaError`, and passes a cancellation on. The traceback of an error holds no frame
of another library, and no frame of this one holds a token in the clear.
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
from typing import Any, Final, Never, Self, TypedDict, TypeVar, Unpack, cast

import aiohttp
from yarl import URL

from pika_balancer.client import requests
from pika_balancer.client.requests import Request, Upload, Verb
from pika_balancer.client.responses import CAP_RANGE
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

BASE_URL: Final = "https://api.useapi.net/v1/pika"
"""The address in the service's documentation."""

Image = bytes | Path | Upload
"""A file to send: its content, its path, or an `Upload`, which also has a name and a media type."""

_MAX_RETRIES: Final = 10
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 8.0
_TEMPORARY: Final = (ConnectFailed, ConnectionLost, RequestTimeout, RateLimited, LostTrack)
_TEMPORARY_STATUSES: Final = frozenset({500, 502, 503})

_log = logging.getLogger(__name__)


class SubmitOptions(TypedDict, total=False):
    """The options of every submit.

    For a configured account pass `channel` alone, for another one `discord`, `channel` and `max_jobs`.
    """

    channel: str | None
    """The channel to run on; None lets the service choose."""
    discord: str | Secret | None
    """The Discord token of an account that is not configured."""
    max_jobs: int | None
    """The cap to apply to the channel."""
    reply_url: str | Secret | None
    """Where the service reports the end of the job; at most 1024 characters."""
    reply_ref: str | None
    """Text that the report repeats; at most 1024 characters."""


class PikaClient:
    """Client of the Pika API. Use it with `async with`, or call `close` at the end.

    For one event loop: the one in which it is first used.

    Args:
        token: The API token; None reads `USEAPI_TOKEN` from the environment.
        base_url: Address of the API; None reads `PIKA_BASE_URL`, or takes `BASE_URL` if that is not set.
        session: Your session, which the client does not close; None creates one on first use. Unlike that
            one, yours may take stray bytes on a kept-alive connection for the next answer.
        timeout: Seconds for a whole call: connecting, sending, reading and retries together; above 0.
        retries: Maximum number of times to repeat a failed GET, 0 to 10. Nothing else is ever sent twice.
        cap_range: Lowest and highest `max_jobs` to send or accept; 1 to 10 by the service's contract.
        max_body: Maximum size of an answer in bytes, decompressed.
        clock: Measures the time limit and the pauses between retries.
        rng: Draws the pauses and the boundaries of forms.
        wall: Returns the seconds since 1970, for a `Retry-After` date.

    Raises:
        InvalidArgument: An argument is wrong; `field` names it, and the message does not quote it.
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
                "token must be printable ASCII without spaces; check for a newline at its end", field="token"
            )
        if base is None:
            raise InvalidArgument(
                "base_url must be http(s)://host[:port][/path], without credentials, query or fragment",
                field="base_url",
            )
        if type(timeout) not in (int, float) or not 0 < timeout < math.inf:
            raise InvalidArgument("timeout must be a number of seconds above 0", field="timeout")
        lowest, highest = cap_range
        requests.check_int("cap_range", lowest, 1, requests.check_int("cap_range", highest, 1))
        requests.check_int("max_body", max_body, 1)
        self._retries = requests.check_int("retries", retries, 0, _MAX_RETRIES)
        self._token = token
        self._base = base
        self._timeout = float(timeout)
        self._cap_range = (lowest, highest)
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._wall = wall
        self._transport = Transport(
            token, base, session=session, clock=self._clock, rng=self._rng, max_body=max_body
        )

    @property
    def base_url(self) -> str:
        """Address of the API, without a slash at the end."""
        return self._base

    # --- accounts --------------------------------------------------------------------------------------

    async def accounts(self) -> dict[str, Account]:
        """Return the account map by channel, in the server's order.

        Raises:
            NotFound: The service has no account configured. An empty map means the same.
            PikaError: The call failed; see `pika_balancer.errors`. This holds for every method.
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
            channel: Its Discord channel id, or an `Account`, whose values are the defaults of the others.
            discord: The Discord token.
            max_jobs: The cap.
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

    async def create(
        self, prompt: str, *, image: Image | None = None, **options: Unpack[SubmitOptions]
    ) -> Job:
        """Submit a video made from a prompt.

        Args:
            prompt: What to show; at most 1500 characters.
            image: Image to start from.
            options: See `SubmitOptions`.

        Raises:
            InvalidArgument: An argument is wrong; `field` names it. Nothing was sent.
            ChannelFull: The channel has no free slot.
            TransportError: `maybe_sent` is True if the service may have accepted the job.
            InvalidResponse: The job was accepted, but the answer is broken; `jobid` is set if it could be
                read.
        """
        return await self._submit("create", options, prompt=prompt, image=image)

    async def animate(
        self, image: Image, *, prompt: str | None = None, **options: Unpack[SubmitOptions]
    ) -> Job:
        """Submit a video made from an image; otherwise as `create`."""
        return await self._submit("animate", options, image=image, prompt=prompt)

    async def encrypt_text(
        self,
        message: str,
        prompt: str,
        *,
        font: str | None = None,
        image: Image | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Job:
        """Submit a video that hides a text of at most 20 characters; otherwise as `create`."""
        return await self._submit(
            "encrypt_text", options, message=message, prompt=prompt, font=font, image=image
        )

    async def encrypt_image(
        self, message: Image, prompt: str, *, image: Image | None = None, **options: Unpack[SubmitOptions]
    ) -> Job:
        """Submit a video that hides an image; otherwise as `create`."""
        return await self._submit("encrypt_image", options, message=message, prompt=prompt, image=image)

    async def button(self, jobid: str, button: str = "retry", **options: Unpack[SubmitOptions]) -> Job:
        """Press a button of a completed job; the new job runs on the same channel. Otherwise as `create`."""
        return await self._submit("button", options, jobid=jobid, button=button)

    async def prepare(self, verb: Verb, /, **values: Any) -> Request[Job]:
        """Read the files of a submit and check its arguments; send nothing.

        Args:
            verb: Name of a submit method: `create`, `animate`, …
            values: Its arguments.

        Raises:
            InvalidArgument: An argument is wrong; `field` names it.
            RequestTimeout: A file could not be read in time.
        """
        deadline = self._deadline()
        hide(values)
        for name in ("image", "message"):
            if isinstance(value := values.get(name), bytes | Path):
                left = deadline - self._clock.now()
                values[name] = await read_upload(name, value, clock=self._clock, seconds=left)
        return requests.submit(verb, values, self._cap_range)

    async def send(self, prepared: Request[Job], **values: str | Secret) -> Job:
        """Submit what `prepare` returned, once, with the given `channel`, `reply_ref` or `reply_url`.

        Raises as `create`.
        """
        hide(values)
        return await self._call(requests.with_values(prepared, values))

    async def jobs(self) -> list[str]:
        """Return the ids of the executing jobs of all channels."""
        return await self._call(requests.get_jobs())

    async def job(self, jobid: str) -> Job:
        """Return a job; `NotFound` if it is unknown. Ask every 10–30 s, not more often."""
        return await self._call(requests.get_job(jobid))

    # --- life ------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Refuse further calls and close the client's own session; closing twice does nothing.

        Raises:
            WrongLoop: The client was used in another event loop; close it there.
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

    async def _submit(self, verb: Verb, options: SubmitOptions, **values: Any) -> Job:
        # In place: the caller's frame holds the same dictionary.
        hide(cast("dict[str, Any]", options))
        deadline = self._deadline()
        return await self._call(await self.prepare(verb, **values, **options), deadline)

    def _deadline(self) -> float:
        return self._clock.now() + self._timeout

    async def _call(self, request: Request[T], deadline: float | None = None) -> T:
        """Send the request and return its value by the deadline; repeat it only if it is a GET."""
        deadline = self._deadline() if deadline is None else deadline
        attempt = 0
        while True:
            try:
                result = await self._attempt(request, deadline)
            except BaseException as stop:
                # A cancellation has passed through aiohttp's frames, whose locals hold the tokens.
                stop.__traceback__ = stop.__context__ = stop.__cause__ = None
                raise
            if not isinstance(result, PikaError):
                return result
            pause = self._pause(request, result, attempt)
            if pause is None or pause >= deadline - self._clock.now():
                break
            attempt += 1
            what = (request.method, request.path, type(result).__name__)
            _log.debug("%s %s failed: %s; retry %d in %.2f s", *what, attempt, pause)
            await self._clock.sleep(pause)
        try:
            raise result
        finally:
            del result  # the error's traceback refers to this frame

    async def _attempt(self, request: Request[T], deadline: float) -> T | PikaError:
        answer = await self._transport.send(request, deadline - self._clock.now())
        if isinstance(answer, PikaError):
            return answer
        return requests.outcome(request, answer, now=self._wall(), secrets=(self._token,))

    def _pause(self, request: Request[Any], error: PikaError, attempt: int) -> float | None:
        """Return the seconds to wait before the next attempt, with full jitter; None if there is none."""
        temporary = isinstance(error, _TEMPORARY) or (
            isinstance(error, ServiceError) and error.status in _TEMPORARY_STATUSES
        )
        if not request.idempotent or not temporary or attempt >= self._retries:
            return None
        jitter = self._rng.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt))
        return max(jitter, error.retry_after or 0.0)


def _base(text: object) -> str | None:
    base = requests.base_url(text)
    try:
        return base if base and URL(base, encoded=True).raw_host else None
    except ValueError:
        return None
