"""One pass of the reconciler: which jobs it looks up, counts and frees."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest

from pika_balancer import Account, Balancer, InvalidArgument, Job, PikaError, ServiceError
from pika_balancer.dispatch.handle import REFERENCE
from pika_balancer.dispatch.reconciler import Reconciler
from pika_balancer.models import Orphan
from pika_balancer.store import MemoryStore
from pika_balancer.testing import settle
from tests.dispatch.conftest import ONE, TWO, Loaded, World

SEARCH_FOR = 180.0
NAMELESS = Orphan("lease:1", None, ONE, SEARCH_FOR, 1)


class Inherited(MemoryStore):
    """Has the orphans that it is told to have, as a store that outlives processes does."""

    def __init__(self, accounts: Iterable[Account], **options: Any) -> None:
        super().__init__(accounts, **options)
        self.left: list[Orphan] = []
        self.given_up: list[Orphan] = []
        self.outlives = False

    @property
    def shared(self) -> bool:
        return self.outlives

    async def orphans(self) -> Sequence[Orphan]:
        return tuple(self.left)

    async def give_up(self, orphans: Iterable[Orphan]) -> None:
        self.given_up += orphans


@attrs.define
class Watch:
    """A reconciler, its surroundings, and a record of its calls."""

    world: World
    store: Inherited
    balancer: Balancer
    reconciler: Reconciler
    known: set[str]
    """The keys that it is told to be known."""
    claimed: dict[str, bool | PikaError]
    """What becomes of a claim, by the job's id; False unless told otherwise."""
    seen: list[str]
    """The jobs that were claimed, in order."""
    refused: list[PikaError]
    """Why looks failed; each ends them."""

    @property
    def counted(self) -> list[str]:
        return sorted(self.balancer.adopted())

    def asked(self, jobid: str) -> int:
        """How often it was asked after that job."""
        return sum(path.endswith(f"jobid={jobid}") for path in map(plain, self.world.service.gets))

    async def gives_up(self) -> bool:
        """Look once; return whether a slot without a name was given up then."""
        self.store.left, self.store.given_up = [NAMELESS], []
        await self.reconciler.reconcile()
        assert self.store.given_up in ([], [NAMELESS])
        return bool(self.store.given_up)


def plain(path: str) -> str:
    return path.replace("%3A", ":")


@asynccontextmanager
async def watch(
    world: World, cap: int = 5, end: Callable[[float, float], float] = max
) -> AsyncGenerator[Watch]:
    store = Inherited([Account(ONE, cap), Account(TWO, cap)], clock=world.clock)
    refused = list[PikaError]()
    known, seen, claimed = set[str](), list[str](), dict[str, bool | PikaError]()

    async def claim(job: Job) -> bool:
        seen.append(job.jobid)
        answer = claimed.get(job.jobid, False)
        if isinstance(answer, PikaError):
            raise answer
        return answer

    def refuse(error: PikaError) -> bool:
        refused.append(error)
        return True

    async with Balancer(store=store, clock=world.clock) as balancer:
        reconciler = Reconciler(
            world.client,
            balancer,
            known=known.__contains__,
            claim=claim,
            refused=refuse,
            search_for=SEARCH_FOR,
            every=15.0,
            rng=Loaded(end),
            clock=world.clock,
        )
        yield Watch(world, store, balancer, reconciler, known, claimed, seen, refused)
        await reconciler.close()


