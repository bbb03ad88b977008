"""Sends malformed answers to `PikaClient`, and checks what must hold.

A call returns a valid value or raises a `PikaError` within its deadline, and shows no token. A POST is sent
once, and counts as refused only if the answer says so. The next call on the same client gets its own answer,
and no connection or task is left.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import random
import re
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Final, Self

import attrs

from pika_balancer.client.client import PikaClient
from pika_balancer.dispatch.submitter import SubmitOutcome, submit_outcome
from pika_balancer.errors import ConnectFailed, InvalidArgument, PikaError
from pika_balancer.models import Account, Job
from pika_balancer.testing import ManualClock, settle, wait_until
from tests.hostile_http.answers import Bad
from tests.leaks import CANARIES, DISCORD, STORED, TOKEN, leaks
from tests.raw_server import Connection, RawServer, Received, reply

TIMEOUT: Final = 30.0
MAX_BODY: Final = 65_536
_HANGS: Final = 20.0
_FLOOD: Final = 3 * 2**20
_DEPTH: Final = 2
"""Steps from a local variable within which tokens are searched, to limit the time for so many errors."""
_FLOODED: Final = 0.2
_DRIPPED: Final = 200
_LONGEST_MESSAGE: Final = 1500
_UNDECIDED: Final = (SubmitOutcome.UNKNOWN, SubmitOutcome.LOST)


@attrs.frozen
class Call:
    """A call of the client, and its result with a good answer."""

    make: Callable[[PikaClient], Awaitable[Any]]
    good: bytes
    """The body of a good answer."""
    value: Any
    """The value of the good answer."""
    once: bool = attrs.field(default=False, kw_only=True)
    """Whether it must be sent only once."""


JOB: Final = b'{"jobid": "job:good", "status": "started", "replyRef": "r"}'
ACCOUNTS: Final = json.dumps({"55": {"channel": "55", "discord": STORED, "maxJobs": 3}}).encode()
_GOOD_JOB: Final = Job("job:good", "started", reply_ref="r")

CALLS: Final[dict[str, Call]] = {
    "create": Call(
        lambda client: client.create("a cat", channel="55", discord=DISCORD, max_jobs=3),
        JOB,
        _GOOD_JOB,
        once=True,
    ),
    "accounts": Call(lambda client: client.accounts(), ACCOUNTS, {"55": Account("55", 3, STORED)}),
    "job": Call(lambda client: client.job("job:good"), JOB, _GOOD_JOB),
    "jobs": Call(lambda client: client.jobs(), b'["job:good"]', ["job:good"]),
    "put_account": Call(
        lambda client: client.put_account("55", discord=DISCORD, max_jobs=3), b"{}", None, once=True
    ),
    "delete_account": Call(lambda client: client.delete_account("55"), b"{}", None, once=True),
    "animate": Call(
        lambda client: client.animate(b"x" * 100_000, discord=DISCORD), JOB, _GOOD_JOB, once=True
    ),
}


@attrs.frozen
class Trial:
    """One answer to one call."""

    name: str
    bad: Bad
    call: str


@attrs.frozen
class Outcome:
    """The outcome of a call."""

    trial: Trial
    kind: str
    """`value`, or the name of the error's class."""
    complaints: list[str]


