"""`LocalServer`: the documented API, with its settings and its statistics."""

import asyncio
import contextlib
import datetime as dt
import json
import random
import socket
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from pathlib import Path
from typing import Final, cast

from aiohttp import web

from pika_balancer._util.tasks import shielded
from pika_balancer._util.validators import checked, checked_whole
from pika_balancer.clock import Clock, SystemClock
from pika_balancer.distributions import Distribution, parse_distribution
from pika_balancer.errors import InvalidArgument
from pika_balancer.server.accounts import AccountsFile, ServerAccount, check_accounts
from pika_balancer.server.answers import JsonProtocol
from pika_balancer.server.app import PREFIX, Handlers, digest
from pika_balancer.server.callback import CallbackSender
from pika_balancer.server.faults import FaultScript, ScriptedFault
from pika_balancer.server.jobs import Jobs, ServerJob
from pika_balancer.server.state import ServerStatistics, State
from pika_balancer.server.submit import Submits
from pika_balancer.server.timeline import Timeline

BODY_LIMIT: Final = 32 * 1024 * 1024
"""Largest request body, in bytes."""

IDLE: Final = 75.0
"""Seconds after which a connection without a complete request is closed."""

_LINGER: Final = 1.0
_STOP_WITHIN: Final = 0.25
_ALL_INTERFACES: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound


class LocalServer:
    """The documented Pika API on this machine, with its own state, an injected clock and scripted faults.

    The state outlives a run: a server that is stopped and run again still has its jobs and counts.

    Args:
        accounts: The initial accounts: caps by channel id, `(channel, cap)` pairs, or values from
            `parse_accounts`.
        token: The API token to require; None accepts any non-empty bearer token.
        service: Distribution of service times, or its text, such as `exp:30s`.
        speed: All times of the service (service times, polls, parameters of faults) are divided by it.
        notice: Period, in seconds, of the poll by which the service learns that jobs have ended; polls happen
            at its multiples since the server was made. 0: at once; the real service has 15–60 s.
        faults: Scripted faults of job submits, as `ScriptedFault` or as texts for `parse_fault`.
        rng: Source of all chance; None makes an unseeded one.
        clock: Source of all time of the service.
        epoch: Wall time, with a time zone, at which the server is made, for ISO stamps, which move with
            `clock`; None is now.
        accounts_file: File of the accounts, mode 0600. An existing file is read and `accounts` is ignored;
            otherwise it is made from `accounts`.
        allowed_hosts: Names to accept in the `Host` header, beside localhost. On connections from other
            machines, addresses and names without a dot are accepted too. Other names are refused, because
            they may belong to a web page (DNS rebinding).
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
        epoch: dt.datetime | None = None,
        accounts_file: str | Path | None = None,
        allowed_hosts: Collection[str] = (),
        allow_remote_callbacks: bool = False,
        retain: int = 100_000,
        body_limit: int = BODY_LIMIT,
    ) -> None:
        token_digest = None if token is None else digest(token.strip())
        del token  # so that no traceback of an error below shows it
        if token_digest == digest(""):
            raise InvalidArgument("token must not be empty; None accepts any token", field="token")
        checked(speed, "speed", above=0)
        checked(notice, "notice", least=0)
        checked_whole(retain, "retain", least=0)
        checked_whole(body_limit, "body_limit")
        epoch = epoch or dt.datetime.now(dt.UTC)
        if epoch.tzinfo is None:
            raise InvalidArgument("epoch must have a time zone, such as datetime.UTC", field="epoch")
        distribution = parse_distribution(service) if isinstance(service, str) else service
        rng = rng or random.Random()  # noqa: S311 - service times and balancing, not cryptography
        script = FaultScript.of(faults)
        self._callbacks = CallbackSender(allow_remote=allow_remote_callbacks)
        self._timeline = Timeline(clock or SystemClock(), epoch)
        self._state = _state(accounts, accounts_file)
        self._jobs = Jobs(
            self._state,
            self._timeline,
            draw=distribution.one(rng),
            speed=speed,
            notice=notice,
            retain=retain,
            report=self._report,
        )
        self._handlers = Handlers(
            state=self._state,
            jobs=self._jobs,
            submits=Submits(
                state=self._state,
                jobs=self._jobs,
                timeline=self._timeline,
                rng=rng,
                script=script,
                speed=speed,
                body_limit=body_limit,
                allow_remote=allow_remote_callbacks,
            ),
            token_digest=token_digest,
            allowed_hosts=frozenset(host.lower() for host in allowed_hosts),
        )

    def statistics(self) -> ServerStatistics:
        """Return what the server has counted so far."""
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
            RuntimeError: The server is already running.
        """
        runner = web.AppRunner(self.app(), shutdown_timeout=_STOP_WITHIN)
        await runner.setup()
        try:
            loop = asyncio.get_running_loop()
            server = cast("web.Server", runner.server)  # None only before setup()
            # `TCPSite` takes no protocol class. Serving starts later, so that a cancellation meanwhile finds
            # the listener in a variable and closes it.
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


def _state(
    accounts: Mapping[str, int] | Iterable[ServerAccount | tuple[str, int]], path: str | Path | None
) -> State:
    checked = check_accounts(accounts)
    if path is None:
        return State(checked, save=lambda _accounts: None)
    file = AccountsFile(Path(path))
    known = file.read()
    if known is None:
        file.write(checked.values())
    return State(checked if known is None else known, save=lambda changed: file.write(changed.values()))


def _base_url(bound: socket.socket) -> str:
    address, port = bound.getsockname()[:2]
    host = _ALL_INTERFACES.get(str(address), str(address))
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{PREFIX}"
