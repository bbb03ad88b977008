"""A scripted service on a real socket, and a dispatcher with a manual clock."""

import asyncio
import heapq
import itertools
import random
import socket
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import attrs
import pytest
from aiohttp import web

from pika_balancer import Account, Balancer, Dispatcher, Job, PikaClient
from pika_balancer.client.requests import Request
from pika_balancer.dispatch.webhook import Webhook
from pika_balancer.events import Event
from pika_balancer.models import Secret
from pika_balancer.testing import ManualClock, settle, wait_until

ONE, TWO, THREE = "100000000000000001", "100000000000000002", "100000000000000003"


@attrs.frozen
class Answer:
    """The answer to a submit."""

    status: int
    body: Any = attrs.Factory(dict)
    headers: dict[str, str] = attrs.Factory(dict)
    accepted: bool = False
    """Whether the service takes the job all the same."""
    drop: bool = False
    """Whether the connection breaks instead."""
    until: asyncio.Event | None = None
    """Delays the answer, not the job."""


class Service:
    """Takes jobs, answers submits as its script says, and records all requests."""

    def __init__(self) -> None:
        self.script: deque[Answer] = deque()
        self.posts: list[tuple[str, dict[str, str]]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.hidden: set[str] = set()
        """Executing jobs whose look-up gives a 404."""
        self.gets: list[str] = []
        self.down: int | None = None
        """The status of every answer to a GET."""
        self.hold: asyncio.Event | None = None
        """Delays every GET."""
        self.held = 0
        """Number of requests that wait for an event of the test."""
        self._numbers = itertools.count(1)

    @property
    def refs(self) -> list[str]:
        """The references of all submits, in order."""
        return [form["replyRef"] for _, form in self.posts]

    @property
    def channels(self) -> list[str]:
        """The channels of all submits, in order."""
        return [form["channel"] for _, form in self.posts]

    @property
    def executing(self) -> list[str]:
        """The ids of the jobs that run."""
        return [jobid for jobid, job in self.jobs.items() if job["status"] in {"started", "progress"}]

    def take(self, channel: str = ONE, ref: str | None = None, verb: str = "create") -> str:
        """Start a job, and return its id."""
        jobid = f"job:{next(self._numbers)}"
        self.jobs[jobid] = {"jobid": jobid, "status": "started", "channel": channel, "verb": f"pika-{verb}"}
        if ref is not None:
            self.jobs[jobid]["replyRef"] = ref
        return jobid

    def end(self, jobid: str, status: str = "completed") -> None:
        """End a job."""
        self.jobs[jobid]["status"] = status

    def end_all(self) -> None:
        """End every job."""
        for jobid in self.executing:
            self.end(jobid)

    async def _wait(self, event: asyncio.Event) -> None:
        self.held += 1
        try:
            await event.wait()
        finally:
            self.held -= 1

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        form = {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
        verb = request.match_info["verb"]
        self.posts.append((verb, form))
        answer = self.script.popleft() if self.script else Answer(200, accepted=True)
        body = answer.body
        if answer.accepted:
            jobid = self.take(form["channel"], form["replyRef"], verb)
            body = body or dict(self.jobs[jobid])
        if answer.until is not None:
            await self._wait(answer.until)
        if answer.drop:
            assert request.transport is not None
            request.transport.abort()
        if isinstance(body, str):
            return web.Response(status=answer.status, text=body, headers=answer.headers)
        return web.json_response(body, status=answer.status, headers=answer.headers)

    async def _jobs(self, request: web.Request) -> web.Response:
        self.gets.append(request.path_qs)
        if self.hold is not None:
            await self._wait(self.hold)
        if self.down is not None:
            return web.json_response({"error": "down", "code": self.down}, status=self.down)
        jobid = request.query.get("jobid")
        if jobid is None:
            return web.json_response(self.executing)
        if jobid not in self.jobs or jobid in self.hidden:
            return web.json_response({"error": "unknown", "code": 404}, status=404)
        return web.json_response(self.jobs[jobid])

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[str]:
        """Serve, and yield the base URL."""
        app = web.Application()
        app.router.add_get("/jobs", self._jobs)
        app.router.add_get("/jobs/", self._jobs)
        app.router.add_post("/{verb}", self._submit)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}"
        finally:
            await runner.cleanup()


class Loaded(random.Random):
    """Random numbers that are always one end of the range."""

    def __init__(self, end: Callable[[float, float], float]) -> None:
        super().__init__()
        self.end = end

    def uniform(self, a: float, b: float) -> float:
        return self.end(a, b)


class Clock(ManualClock):
    """A clock that knows when the next call is due, so that a test need not advance it in small steps."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__(start)
        self._due: list[float] = []

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Any:
        heapq.heappush(self._due, self.now() + seconds)
        return super().call_later(seconds, callback)

    def until_due(self) -> float:
        """Return the seconds until the next call is due, which may have been cancelled."""
        while self._due and self._due[0] <= self.now():
            heapq.heappop(self._due)
        return self._due[0] - self.now() if self._due else float("inf")

    def oversleep(self, seconds: float) -> None:
        """Advance the clock without running due calls, as on a machine that was suspended."""
        self._now += seconds


class CountingClient(PikaClient):
    """Counts its calls under way."""

    calls = 0

    async def send(self, prepared: Request[Job], **values: str | Secret) -> Job:
        with self._counted():
            return await super().send(prepared, **values)

    async def jobs(self) -> list[str]:
        with self._counted():
            return await super().jobs()

    async def job(self, jobid: str) -> Job:
        with self._counted():
            return await super().job(jobid)

    @contextmanager
    def _counted(self) -> Generator[None]:
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1


class World:
    """The service, the clock, the client, the balancer and the dispatcher of a test."""

    def __init__(self, service: Service, clock: Clock, client: CountingClient) -> None:
        self.service = service
        self.clock = clock
        self.client = client
        self.events: list[Event] = []
        self.balancer: Balancer
        self.dispatcher: Dispatcher

    def told(self, kind: type[Event] | str) -> list[Any]:
        """Return the events of one kind, in order."""
        name = kind if isinstance(kind, str) else kind.__name__
        return [event for event in self.events if type(event).__name__ == name]

    def in_flight(self, channel: str = ONE) -> int:
        """Return the channel's in-flight count."""
        return {state.channel: state.in_flight for state in self.balancer.snapshot().accounts}[channel]

    def cooling_down(self, channel: str = ONE) -> float | None:
        """Return the remaining cooldown of the channel in seconds."""
        until = {state.channel: state.cooldown_until for state in self.balancer.snapshot().accounts}[channel]
        return None if until is None else until - self.clock.now()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that happens on sockets; the clock stands still."""
        await wait_until(condition, timeout=60)
        await settle()

    async def catch_up(self) -> None:
        """Wait until every call of the client is answered, except those that the service holds back."""
        await settle()
        while self.client.calls > self.service.held:
            await wait_until(lambda: self.client.calls <= self.service.held, timeout=60)
            await settle()

    async def pass_time(self, seconds: float, condition: Callable[[], bool] | None = None) -> None:
        """Move the clock from one due call to the next, until the condition holds or time is up.

        After each step every call of the client is answered before the clock moves on.
        """
        left = seconds
        await self.catch_up()
        while left > 0 and not (condition is not None and condition()):
            step = min(self.clock.until_due(), left)
            left -= step
            await self.clock.advance(step)
            await self.catch_up()
        if condition is not None:
            await self.until(condition)


class ManualWebhook(Webhook):
    """A webhook whose callbacks the test delivers."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")
        self.take: Callable[[Job], bool] | None = None

    def subscribe(self, subscriber: Callable[[Job], bool]) -> Callable[[], object]:
        self.take = subscriber

        def unsubscribe() -> None:
            self.take = None

        return unsubscribe

    def deliver(self, job: Job) -> bool:
        assert self.take is not None
        return self.take(job)


