"""The local server as one object: its settings, its life, its counts."""

import asyncio
import contextlib
import datetime as dt
import json
import math
import random
import socket
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Final, cast

from aiohttp import web

from pika_balancer._util.tasks import shielded
from pika_balancer.clock import Clock, SystemClock
from pika_balancer.distributions import Distribution, parse_distribution
from pika_balancer.errors import InvalidArgument
from pika_balancer.server.accounts import MAX_JOBS_LIMIT, AccountsFile, ServerAccount, check_accounts
from pika_balancer.server.answers import JsonProtocol
from pika_balancer.server.app import PREFIX, SAMPLE, Handlers, digest
from pika_balancer.server.callback import CallbackSender
from pika_balancer.server.faults import FaultScript, ScriptedFault
from pika_balancer.server.jobs import Calendar, Jobs, ServerJob
from pika_balancer.server.state import ServerStatistics, State
from pika_balancer.server.submit import Submits
from pika_balancer.server.timeline import Timeline

BODY_LIMIT: Final = 32 * 1024 * 1024
"""Largest request body, in bytes."""

IDLE: Final = 75.0
"""Seconds after which a connection is closed on which no request has come, be it half of one."""

_LINGER: Final = 1.0  # for what comes after an answer, be the caller there or gone
_STOP_WITHIN: Final = 0.25
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognised, never bound


