"""Many jobs, so many at a time: read as far as they are begun, told as they end."""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
)
from typing import Any, Final, cast

import attrs

from pika_balancer.errors import Closed, InvalidArgument, PikaError, SubscriptionRequired, Unauthorized
from pika_balancer.models import Job, Secret, hide

_FATAL: Final = (Closed, Unauthorized, SubscriptionRequired)


@attrs.frozen
class Outcome:
    """What became of one of many jobs."""

    index: int
    """Its place among the jobs, from 0."""
    request: Mapping[str, Any] = attrs.field(repr=False)
    """What was asked for; secrets in it as a `Secret`."""
    job: Job | None = None
    """The ended job, however it ended; None if there is an error instead."""
    error: PikaError | None = None
    """Why there is no ended job."""


@attrs.frozen
class Progress:
    """How far many jobs are."""

    begun: int
    """Jobs read so far."""
    completed: int
    """Jobs that have ended as completed."""
    ended: int
    """Jobs that have ended otherwise."""
    failed: int
    """Jobs that ended in an error."""

    @property
    def running(self) -> int:
        """Jobs that wait for a slot or run."""
        return self.begun - self.completed - self.ended - self.failed


class Batch:
    """An async iterator over the outcomes of many jobs, in the order in which they end.

    What concerns one job is its outcome's `error`. What concerns all (`Unauthorized`, `SubscriptionRequired`,
    `Closed`) is raised. Who leaves the loop before its end should `aclose()` it, or use
    `contextlib.aclosing`: what is not sent yet is then not sent, the rest runs on in the dispatcher's care.
    """

    def __init__(
        self,
        run: Callable[..., Awaitable[Job]],
        jobs: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        concurrency: int,
    ) -> None:
        self._run = run
        self._outcomes = self._work(_read(jobs), concurrency)
        self.progress = Progress(0, 0, 0, 0)

    progress: Progress
    """How far it is now."""

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    async def __anext__(self) -> Outcome:
        """Return the next job's outcome."""
        return await anext(self._outcomes)

    async def aclose(self) -> None:
        """Begin nothing more, and wait for nothing more."""
        await self._outcomes.aclose()

    async def _work(
        self, jobs: AsyncGenerator[Mapping[str, Any]], concurrency: int
    ) -> AsyncGenerator[Outcome]:
        running: set[asyncio.Task[Outcome | PikaError]] = set()
        reading: asyncio.Task[Mapping[str, Any] | None] | None = None
        exhausted = False
        try:
            while True:
                if reading is None and not exhausted and len(running) < concurrency:
                    # In a task of its own: a source that takes its time holds up no outcome.
                    reading = asyncio.create_task(_next(jobs))
                waiting = running if reading is None else running | {reading}
                if not waiting:
                    return
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if reading is not None and reading.done():
                    request, reading = reading.result(), None
                    exhausted = request is None
                    if request is not None:
                        running.add(asyncio.create_task(self._one(self.progress.begun, request)))
                        self._count(begun=1)
                ended = [task.result() for task in running if task.done()]
                running = {task for task in running if not task.done()}
                for outcome in ended:
                    if isinstance(outcome, Outcome):
                        yield self._told(outcome)
                if fatal := [outcome for outcome in ended if isinstance(outcome, PikaError)]:
                    raise fatal[0]
        finally:
            left: list[asyncio.Task[Any]] = [*running] if reading is None else [*running, reading]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await jobs.aclose()

    async def _one(self, index: int, request: Any) -> Outcome | PikaError:
        """Run one job; return its outcome, or the error that ends all."""
        try:
            job = await self._run(**{"verb": "create", **_checked(request)})
        except _FATAL as error:
            return error
        except PikaError as error:
            return Outcome(index, request, error=error)
        return Outcome(index, request, job=job)

    def _told(self, outcome: Outcome) -> Outcome:
        if outcome.job is None:
            self._count(failed=1)
        elif outcome.job.status == "completed":
            self._count(completed=1)
        else:
            self._count(ended=1)
        return outcome

    def _count(self, **more: int) -> None:
        now = {name: getattr(self.progress, name) + number for name, number in more.items()}
        self.progress = attrs.evolve(self.progress, **now)


def _checked(request: Mapping[Any, Any] | None) -> Mapping[str, Any]:
    if not isinstance(request, Mapping) or not all(isinstance(name, str) for name in request):
        raise InvalidArgument("a job must be a mapping of arguments by their names", field="jobs")
    return request


def _concealed(request: Any) -> Any:
    """Return the request without plain secrets: it stands in frames of the tracebacks of errors."""
    values: dict[str, Any] = dict(request) if isinstance(cast("object", request), Mapping) else {}
    hide(values)
    return values if any(isinstance(value, Secret) for value in values.values()) else request


async def _next(jobs: AsyncGenerator[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return await anext(jobs, None)


async def _read(
    jobs: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
) -> AsyncGenerator[Mapping[str, Any]]:
    if isinstance(jobs, AsyncIterable):
        async for job in jobs:
            yield _concealed(job)
            del job  # a source that fails later finds no secret in this frame
    else:
        for job in jobs:
            yield _concealed(job)
            del job