class Stage:
    """A server that sends one bad answer for each trial, and good ones otherwise."""

    def __init__(self) -> None:
        self.server = RawServer(self._serve)
        self._bad: list[Bad] = []
        self._good = b""
        self._worst = asyncio.Event()
        """Set when the bad answer has been sent."""
        self._answered = asyncio.Event()
        """Set when the call has ended."""
        self._told = asyncio.Event()
        """Set when the bad answer and what follows it have been sent."""

    async def __aenter__(self) -> Self:
        await self.server.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.server.__aexit__(kind, error, trace)

    async def play(self, trial: Trial) -> Outcome:
        """Make one call that is answered badly and one that is answered well; return the outcome."""
        call = CALLS[trial.call]
        self._bad[:], self._good = [trial.bad], call.good
        self._worst, self._answered, self._told = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.server.requests.clear()
        clock = ManualClock()
        client = PikaClient(
            TOKEN,
            base_url=self.server.url,
            timeout=TIMEOUT,
            retries=10 if call.once else 0,
            max_body=MAX_BODY,
            clock=clock,
            rng=random.Random(7),
        )
        complaints: list[str] = []
        async with client:
            result = await self._ending(call, client, clock)
            self._answered.set()
            complaints += self._judged(trial, call, result)
            if not self._bad:
                await self._told.wait()
            self._bad.clear()
            await settle(8)
            complaints += await self._afterwards(call, client)
        try:
            await wait_until(lambda: self.server.open == 0)
        except TimeoutError:
            complaints.append("a connection is left open")
        kind = type(result).__name__ if isinstance(result, BaseException) else "value"
        return Outcome(trial, kind, complaints)

    async def _ending(self, call: Call, client: PikaClient, clock: ManualClock) -> Any:
        """Return the value or the exception; move the clock to the deadline if the call has not ended."""
        task = asyncio.ensure_future(call.make(client))
        worst = asyncio.ensure_future(self._worst.wait())
        await asyncio.wait({task, worst}, timeout=_HANGS, return_when=asyncio.FIRST_COMPLETED)
        worst.cancel()
        for _ in range(5):
            if task.done():
                break
            await settle()
        if not task.done():
            await clock.advance(TIMEOUT - 1e-6)
            await clock.advance(2e-6)
        done, _ = await asyncio.wait({task}, timeout=_HANGS)
        if not done:
            task.cancel()
            return TimeoutError("hangs")
        return task.exception() or task.result()

    def _judged(self, trial: Trial, call: Call, result: Any) -> Iterator[str]:
        sent = [each.method for each in self.server.requests]
        if len(sent) > 1:
            yield f"sent {len(sent)} times"
        if not isinstance(result, BaseException):
            if not sound(result, call.value):
                yield f"an invalid value: {result!r:.300}"
            if "rogue" in repr(result):
                yield f"accepts an unsolicited answer: {result!r:.300}"
            return
        if not isinstance(result, PikaError) or isinstance(result, InvalidArgument):
            yield f"a foreign error: {result!r:.300}"
            return
        if result.__context__ is not None or result.__cause__ is not None:
            yield "an error with a chain behind it"
        if not result.message.isprintable() or len(result.message) > _LONGEST_MESSAGE:
            yield f"a message with unprintable characters: {result.message!a:.300}"
        yield from (f"shows a token in {text:.100}…" for text in leaks(result, depth=_DEPTH))
        if call.once:
            yield from _certainty(trial, result, reached=bool(sent))

    async def _afterwards(self, call: Call, client: PikaClient) -> list[str]:
        try:
            async with asyncio.timeout(_HANGS):
                value = await call.make(client)
        except (PikaError, TimeoutError) as error:
            return [f"the next call fails: {error!r:.300}"]
        try:
            # The next call has taken the connection of the first, unless that is closed or was not released.
            await wait_until(lambda: self.server.open <= 1)
        except TimeoutError:
            return ["a connection was not released"]
        return [] if value == call.value else [f"the next call gets another's answer: {value!r:.300}"]

    async def _serve(self, connection: Connection) -> None:
        if self._bad and not await self._badly(self._bad.pop(), connection):
            return
        while True:
            await connection.request()
            await connection.send(reply(200, self._good))

    async def _badly(self, bad: Bad, connection: Connection) -> bool:
        """Send the bad answer; return whether the connection goes on."""
        worst, answered, told = self._worst, self._answered, self._told
        try:
            received: Received | None = None
            if bad.when != "at once":
                received = await connection.request(body=bad.when == "after the request")
            await connection.send(bad.start)
            if bad.more:
                await _flood(bad, connection, worst, answered)
            match bad.end:
                case "reset":
                    connection.reset()
                    return False
                case "close":
                    return False
                case _:
                    await connection.rest_of(received)
            if bad.late:
                worst.set()
                await answered.wait()
                await connection.send(bad.late)
            return True
        finally:
            worst.set()
            told.set()


