"""The fault proxy: the effect of each fault on a client, and that no socket or task is left."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import attrs
import pytest

from pika_balancer.testing import ManualClock, settle
from pika_balancer.testing import wait_until as wait
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

LIMIT = 60.0
"""Seconds after which a test gives up; only a hang takes that long."""
wait_until = partial(wait, timeout=LIMIT)


@attrs.define
class Echo:
    """A server that echoes each line in capitals and records it."""

    port: int = 0
    lines: list[bytes] = attrs.Factory(list[bytes])
    ends: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self.lines.append(line)
                writer.write(line.upper())
                await writer.drain()
        except OSError:
            pass
        finally:
            self.ends += 1
            writer.close()


class Client:
    """A bare connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, line: bytes) -> bytes:
        self.say(line)
        return await self.hear()

    def say(self, line: bytes) -> None:
        self.writer.write(line + b"\n")

    async def hear(self) -> bytes:
        return (await asyncio.wait_for(self.reader.readline(), LIMIT)).removesuffix(b"\n")

    async def is_silent(self) -> bool:
        """Return whether nothing comes, not even an end, for as long as an echo would take many times."""
        try:
            await asyncio.wait_for(self.reader.read(1), 0.05)
        except TimeoutError:
            return True
        return False

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


Dial = Callable[[], Awaitable[Client]]


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    echo.port = server.sockets[0].getsockname()[1]
    yield echo
    server.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def proxy(echo: Echo, clock: ManualClock) -> AsyncIterator[FaultProxy]:
    async with FaultProxy("127.0.0.1", echo.port, clock=clock) as proxy:
        yield proxy


@pytest.fixture
async def dial(proxy: FaultProxy) -> AsyncIterator[Dial]:
    clients: list[Client] = []

    async def connect() -> Client:
        client = Client(*await asyncio.open_connection(proxy.host, proxy.port))
        clients.append(client)
        return client

    yield connect
    for client in clients:
        await client.close()


async def test_without_a_fault_everything_passes_and_is_counted(proxy: FaultProxy, dial: Dial) -> None:
    client = await dial()
    assert await client.ask(b"one") == b"ONE"
    assert await client.ask(b"two") == b"TWO"
    other = await dial()
    assert await other.ask(b"three") == b"THREE"
    assert (proxy.accepted, proxy.open, proxy.requests) == (2, 2, 3)
    assert (proxy.request_bytes, proxy.reply_bytes) == (14, 14)
    await client.close()
    await wait_until(lambda: proxy.open == 1)


async def test_what_is_said_before_an_answer_is_one_request(proxy: FaultProxy, dial: Dial) -> None:
    client = await dial()
    stall = proxy.inject(Stall())
    client.say(b"one")
    await wait_until(lambda: proxy.request_bytes == 4)
    client.say(b"two")
    await wait_until(lambda: proxy.request_bytes == 8)
    stall.withdraw()
    assert proxy.requests in (1, 2)  # the server may have answered between the two


async def test_a_client_that_hangs_up_ends_the_servers_connection_too(
    proxy: FaultProxy, dial: Dial, echo: Echo
) -> None:
    client = await dial()
    await client.ask(b"one")
    await client.close()
    await wait_until(lambda: echo.ends == 1 and proxy.open == 0)


async def test_a_client_may_close_one_half_and_still_gets_its_answer(dial: Dial, echo: Echo) -> None:
    client = await dial()
    client.say(b"last")
    client.writer.write_eof()
    assert await client.hear() == b"LAST"
    assert await client.hear() == b""


@pytest.mark.parametrize("on", ["requests", "replies"])
async def test_delay_holds_one_direction_back(
    proxy: FaultProxy, dial: Dial, clock: ManualClock, echo: Echo, on: Direction
) -> None:
    proxy.inject(Delay(3.0, on=on))
    client = await dial()
    client.say(b"one")
    await wait_until(lambda: clock.sleeping == 1)
    assert echo.lines == ([] if on == "requests" else [b"one\n"])
    await clock.advance(2.9)
    assert await client.is_silent()
    await clock.advance(0.1)
    assert await client.hear() == b"ONE"


