"""The outcome of each call of the client under each fault of the network, and the requests the server saw.

`python -m tests.fault_matrix` prints it, with a row for each fault and a column for each kind of call:

- `ok`, or the error, with `?` if it says that the service may have the request, and `!` if it says that the
  service has not: `Lost` is a `ConnectionLost`, `Timeout` a `RequestTimeout`, `Failed` a `ConnectFailed`;
- the number of requests whose heads reached the server;
- `done` if the server did what the request asked for, and `id` if the error has the job's id.

Everything runs in one event loop, over real sockets to the local server, on manual clocks: the clock moves to
the deadline when nothing has arrived after some turns of the loop.
"""

import argparse
import asyncio
import datetime as dt
import inspect
import random
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
from aiohttp import web

from pika_balancer import Job, PikaClient, PikaError, TransportError
from pika_balancer.server import LocalServer
from pika_balancer.testing import ManualClock, settle, wait_until
from tests.connection_faults import (
    BlackHole,
    Cut,
    Delay,
    Direction,
    Drip,
    Drop,
    Fault,
    HalfClose,
    Reorder,
    Reset,
    Stall,
)
from tests.fault_proxy import FaultProxy

ONE, TWO = "100000000000000001", "100000000000000002"
DEADLINE: Final = 30.0
RETRIES: Final = 2
TURNS: Final = 300
"""Turns of the loop after which everything has arrived; a call takes about fifty."""
DRIP_TURNS: Final = 5000
"""The same for faults that send byte by byte."""
AT_ONCE: Final = 40


@attrs.frozen
class Sizes:
    """Length of a call's request and reply without a fault, in bytes."""

    requests: int
    replies: int


Recipe = Callable[[Sizes], Fault]


@attrs.frozen
class Row:
    """One fault."""

    name: str
    recipe: Recipe | None = None
    """Makes the fault that the proxy injects; None for the special cases in `strike`."""
    kept: bool = False
    """Whether the call reuses the connection of an earlier one."""


def _at(kind: Callable[..., Fault], on: Direction, point: str, **options: Any) -> Recipe:
    """Return a recipe for a fault at a point of the request or reply."""

    def recipe(sizes: Sizes) -> Fault:
        size = getattr(sizes, on)
        # Every head is longer than 40 bytes.
        after = {"at start": 0, "in head": 40, "at last byte": size - 1, "at end": size}
        return kind(after[point], on=on, **options)

    return recipe


_POINTS: Final[dict[Direction, tuple[str, ...]]] = {
    "requests": ("at start", "in head", "at last byte", "at end"),
    "replies": ("at start", "in head", "at last byte"),
}
_WORDS: Final[dict[Direction, str]] = {"requests": "request", "replies": "reply"}


def _rows() -> list[Row]:
    rows = [
        Row("none"),
        Row("connection refused"),
        Row("connection reset", lambda _: Reset()),
        Row("connection never answered", lambda _: BlackHole()),
        Row("connections reordered"),
        *(Row(f"kept: {how} while idle", kept=True) for how in ("closed", "reset", "closed unnoticed")),
    ]
    for on, word in _WORDS.items():
        whole: dict[str, Fault] = {
            "delayed": Delay(1.0, on=on),
            "drips": Drip(0.0, on=on),
            "drips too slowly": Drip(10.0, on=on),
            "dropped": Drop(on=on),
        }
        rows += [Row(f"{word} {name}", lambda _, fault=fault: fault) for name, fault in whole.items()]  # type: ignore[misc]  # bound here
        for point in _POINTS[on]:
            rows += [
                Row(f"{word} cut {point}", _at(Cut, on, point)),
                Row(f"{word} half-closed {point}", _at(HalfClose, on, point)),
            ]
            if point != "at end":
                rows.append(Row(f"{word} stalls {point}", _at(Stall, on, point)))
        rows += [
            Row(f"{word} reset at start", _at(Cut, on, "at start", reset=True)),
            Row(f"{word} reset at last byte", _at(Cut, on, "at last byte", reset=True)),
            Row(f"kept: {word} dropped", lambda _, on=on: Drop(on=on), kept=True),  # type: ignore[misc]  # bound here
            Row(f"kept: {word} cut at start", _at(Cut, on, "at start"), kept=True),
            Row(f"kept: {word} cut at last byte", _at(Cut, on, "at last byte"), kept=True),
            Row(f"kept: {word} reset at start", _at(Cut, on, "at start", reset=True), kept=True),
            Row(f"kept: {word} half-closed at start", _at(HalfClose, on, "at start"), kept=True),
        ]
    return rows


ROWS: Final = _rows()