def before_each(world: World, monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    """Have something happen right before the service is asked after a job."""
    ask = world.client.job

    async def job(jobid: str) -> Job:
        act(jobid)
        return await ask(jobid)

    monkeypatch.setattr(world.client, "job", job)


async def test_each_job_is_looked_up_once_and_a_known_one_never(world: World) -> None:
    async with watch(world) as here:
        known, other = world.service.take(), world.service.take()
        here.known.add(known)
        for _ in range(3):
            await here.reconciler.reconcile()
        assert (here.asked(other), here.asked(known), here.counted) == (1, 0, [other])
        here.reconciler.ask_again()
        await here.reconciler.reconcile()
        assert (here.asked(other), here.asked(known), here.counted) == (2, 0, [other])


async def test_a_job_that_ends_while_it_is_asked_after_takes_no_slot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_each(world, monkeypatch, world.service.end)
    async with watch(world) as here:
        world.service.take()
        assert await here.gives_up()
        assert (here.seen, here.counted) == ([], [])


async def test_a_job_that_becomes_known_while_it_is_asked_after_is_not_counted_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watch(world) as here:
        before_each(world, monkeypatch, here.known.add)
        world.service.take()
        assert await here.gives_up()
        assert (here.seen, here.counted) == ([], [])


async def test_an_orphan_without_a_key_is_given_up_only_once_every_job_is_counted(world: World) -> None:
    async with watch(world) as here:
        mine, elsewhere, other = (world.service.take() for _ in range(3))
        here.claimed.update({mine: True, elsewhere: InvalidArgument("on another channel", field="records")})
        assert await here.gives_up()
        assert (here.seen, here.counted) == ([mine, elsewhere, other], [other])
        homeless = world.service.take()
        del world.service.jobs[homeless]["channel"]
        assert not await here.gives_up()
        world.service.end(homeless)
        assert await here.gives_up()
        world.service.hidden.add(world.service.take())
        assert not await here.gives_up()
        assert here.counted == [other]


async def test_a_job_that_is_counted_by_its_id_needs_no_slot_by_its_reference_unless_that_is_known(
    world: World,
) -> None:
    async with watch(world) as here:
        for ref in ("theirs", "ours"):
            await here.balancer.adopt(ONE, REFERENCE + ref)
        here.known.add(REFERENCE + "ours")
        first, second = world.service.take(ONE, "theirs"), world.service.take(ONE, "ours")
        await here.reconciler.reconcile()
        assert here.counted == [first, second, REFERENCE + "ours"]


async def test_a_slot_of_unknown_id_is_kept_for_the_search_time_each_time(world: World) -> None:
    key = f"{REFERENCE}elsewhere"
    async with watch(world) as here:
        for _ in range(2):
            await here.balancer.adopt(ONE, key)
            await here.reconciler.reconcile()
            world.clock.oversleep(SEARCH_FOR - 0.5)
            await here.reconciler.reconcile()
            assert here.counted == [key]
            world.clock.oversleep(0.5)
            await here.reconciler.reconcile()
            assert here.counted == []


async def test_a_slot_whose_search_was_stopped_is_freed_by_the_next_pass(world: World) -> None:
    async with watch(world) as here:
        for ref in ("a", "b"):
            await here.balancer.adopt(ONE, REFERENCE + ref)
        here.reconciler.stop_searching(REFERENCE + "a")
        await here.reconciler.reconcile()
        assert here.counted == [REFERENCE + "b"]


async def test_an_orphans_job_is_looked_up_before_its_slot_is_freed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(jobid: str) -> None:
        if jobid == unclear:
            raise ServiceError("the service failed", status=500)

    before_each(world, monkeypatch, fail)
    async with watch(world) as here:
        ended, begins, unclear = (world.service.take() for _ in range(3))
        world.service.end(ended)
        world.service.jobs[begins]["status"] = world.service.jobs[unclear]["status"] = "created"
        here.store.left = [Orphan(key, key, ONE, 0.0, 1) for key in (ended, begins, unclear, "job:unknown")]
        await here.reconciler.reconcile()
        assert here.counted == sorted([begins, unclear, "job:unknown"])
        # One that the service does not know is kept while it may still appear.
        here.store.left.clear()
        world.clock.oversleep(SEARCH_FOR)
        await here.reconciler.reconcile()
        assert here.counted == [begins, unclear]


async def test_jobs_that_fill_a_channel_are_counted_until_they_have_ended(world: World) -> None:
    async with watch(world, cap=1) as here:
        known, *others = (world.service.take() for _ in range(4))
        here.known.add(known)
        lease = await here.balancer.acquire(ONE)
        await here.reconciler.fill(ONE, [known, *others])
        assert here.counted == others[:1]
        await here.balancer.release(lease)
        world.service.end_all()
        await world.pass_time(3, lambda: here.counted == [])


async def test_a_search_ends_with_a_complete_pass_that_began_later(
    world: World,
) -> None:
    async with watch(world) as here:
        now = world.clock.now()
        await here.reconciler.reconcile()
        seeking = [asyncio.create_task(here.reconciler.pass_after(now + later)) for later in (0.0, 20.0)]
        await settle()
        assert not seeking[0].done()
        await world.pass_time(5, seeking[0].done)
        assert not seeking[1].done()
        await world.pass_time(40, seeking[1].done)
        assert here.reconciler.last_pass > now + 20
        looks = len(world.service.gets)
        await world.clock.advance(60)
        assert (len(world.service.gets), world.clock.sleeping) == (looks, 0)


async def test_passes_are_spread_and_for_orphans_alone_the_store_is_asked_first(
    world: World,
) -> None:
    async with watch(world) as here:
        here.store.outlives = True
        here.reconciler.start()
        await world.clock.advance(60)
        assert world.service.gets == []
    for end, first in ((min, 1.6), (max, 2.4)):
        async with watch(world, end=end) as here:
            world.service.end_all()
            world.service.gets.clear()
            await here.reconciler.count(ONE, world.service.take())
            await world.clock.advance(first - 0.125)
            assert world.service.gets == []
            await world.clock.advance(0.25)
            await world.until(lambda: len(world.service.gets) == 2)


async def test_a_refused_pass_is_the_last_and_its_error_is_reported(world: World) -> None:
    async with watch(world) as here:
        world.service.down = 401
        await here.reconciler.count(ONE, world.service.take())
        await world.pass_time(3, lambda: bool(here.refused))
        await world.clock.advance(60)
        assert ([error.status for error in here.refused], len(world.service.gets)) == ([401], 1)