class LocalServer:
    """The documented Pika API on this machine, with explicit state, a clock of your own and scripted faults.

    The state outlives a run: a server that is stopped and run again still has its jobs and counts.

    Args:
        accounts: What is configured at the start: caps by channel id, `(channel, cap)` pairs, or values from
            `parse_accounts`.
        token: The API token to insist on; None takes any non-empty bearer token.
        service: Law of service times, as `parse_distribution` reads it, or a `Distribution`.
        speed: All times of the service (service times, polls, faults' parameters) are divided by it.
        notice: Period, in seconds, of the poll by which the service learns that jobs have ended; polls happen
            at its multiples since the server was made. 0: ends are noticed at once; the real service has
            15–60 s.
        faults: Scripted faults of job submits, as `Fault` or as `parse_fault` reads them.
        rng: Source of all chance; None makes an unseeded one.
        clock: Source of all time of the service.
        epoch: Wall time at which the server is made, for ISO stamps, or a function that tells it; None asks
            the system. Stamps move with `clock`.
        accounts_file: Where accounts are kept, mode 0600. A file that exists is read and `accounts` is not
            used; one that does not is made with `accounts` in it.
        max_jobs_limit: The largest `maxJobs` that is taken; the documented service has 10.
        allowed_hosts: Names under which requests may come in, beside localhost, and on connections from other
            machines addresses and names without a dot. No web page can then reach it by a name of its own.
        allow_remote_callbacks: Whether `replyUrl` may lead to other machines.
        retain: How many ended jobs are kept, the newest.
        body_limit: Largest request body, in bytes.

    Raises:
        InvalidArgument: A setting cannot work; its `field` names it.
        OSError: The accounts file cannot be made.
    """

    def __init__(
        self,
        accounts: Mapping[str, int] | Iterable[ServerAccount | tuple[str, int]] = (),
        *,
        token: str | None = None,
        service: str | Distribution = "exp:30s",
        speed: float = 1.0,
        notice: float = 0.0,
        faults: Iterable[ScriptedFault | str] = (),
        rng: random.Random | None = None,
        clock: Clock | None = None,
        epoch: dt.datetime | Callable[[], dt.datetime] | None = None,
        accounts_file: str | Path | None = None,
        max_jobs_limit: int = MAX_JOBS_LIMIT,
        allowed_hosts: Collection[str] = (),
        allow_remote_callbacks: bool = False,
        retain: int = 100_000,
        body_limit: int = BODY_LIMIT,
    ) -> None:
        token_digest = None if token is None else digest(token.strip())
        no_token = token is not None and not token.strip()
        # Nothing that is raised below can then carry it in a frame of its traceback.
        del token
        _require(not no_token, "token", "must not be empty; None takes any token")
        _require(0 < speed < math.inf, "speed", "must be a number above 0")
        _require(0 <= notice < math.inf, "notice", "must be a number of seconds, at least 0")
        _require(max_jobs_limit >= 1, "max_jobs_limit", "must be at least 1")
        _require(retain >= 0, "retain", "must be at least 0")
        _require(body_limit >= 1, "body_limit", "must be at least 1")
        law = parse_distribution(service) if isinstance(service, str) else service
        script = FaultScript.of(faults)
        clock = clock or SystemClock()
        rng = rng or random.Random()  # noqa: S311 - service times and balancing, not cryptography
        calendar = Calendar(clock, _epoch(epoch))
        self._callbacks = CallbackSender(allow_remote=allow_remote_callbacks)
        self._timeline = Timeline(clock)
        self._state = _state(accounts, accounts_file, max_jobs_limit)
        self._jobs = Jobs(
            self._state,
            timeline=self._timeline,
            clock=clock,
            calendar=calendar,
            rng=rng,
            law=law,
            speed=speed,
            notice=notice,
            retain=retain,
            file_size=SAMPLE.stat().st_size,
            report=self._report,
        )
        submits = Submits(
            state=self._state,
            jobs=self._jobs,
            timeline=self._timeline,
            clock=clock,
            calendar=calendar,
            rng=rng,
            script=script,
            speed=speed,
            max_jobs_limit=max_jobs_limit,
            body_limit=body_limit,
            allow_remote=allow_remote_callbacks,
        )
        self._handlers = Handlers(
            state=self._state,
            jobs=self._jobs,
            submits=submits,
            token_digest=token_digest,
            allowed_hosts=allowed_hosts,
            max_jobs_limit=max_jobs_limit,
            body_limit=body_limit,
            clock=clock,
        )

    def statistics(self) -> ServerStatistics:
        """Return what the server has seen until now."""
        return self._state.statistics()

    def app(self) -> web.Application:
        """Return an aiohttp application with the API below `/v1/pika`, to run or to mount.

        Each call makes a new one over the same state; only one of them can run at a time.
        """
        app = self._handlers.application()
        app.on_startup.append(self._start)
        app.on_shutdown.append(self._stop)
        app.on_cleanup.append(self._clean)
        return app

    @contextlib.asynccontextmanager
    async def run(self, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str, None]:
        """Serve while the context lasts, and yield the base URL, such as `http://127.0.0.1:8080/v1/pika`.

        Args:
            host: Address to bind; the default keeps other machines out.
            port: Port to bind; 0 takes a free one.

        Raises:
            OSError: The address cannot be bound.
            RuntimeError: The server runs already.
        """
        runner = web.AppRunner(self.app(), shutdown_timeout=_STOP_WITHIN)
        await runner.setup()
        try:
            loop = asyncio.get_running_loop()
            server = cast("web.Server", runner.server)  # None only before setup()
            # Not `TCPSite`, which offers no way to a protocol of one's own. And not served at once: whoever
            # is cancelled while it begins to serve has to have it in hand, to close it.
            listener = await loop.create_server(
                lambda: JsonProtocol(server, loop=loop, keepalive_timeout=IDLE, lingering_time=_LINGER),
                host,
                port,
                backlog=1024,
                start_serving=False,
            )
            try:
                await listener.start_serving()
                yield _base_url(listener.sockets[0])
            finally:
                listener.close()
        finally:
            await shielded(runner.cleanup())

    def _report(self, job: ServerJob) -> None:
        if job.reply_url is not None:
            body = json.dumps(self._jobs.as_wire(job)).encode()
            self._callbacks.send(job.reply_url, body, jobid=job.jobid)

    async def _start(self, _app: web.Application) -> None:
        self._timeline.start()

    async def _stop(self, _app: web.Application) -> None:
        self._timeline.stop()

    async def _clean(self, _app: web.Application) -> None:
        await self._callbacks.close()


def _require(condition: bool, field: str, problem: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not condition:
        raise InvalidArgument(f"{field} {problem}", field=field)


def _epoch(epoch: dt.datetime | Callable[[], dt.datetime] | None) -> dt.datetime:
    if epoch is None:
        return dt.datetime.now(dt.UTC)
    moment = epoch() if callable(epoch) else epoch
    _require(moment.tzinfo is not None, "epoch", "must have a time zone, such as datetime.UTC")
    return moment


def _state(
    accounts: Mapping[str, int] | Iterable[ServerAccount | tuple[str, int]],
    path: str | Path | None,
    limit: int,
) -> State:
    checked = check_accounts(accounts, limit=limit)
    if path is None:
        return State(checked, save=lambda _accounts: None)
    file = AccountsFile(Path(path))
    known = file.read(limit=limit)
    if known is None:
        file.write(checked.values())
    return State(checked if known is None else known, save=lambda changed: file.write(changed.values()))


def _base_url(bound: socket.socket) -> str:
    address, port = bound.getsockname()[:2]
    host = _EVERYWHERE.get(str(address), str(address))
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{PREFIX}"
