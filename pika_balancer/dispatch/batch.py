"""`Batch`: runs many jobs, a limited number at a time, and yields their outcomes as they end."""

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
from typing import Any, cast

import attrs

from pika_balancer.dispatch.registry import REFUSALS
from pika_balancer.errors import InvalidArgument, PikaError
from pika_balancer.models import Job, Secret, hide


@attrs.frozen
class Outcome:
    """How one job of a batch ended."""

    index: int
    """Position among the jobs, from 0."""
    request: Mapping[str, Any] = attrs.field(repr=False)
    """The arguments of the job, secrets in it as `Secret`."""
    job: Job | None = None
    """The ended job; None if there is an error."""
    error: PikaError | None = None
    """Why there is no ended job."""


@attrs.define
class Progress:
    """Counts of a batch so far."""

    begun: int = 0
    """Jobs read."""
    completed: int = 0
    """Jobs that ended as completed."""
    ended: int = 0
    """Jobs that ended otherwise."""
    failed: int = 0
    """Jobs that ended in an error."""

    @property
    def running(self) -> int:
        """Jobs that wait for a slot or run."""
        return self.begun - self.completed - self.ended - self.failed


class Batch:
    """An async iterator over the outcomes of many jobs, in order of their ends.

    An error of one job is its outcome's `error`; an error that concerns all jobs (`Unauthorized`,
    `SubscriptionRequired`, `Closed`, `WrongLoop`) is raised. Close the iterator with `aclose()` or
    `contextlib.aclosing` if the loop may end early: jobs that are not sent yet are then not sent; the others
    run on, followed by the dispatcher.

    Attributes:
        progress: The counts so far.
    """

    def __init__(
        self,
        run: Callable[..., Awaitable[Job]],
        jobs: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        concurrency: int,
    ) -> None:
        self._run = run
        self._outcomes = self._work(_read(jobs), concurrency)
        self.progress = Progress()

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    async def __anext__(self) -> Outcome:
        return await anext(self._outcomes)

    async def aclose(self) -> None:
        """Start no more jobs and stop waiting for the others."""
        await self._outcomes.aclose()

    async def _work(
        self, jobs: AsyncGenerator[Mapping[str, Any]], concurrency: int
    ) -> AsyncGenerator[Outcome]:
        running: set[asyncio.Task[Outcome | PikaError]] = set()
        reading: asyncio.Future[Mapping[str, Any] | None] | None = None
        exhausted = False
        try:
            while True:
                if reading is None and not exhausted and len(running) < concurrency:
                    # A task: a slow source does not delay outcomes.
                    reading = asyncio.ensure_future(_next(jobs))
                pending = running if reading is None else running | {reading}
                if not pending:
                    return
                await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if reading is not None and reading.done():
                    request, reading = reading.result(), None
                    exhausted = request is None
                    if request is not None:
                        running.add(asyncio.create_task(self._one(self.progress.begun, request)))
                        self.progress.begun += 1
                done = [task.result() for task in running if task.done()]
                running = {task for task in running if not task.done()}
                for outcome in sorted(done, key=lambda one: isinstance(one, PikaError)):
                    if isinstance(outcome, PikaError):
                        raise outcome
                    self._count(outcome)
                    yield outcome
        finally:
            left: list[asyncio.Future[Any]] = [*running] if reading is None else [*running, reading]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await jobs.aclose()

    async def _one(self, index: int, request: Mapping[Any, Any]) -> Outcome | PikaError:
        """Run one job; return its outcome, or the error that ends the batch."""
        try:
            if not isinstance(cast("object", request), Mapping) or not all(
                isinstance(n, str) for n in request
            ):
                raise InvalidArgument("jobs must be mappings from argument names to values", field="jobs")
            return Outcome(index, request, job=await self._run(**{"verb": "create", **request}))
        except REFUSALS as error:
            return error
        except PikaError as error:
            return Outcome(index, request, error=error)

    def _count(self, outcome: Outcome) -> None:
        if outcome.job is None:
            self.progress.failed += 1
        elif outcome.job.status == "completed":
            self.progress.completed += 1
        else:
            self.progress.ended += 1


async def _next(jobs: AsyncGenerator[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return await anext(jobs, None)


async def _read(
    jobs: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
) -> AsyncGenerator[Mapping[str, Any]]:
    if isinstance(jobs, AsyncIterable):
        async for job in jobs:
            yield _concealed(job)
            del job  # a traceback of the source's next error would show it
    else:
        for job in jobs:
            yield _concealed(job)
            del job


def _concealed(request: Any) -> Any:
    """Return the request with its secrets as `Secret`: tracebacks of errors show it."""
    values: dict[str, Any] = dict(request) if isinstance(cast("object", request), Mapping) else {}
    hide(values)
    return values if any(isinstance(value, Secret) for value in values.values()) else request