def spawn(work: Any) -> "asyncio.Task[Any]":
    """Start a coroutine or an awaitable as a task."""
    return asyncio.ensure_future(work)


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def nowhere() -> Generator[str]:
    """The URL of a port that is taken and refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
async def world(clock: Clock) -> AsyncGenerator[World]:
    """A service without jobs, and a client; the test makes balancer and dispatcher with `begin`."""
    service = Service()
    async with (
        service.run() as url,
        CountingClient("user:canary-token", base_url=url, timeout=60, retries=0) as client,
    ):
        yield World(service, clock, client)


@asynccontextmanager
async def begin(world: World, *caps: int, seed: int = 1, **options: Any) -> AsyncGenerator[Dispatcher]:
    """Open a balancer over accounts with these caps (ONE, TWO, …) and a dispatcher over it."""
    channels = [str(100000000000000001 + place) for place in range(len(caps))]
    accounts = [Account(channel, cap) for channel, cap in zip(channels, caps, strict=True)]
    balancer = Balancer(
        accounts,
        clock=world.clock,
        rng=random.Random(seed),
        policy="round_robin",
        observer=world.events.append,
    )
    options.setdefault("rng", random.Random(seed))
    dispatcher = Dispatcher(world.client, balancer, clock=world.clock, **options)
    world.balancer, world.dispatcher = balancer, dispatcher
    async with balancer, dispatcher:
        yield dispatcher
        await dispatcher.close()