async def test_drip_sends_a_byte_at_a_time(proxy: FaultProxy, dial: Dial, clock: ManualClock) -> None:
    proxy.inject(Drip(1.0))
    client = await dial()
    client.say(b"one")
    for expected in (b"O", b"N", b"E", b"\n"):
        await wait_until(lambda: clock.sleeping == 1)
        assert await asyncio.wait_for(client.reader.read(100), LIMIT) == expected
        await clock.advance(1.0)


@pytest.mark.parametrize("fault", [Delay(1000.0), Drip(1000.0), Stall()], ids=repr)
async def test_what_a_fault_holds_back_is_passed_on_when_it_ends(
    proxy: FaultProxy, dial: Dial, clock: ManualClock, fault: Fault
) -> None:
    held_back = proxy.inject(fault)
    client = await dial()
    client.say(b"one")
    await wait_until(lambda: held_back.hits == 1 and clock.sleeping == (not isinstance(fault, Stall)))
    if not isinstance(fault, Drip):
        assert await client.is_silent()
    proxy.heal()
    assert await client.hear() == b"ONE"
    assert await client.ask(b"two") == b"TWO"
    assert clock.sleeping == 0


async def test_drop_loses_a_reply_that_the_server_has_given(
    proxy: FaultProxy, dial: Dial, echo: Echo
) -> None:
    drop = proxy.inject(Drop(), times=1)
    client = await dial()
    client.say(b"one")
    await wait_until(lambda: drop.hits == 1)
    assert await client.is_silent()
    assert await client.ask(b"two") == b"TWO"
    assert echo.lines == [b"one\n", b"two\n"]


async def test_drop_of_a_request_loses_all_of_it_before_the_server(
    proxy: FaultProxy, dial: Dial, echo: Echo
) -> None:
    drop = proxy.inject(Drop(on="requests"), matching=b"one", times=1)
    client = await dial()
    client.say(b"one")
    await wait_until(lambda: drop.hits == 1)
    client.say(b"and its second piece")
    await wait_until(lambda: proxy.request_bytes > 20)
    other = await dial()
    assert await other.ask(b"one") == b"ONE"
    assert (echo.lines, drop.hits, proxy.requests) == ([b"one\n"], 1, 2)