class Server(LocalServer):
    """The local server; also records the requests whose heads arrived."""

    def __init__(self, clock: ManualClock, cap: int = 5, service: str = "fixed:1s") -> None:
        super().__init__(
            {ONE: cap}, service=service, clock=clock, epoch=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        )
        self.seen: list[str] = []

    def app(self) -> web.Application:
        """Return the application, with a record of each request."""

        @web.middleware
        async def count(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            self.seen.append(f"{request.method} {request.path}")
            return await handler(request)

        app = super().app()
        app.middlewares.insert(0, count)
        return app


class Hasty(random.Random):
    """Draws the shortest pauses."""

    def uniform(self, a: float, b: float) -> float:  # noqa: ARG002 - the signature of a method
        """Return the lower end."""
        return a


@attrs.define
class World:
    """The objects of one cell."""

    clock: ManualClock
    server: Server
    proxy: FaultProxy
    client: PikaClient
    jobid: str = ""
    """Id of a completed job, for calls that need one."""

    async def prepare(self, name: str, url: str) -> None:
        """Prepare the call of that name, without the proxy."""
        if name in {"job", "button"}:
            async with PikaClient("token", base_url=url) as straight:
                self.jobid = (await straight.create("a dog")).jobid
            await self.clock.advance(1.0)

    async def finish(self, work: "asyncio.Task[Any]", turns: int = TURNS) -> None:
        """Return when the work is done; fail if that is later than its deadline."""
        for seconds in (1.5, DEADLINE):
            for _ in range(turns // 10):
                await settle(10)
                if work.done():
                    return
            # More real time, for a busy machine.
            await asyncio.sleep(0.02)
            await self.clock.advance(seconds)
        await settle()
        assert work.done(), "a call takes longer than its deadline"


Call = Callable[[World], Awaitable[Any]]


async def _send(world: World) -> Job:
    return await world.client.send(await world.client.prepare("create", prompt="a cat"), channel=ONE)


READS: Final[dict[str, Call]] = {
    "accounts": lambda world: world.client.accounts(),
    "account": lambda world: world.client.account(ONE),
    "jobs": lambda world: world.client.jobs(),
    "job": lambda world: world.client.job(world.jobid),
}
CHANGES: Final[dict[str, Call]] = {
    "put_account": lambda world: world.client.put_account(TWO, discord="discord-token", max_jobs=2),
    "delete_account": lambda world: world.client.delete_account(ONE),
}
SUBMITS: Final[dict[str, Call]] = {
    "create": lambda world: world.client.create("a cat"),
    "animate": lambda world: world.client.animate(b"\x89PNG\r\n\x1a\n"),
    "encrypt_text": lambda world: world.client.encrypt_text("hello", "in the clouds"),
    "encrypt_image": lambda world: world.client.encrypt_image(b"\x89PNG\r\n\x1a\n", "in the sand"),
    "button": lambda world: world.client.button(world.jobid),
    "send": _send,
}
CALLS: Final = {**READS, **CHANGES, **SUBMITS}
COLUMNS: Final = {
    "GET": tuple(READS),
    "delete_account": ("delete_account",),
    "put_account": ("put_account",),
    "submit": tuple(SUBMITS),
}
"""Kinds of calls for which the network behaves in the same way."""

SENDS_NOTHING: Final = {"prepare", "close"}


def public_calls() -> set[str]:
    """Return the names of all calls of the client that send a request."""
    return {
        name
        for name, thing in vars(PikaClient).items()
        if inspect.iscoroutinefunction(thing) and not name.startswith("_")
    } - SENDS_NOTHING


def _done(world: World, name: str) -> bool:
    """Return whether the server did what the call asks for."""
    if name in SUBMITS:
        return world.server.statistics().jobs - bool(world.jobid) == 1
    seen = world.server.statistics().channels
    accounts = {channel for channel, account in seen.items() if account.max_jobs is not None}
    return {"put_account": TWO in accounts, "delete_account": ONE not in accounts}.get(name, False)


async def cell(row: Row, name: str, sizes: Sizes) -> str:
    """Make one call under one fault, and return the text of its cell.

    Raises:
        AssertionError: A POST was sent twice, an error is wrong about what was sent, the client does not work
            afterwards, or a connection is left open.
    """
    clock = ManualClock()
    server = Server(clock)
    async with server.run() as url, FaultProxy.before(url, clock=clock) as proxy:
        async with PikaClient(
            "token", base_url=proxy.url, timeout=DEADLINE, retries=RETRIES, rng=Hasty(7), clock=clock
        ) as client:
            world = World(clock, server, proxy, client)
            await world.prepare(name, url)
            text = await _suffer(row, name, sizes, world)
        await wait_until(lambda: proxy.open == 0)
    return text


async def _suffer(row: Row, name: str, sizes: Sizes, world: World) -> str:
    server, proxy = world.server, world.proxy
    call = CALLS[name]
    if row.kept:
        await world.client.jobs()
    server.seen.clear()
    strike(row, sizes, proxy)
    if "unnoticed" not in row.name:
        await settle()
    work = asyncio.ensure_future(call(world))
    beside = asyncio.ensure_future(world.client.jobs()) if "reordered" in row.name else None
    await world.finish(work, DRIP_TURNS if row.name.endswith("drips") else TURNS)
    if beside is not None:
        await beside
        server.seen.remove("GET /v1/pika/jobs")
    seen, done = len(server.seen), _done(world, name)
    assert seen <= (1 + RETRIES if name in READS else 1), "sent too often"
    error = work.exception()
    assert error is None or isinstance(error, PikaError), repr(error)
    text = "ok"
    if isinstance(error, PikaError):
        text = short(error)
        if isinstance(error, TransportError):
            assert error.maybe_sent or not seen, "the error says that it was not sent, but it was"
            text += "?" if error.maybe_sent else "!"
    elif name not in READS:
        assert done, "it succeeded, but was not done"
    text += f" {seen}" + " done" * done
    jobid = error.jobid if name in SUBMITS and isinstance(error, PikaError) else None
    if jobid is not None:
        assert done
        assert jobid != world.jobid
        text += " id"
    # The client works again once the fault is over, and a request that was not sent never arrives.
    await proxy.listen()
    proxy.heal()
    after = asyncio.ensure_future(world.client.jobs())
    await world.finish(after)
    assert after.exception() is None, "the client does not work any more"
    assert "!" not in text or (not _done(world, name) and server.seen == ["GET /v1/pika/jobs"])
    if jobid is not None:
        found = asyncio.ensure_future(world.client.job(jobid))
        await world.finish(found)
        assert found.result().jobid == jobid
    return text


def short(error: PikaError | str) -> str:
    """Return the name of an error in the matrix."""
    name = error if isinstance(error, str) else type(error).__name__
    known = {"ConnectionLost": "Lost", "RequestTimeout": "Timeout", "ConnectFailed": "Failed"}
    return {**known, "SubmissionUnknown": "Unknown"}.get(name, name)


def strike(row: Row, sizes: Sizes, proxy: FaultProxy, times: int | None = None) -> None:
    """Cause the fault, for `times` requests, replies or connections."""
    if row.recipe is not None:
        proxy.inject(row.recipe(sizes), times=times)
    elif row.name == "connection refused":
        proxy.refuse()
    elif row.name == "connections reordered":
        proxy.inject(Reorder(2), times=times and 2)
    elif row.kept:
        proxy.cut(reset="reset" in row.name)


async def _measure(name: str) -> Sizes:
    """Return the sizes of a call without a fault."""
    clock = ManualClock()
    server = Server(clock)
    async with server.run() as url, FaultProxy.before(url) as proxy:
        async with PikaClient("token", base_url=proxy.url, rng=Hasty(7), clock=clock) as client:
            world = World(clock, server, proxy, client)
            await world.prepare(name, url)
            await CALLS[name](world)
        return Sizes(proxy.request_bytes, proxy.reply_bytes)


async def matrix(rows: Sequence[Row], calls: Collection[str]) -> dict[str, dict[str, str]]:
    """Return the cells by the name of the fault and the name of the call."""
    sizes = {name: await _measure(name) for name in calls}
    return await filled(rows, sizes, lambda row, name: cell(row, name, sizes[name]))


async def filled(
    rows: Sequence[Row], columns: Iterable[str], ending: Callable[[Row, str], Awaitable[str]]
) -> dict[str, dict[str, str]]:
    """Return all cells, computed concurrently; an error names its cell."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(row: Row, column: str) -> str:
        async with limit:
            try:
                return await ending(row, column)
            except AssertionError as error:
                raise AssertionError(f"{row.name}, {column}: {error}") from error

    cells = [(row, column) for row in rows for column in columns]
    found = await asyncio.gather(*(one(row, column) for row, column in cells))
    table: dict[str, dict[str, str]] = {row.name: {} for row in rows}
    for (row, column), text in zip(cells, found, strict=True):
        table[row.name][column] = text
    return table


def grid(table: dict[str, dict[str, str]], kinds: Mapping[str, Sequence[str]] = COLUMNS) -> list[str]:
    """Return the lines of the matrix; calls of one kind with different outcomes are listed."""
    columns = [["fault", *kinds]]
    for fault, cells in table.items():
        row = [fault]
        for calls in kinds.values():
            told = {name: cells[name] for name in calls if name in cells}
            same = set(told.values())
            row.append(same.pop() if len(same) == 1 else "; ".join(f"{n}: {t}" for n, t in told.items()))
        columns.append(row)
    widths = [max(len(row[place]) for row in columns) for place in range(len(columns[0]))]
    padded = [[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in columns]
    return [" | ".join(row).rstrip() for row in padded]


def open_files() -> int:
    """Return the number of open files and sockets of the process; 0 if it is unknown."""
    where = Path("/proc/self/fd")
    return len(list(where.iterdir())) if where.is_dir() else 0


def main() -> int:
    """Print the matrix."""
    argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0]).parse_args()
    print("\n".join(grid(asyncio.run(matrix(ROWS, CALLS)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
