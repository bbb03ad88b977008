"""Sends jobs through a dispatcher in turns of load, and measures every one of them."""

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import attrs

from pika_balancer.clock import Clock, alarm
from pika_balancer.dispatch import Dispatcher
from pika_balancer.dispatch.registry import REFUSALS
from pika_balancer.errors import ApiError, InvalidResponse, SubmissionUnknown, TransportError
from pika_balancer.events import Event, Refused, Uncertain
from pika_balancer.loadtest.generators import Job, Reason, closed_loop, open_loop, together
from pika_balancer.loadtest.recorder import JobTiming, Recorder
from pika_balancer.simulate.arrivals import Arrivals
from pika_balancer.simulate.streams import Streams

PROMPT: Final = "a benchmark of a job"

_JOB_ERRORS: Final = (ApiError, TransportError, SubmissionUnknown, InvalidResponse)


@attrs.frozen(kw_only=True)
class LoadPlan:
    """The load of one turn. Either `arrivals` or `closed` is set."""

    arrivals: Arrivals | None = None
    """When jobs start, for an open loop."""
    closed: int | None = None
    """Jobs under way at once, for a closed loop."""
    seconds: float
    """For how long jobs are started."""
    warm_up: float
    """Seconds from the beginning in which jobs are started and not measured."""
    most: int
    """Most jobs to start."""
    grace: float
    """Seconds to wait for unfinished jobs after the last start."""


class Driver:
    """Loads a service through a dispatcher, one turn after the other.

    Args:
        clock: Measures everything.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._recorder: Recorder | None = None
        self._by_ref: dict[str, JobTiming] = {}

    def observe(self, event: Event) -> None:
        """Count errors of submits; to be an observer of the dispatcher's balancer."""
        if self._recorder is None or not isinstance(event, Refused | Uncertain):
            return
        self._recorder.submit_failed(event.error, event.status)
        if isinstance(event, Refused) and event.reply_ref in self._by_ref:
            self._recorder.returned(self._by_ref[event.reply_ref])

    async def run(
        self,
        dispatcher: Dispatcher,
        plan: LoadPlan,
        recorder: Recorder,
        *,
        rng: random.Random,
        watch: Callable[[], object],
        interval: float,
    ) -> Reason:
        """Run one turn of load, and return why no more jobs were started.

        When it returns or raises, all its tasks have ended and `recorder` is complete. The dispatcher still
        follows jobs that have not ended.

        Args:
            dispatcher: Runs the jobs; `observe` observes its balancer.
            plan: The load.
            recorder: Takes the measurements.
            rng: Draws the arrivals.
            watch: Called periodically; an exception ends the turn.
            interval: Seconds between two such calls.

        Raises:
            PikaError: The service refuses every job, or the jobs are invalid.
        """
        self._recorder = recorder
        clock, reasons = self._clock, list[Reason]()

        def offered(reason: Reason) -> None:
            reasons.append(reason)
            recorder.close(clock.now())

        async def sample() -> None:
            while True:
                recorder.sample(clock.now())
                watch()
                await clock.sleep(interval)

        recorder.begin(clock.now())
        try:
            async with together() as group:
                sampling = group.create_task(sample())
                try:
                    async with asyncio.timeout(None) as limit, alarm(limit, clock, plan.seconds + plan.grace):
                        job = partial(self._run_job, dispatcher, recorder)
                        await self._generate(plan, job, rng, offered)
                except TimeoutError:
                    pass  # unfinished jobs have been cut and counted
                finally:
                    sampling.cancel()
        finally:
            recorder.close(clock.now())
            recorder.sample(clock.now())
        return reasons[0]

    async def _generate(
        self, plan: LoadPlan, job: Job, rng: random.Random, offered: Callable[[Reason], object]
    ) -> None:
        limits: dict[str, Any] = {
            "seconds": plan.seconds,
            "most": plan.most,
            "clock": self._clock,
            "offered": offered,
        }
        if plan.arrivals is not None:
            await open_loop(plan.arrivals.times(Streams(rng.getrandbits(64))), job, **limits)
        else:
            await closed_loop(plan.closed or 1, job, **limits)

    async def _run_job(self, dispatcher: Dispatcher, recorder: Recorder, intended: float) -> None:
        now = self._clock.now
        timing = recorder.start(intended, now())
        refs: list[str] = []

        def sending(channel: str, ref: str) -> None:
            refs.append(ref)
            self._by_ref[ref] = timing
            recorder.sent(timing, channel)

        try:
            handle = await dispatcher.submit("create", prompt=PROMPT, before_send=sending)
            recorder.job_accepted(timing, now())
            job = await handle
        except BaseException as error:
            if isinstance(error, _JOB_ERRORS) and not isinstance(error, REFUSALS):
                recorder.job_failed(timing, type(error).__name__)
            else:
                recorder.job_cut(timing, now())
                raise
        else:
            recorder.job_ended(timing, now(), job.status)
        finally:
            for ref in refs:
                self._by_ref.pop(ref, None)