async def _flood(bad: Bad, connection: Connection, worst: asyncio.Event, answered: asyncio.Event) -> None:
    sent = 0
    # Also set if the client has stopped reading.
    asyncio.get_running_loop().call_later(_FLOODED, worst.set)
    while not answered.is_set():
        if bad.drip:
            for byte in bad.more:
                await connection.send(bytes([byte]))
                await asyncio.sleep(0)
                if (sent := sent + 1) > _DRIPPED:
                    worst.set()
        else:
            await connection.send(bad.more)
            if (sent := sent + len(bad.more)) > _FLOOD:
                worst.set()
            await asyncio.sleep(0)


def sound(value: Any, like: Any) -> bool:
    """Return whether a value is valid for its type."""
    if isinstance(like, Job):
        # An empty status counts as an unknown one: the job is running.
        return isinstance(value, Job) and _texts(value.jobid, value.status or "unknown")
    if isinstance(like, dict):
        return isinstance(value, dict) and all(
            _texts(channel) and account.channel == channel and account.max_jobs in range(1, 11)
            for channel, account in value.items()
        )
    if isinstance(like, list):
        return isinstance(value, list) and all(_texts(jobid) for jobid in value)
    return value is None


def _texts(*values: Any) -> bool:
    return all(isinstance(value, str) and value and value.encode() for value in values)


def _certainty(trial: Trial, error: PikaError, *, reached: bool) -> Iterator[str]:
    """Yield why an error is too certain about a submit that may have been accepted."""
    meaning = submit_outcome(error)
    if meaning in _UNDECIDED:
        return
    if meaning is SubmitOutcome.NOT_SENT:
        if reached or isinstance(error, ConnectFailed):
            yield f"counts as not sent: {error!r}"
    elif error.status not in range(300, 600) or not re.match(
        rb"[\s\S]*?HTTP/\d[^ ]* +0*%d\b" % (error.status or 0), trial.bad.start
    ):
        yield f"counts as refused without such an answer: {error!r}"


# --- many at once --------------------------------------------------------------------------------------


@attrs.define
class Tally:
    """The outcomes of many trials."""

    outcomes: Counter[tuple[str, str]] = attrs.Factory(Counter)
    """By group and kind."""
    escapes: list[str] = attrs.Factory(list)

    @property
    def tried(self) -> int:
        """Number of trials."""
        return self.outcomes.total()

    def add(self, group: str, kind: str, label: str, complaints: Iterable[str]) -> None:
        """Count one."""
        self.outcomes[group, kind] += 1
        self.escapes += [f"{label}: {complaint}" for complaint in complaints]


async def attack(trials: Iterable[Trial], tally: Tally, *, group: str, at_once: int = 16) -> None:
    """Play all trials, `at_once` at a time, and count the outcomes."""
    left = iter(trials)

    async def work() -> None:
        async with Stage() as stage:
            for trial in left:
                outcome = await stage.play(trial)
                label = f"{trial.name} → {trial.call} {trial.bad!r:.600}"
                tally.add(group, outcome.kind, label, outcome.complaints)

    async with listening(tally), asyncio.TaskGroup() as tasks:
        for _ in range(at_once):
            tasks.create_task(work())


def each(answers: Iterable[tuple[str, Bad]], *calls: str) -> Iterator[Trial]:
    """Yield a trial of every answer with every call."""
    for (name, bad), call in itertools.product(list(answers), calls):
        yield Trial(name, bad, call)


@contextlib.asynccontextmanager
async def listening(tally: Tally, *, names: tuple[str, ...] = ("pika_balancer",)) -> AsyncGenerator[None]:
    """Count a log that shows a token, and warnings of other libraries, as failures."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said = record.getMessage()
            ours = record.name.startswith(names)
            if any(canary in said + repr(vars(record)) for canary in CANARIES):
                tally.escapes.append(f"a log shows a token: {record.name}: {said:.200}")
            elif record.levelno >= logging.WARNING and (not ours or record.exc_info):
                tally.escapes.append(f"a log of others: {record.name}: {said:.300} {record.exc_info}")
            elif ours and not said.isprintable() and not record.exc_info:
                tally.escapes.append(f"a log with unprintable characters: {said[-500:]!a}")

    listener = Listener()
    root = logging.getLogger()
    level = root.level
    root.addHandler(listener)
    root.setLevel(logging.DEBUG)
    try:
        yield
        await settle()
    finally:
        root.setLevel(level)
        root.removeHandler(listener)