@pytest.mark.parametrize(
    ("fault", "left"),
    [
        (Drop(), b""),
        (Delay(1.0), b"A reply in pieces"),
        (Cut(12), b"A reply in p"),
        (HalfClose(12), b"A reply in p"),
        (Stall(12), b"A reply in p"),
    ],
    ids=repr,
)
async def test_a_reply_in_pieces_is_one_reply(clock: ManualClock, fault: Fault, left: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number, piece in enumerate((b"A reply ", b"in ", b"pieces")):
            if number:
                await wait_until(lambda: struck.hits == 1)
                await settle()
            else:
                await reader.readline()
            writer.write(piece)
            await settle(50)  # as long as the proxy needs to have it alone
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, FaultProxy(*server.sockets[0].getsockname(), clock=clock) as proxy:
        struck = proxy.inject(fault, times=1)
        client = Client(*await asyncio.open_connection(proxy.host, proxy.port))
        client.say(b"one")
        await wait_until(lambda: clock.sleeping > 0 or proxy.reply_bytes == 17 or proxy.open == 0)
        await clock.advance(1.0)
        if isinstance(fault, Stall):
            assert await asyncio.wait_for(client.reader.readexactly(len(left)), LIMIT) == left
            assert await client.is_silent()
            struck.withdraw()
            left = b"ieces"
        assert await asyncio.wait_for(client.reader.read(), LIMIT) == left
        assert struck.hits == 1
        await client.close()
    await settle()  # the server's end has to be closed, too


def test_a_url_without_a_port_is_named() -> None:
    for url in ("http://127.0.0.1/v1", "127.0.0.1:80", ""):
        with pytest.raises(ValueError, match="such as http"):
            FaultProxy.before(url)


async def test_a_url_leads_through_the_proxy_and_keeps_all_else(echo: Echo) -> None:
    async with FaultProxy.before(f"redis://user:word@127.0.0.1:{echo.port}/0?x=1#y") as proxy:
        assert proxy.url == f"redis://user:word@127.0.0.1:{proxy.port}/0?x=1#y"
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        client = Client(reader, writer)
        assert await client.ask(b"one") == b"ONE"
        await client.close()
    async with FaultProxy("127.0.0.1", echo.port) as plain:
        assert plain.url == f"tcp://127.0.0.1:{plain.port}"


@pytest.mark.parametrize(("after", "seen"), [(0, b""), (2, b"ON"), (4, b"ONE\n"), (6, b"ONE\nTW")])
async def test_cut_lets_so_many_bytes_of_the_reply_through(
    proxy: FaultProxy, dial: Dial, echo: Echo, after: int, seen: bytes
) -> None:
    proxy.inject(Cut(after))
    client = await dial()
    client.say(b"one")
    if after > 4:
        assert await client.hear() == b"ONE"
        client.say(b"two")
    got = await asyncio.wait_for(client.reader.read(), LIMIT)
    assert got == seen[4:] if after > 4 else got == seen
    await wait_until(lambda: echo.ends == 1 and proxy.open == 0)


@pytest.mark.parametrize(("after", "lines"), [(0, []), (2, [b"on"]), (4, [b"one\n"])])
async def test_cut_of_a_request_lets_so_many_bytes_reach_the_server(
    proxy: FaultProxy, dial: Dial, echo: Echo, after: int, lines: list[bytes]
) -> None:
    proxy.inject(Cut(after, on="requests"))
    client = await dial()
    client.say(b"one")
    assert await asyncio.wait_for(client.reader.read(), LIMIT) in (b"", b"ONE\n")
    await wait_until(lambda: echo.ends == 1)
    assert echo.lines == lines


async def test_half_close_ends_the_replies_while_requests_go_on(
    proxy: FaultProxy, dial: Dial, echo: Echo
) -> None:
    proxy.inject(HalfClose(2))
    client = await dial()
    client.say(b"one")
    assert await asyncio.wait_for(client.reader.read(), LIMIT) == b"ON"
    client.say(b"two")
    await wait_until(lambda: echo.lines == [b"one\n", b"two\n"])
    assert proxy.open == 1


async def test_half_close_of_requests_leaves_the_replies(proxy: FaultProxy, dial: Dial, echo: Echo) -> None:
    proxy.inject(HalfClose(4, on="requests"))
    client = await dial()
    assert await client.ask(b"one") == b"ONE"
    await wait_until(lambda: echo.ends == 1)
    client.say(b"two")
    assert await client.hear() == b""
    assert echo.lines == [b"one\n"]


async def test_black_hole_accepts_and_never_answers(proxy: FaultProxy, dial: Dial, echo: Echo) -> None:
    proxy.inject(BlackHole(), times=1)
    client = await dial()
    client.say(b"one")
    await wait_until(lambda: proxy.request_bytes == 4)
    assert await client.is_silent()
    assert (echo.lines, proxy.requests) == ([], 1)
    other = await dial()
    assert await other.ask(b"two") == b"TWO"


async def test_resets_of_old_and_of_new_connections(proxy: FaultProxy, dial: Dial, echo: Echo) -> None:
    proxy.inject(Reset(), connection=0)
    cut = proxy.inject(Cut(reset=True), times=1)
    for _ in range(2):
        client = await dial()
        client.say(b"one")
        with pytest.raises(ConnectionResetError):
            await client.hear()
    assert (cut.hits, echo.lines) == (1, [b"one\n"])
    assert await (await dial()).ask(b"two") == b"TWO"


async def test_reorder_lets_in_the_last_first(proxy: FaultProxy, dial: Dial, echo: Echo) -> None:
    reorder = proxy.inject(Reorder(3), times=3)
    clients: list[Client] = []
    for line in (b"one", b"two", b"three"):
        client = await dial()
        client.say(line)
        clients.append(client)
        await wait_until(lambda: reorder.hits == len(clients))
    assert [await client.hear() for client in clients] == [b"ONE", b"TWO", b"THREE"]
    assert echo.lines == [b"three\n", b"two\n", b"one\n"]


async def test_reorder_that_is_withdrawn_releases_all(proxy: FaultProxy, dial: Dial) -> None:
    reorder = proxy.inject(Reorder(5))
    one, two = await dial(), await dial()
    await wait_until(lambda: reorder.hits == 2)
    proxy.heal()
    assert await one.ask(b"one") == b"ONE"
    assert await two.ask(b"two") == b"TWO"


async def test_refused_connections_and_outages(proxy: FaultProxy, dial: Dial) -> None:
    old = await dial()
    await old.ask(b"one")
    port = proxy.port
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await dial()
    assert await old.ask(b"two") == b"TWO"
    await proxy.listen()
    await proxy.listen()
    assert proxy.port == port
    new = await dial()
    assert await new.ask(b"three") == b"THREE"
    async with proxy.outage():
        assert await new.hear() == b""
        with pytest.raises(ConnectionRefusedError):
            await dial()
    assert await (await dial()).ask(b"four") == b"FOUR"


async def test_one_connection_can_be_cut_and_named(proxy: FaultProxy, dial: Dial) -> None:
    one, two = await dial(), await dial()
    await one.ask(b"one")
    await two.ask(b"two")
    proxy.cut(0)
    assert await one.hear() == b""
    assert await two.ask(b"two") == b"TWO"
    proxy.inject(Drop(), connection=1)
    two.say(b"three")
    three = await dial()
    assert await three.ask(b"four") == b"FOUR"
    assert await two.is_silent()


async def test_the_first_fault_that_fits_strikes_and_the_next_after_it(proxy: FaultProxy, dial: Dial) -> None:
    first, second = proxy.inject(Drop(), times=1), proxy.inject(Cut(), times=1)
    client = await dial()
    client.say(b"one")
    await wait_until(lambda: first.hits == 1)
    client.say(b"two")
    assert await client.hear() == b""
    assert (first.hits, second.hits) == (1, 1)


async def test_a_server_that_is_not_there_looks_like_a_connection_that_ends(dial: Dial, echo: Echo) -> None:
    async with FaultProxy("127.0.0.1", 1) as proxy:
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        assert await asyncio.wait_for(reader.read(), LIMIT) == b""
        writer.close()
        await writer.wait_closed()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
async def test_nothing_is_left_when_the_block_ends(echo: Echo) -> None:
    await settle()
    gc.collect()  # what others have left
    tasks, files = asyncio.all_tasks(), open_files()
    stuck: list[Fault] = [Stall(), Stall(on="requests"), Delay(1000.0), BlackHole(), Reorder(9)]
    for fault in stuck:
        async with FaultProxy("127.0.0.1", echo.port) as proxy:
            injection = proxy.inject(fault)
            client = Client(*await asyncio.open_connection(proxy.host, proxy.port))
            client.say((b"x" * 999 + b"\n") * 3000)  # more than the sockets hold
            await wait_until(lambda: injection.hits > 0)  # noqa: B023 - waited for inside of the loop
        await client.close()
        assert proxy.open == 0
    await wait_until(lambda: open_files() <= files)
    gc.collect()
    assert asyncio.all_tasks() == tasks
