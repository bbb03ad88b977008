"""One stretch of load: jobs through a real dispatcher, every one of them measured."""

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import attrs

from pika_balancer.clock import Clock, alarm
from pika_balancer.dispatch import Dispatcher
from pika_balancer.dispatch.registry import REFUSALS
from pika_balancer.errors import (
    ApiError,
    InvalidResponse,
    SubmissionUnknown,
    TransportError,
)
from pika_balancer.events import Event, Refused, Uncertain
from pika_balancer.loadtest.generators import Job, Reason, closed_loop, open_loop, together
from pika_balancer.loadtest.recorder import JobTiming, Recorder
from pika_balancer.simulate.arrivals import Arrivals
from pika_balancer.simulate.streams import Streams

PROMPT: Final = "a benchmark of a job"

_OWN: Final = (ApiError, TransportError, SubmissionUnknown, InvalidResponse)


@attrs.frozen(kw_only=True)
class LoadPlan:
    """How one stretch is loaded. Either `arrivals` or `closed` is set."""

    arrivals: Arrivals | None = None
    """When jobs start, for an open loop."""
    closed: int | None = None
    """Jobs under way at once, for a closed loop."""
    seconds: float
    """For how long jobs are started."""
    warm_up: float
    """Seconds from the beginning in which jobs are started and not measured."""
    most: int
    """How many jobs are started at most."""
    grace: float
    """Seconds, after the last start, within which jobs should end."""


class Load:
    """Loads a service through a dispatcher, one stretch after the other.

    Args:
        clock: Measures everything.
    """

    def __init__(self, clock: Clock) -> None:
        self.dispatcher: Dispatcher
        self._clock = clock
        self._tally: Recorder | None = None
        self._flights: dict[str, JobTiming] = {}

    dispatcher: Dispatcher
    """Carries the jobs; to be set before the first stretch. Its balancer's observer is `observe`."""

    def observe(self, event: Event) -> None:
        """Count what goes wrong on the way."""
        if self._tally is None or not isinstance(event, Refused | Uncertain):
            return
        self._tally.answered(event.error, event.status)
        if isinstance(event, Refused) and event.reply_ref in self._flights:
            self._flights[event.reply_ref].back()

    async def run(
        self,
        plan: LoadPlan,
        tally: Recorder,
        *,
        rng: random.Random,
        watch: Callable[[], object],
        interval: float,
    ) -> Reason:
        """Load it for one stretch, and return why no more jobs were started.

        When it returns or raises, no task of it is left, and the tally has all that was measured. Jobs that
        have not ended by then stay in the dispatcher's care.

        Args:
            plan: How.
            tally: Takes the measures.
            rng: Draws the arrivals.
            watch: Called every so often; what it raises ends the stretch.
            interval: Seconds between two such calls.

        Raises:
            PikaError: The service refuses everything, or the jobs cannot work.
        """
        self._tally = tally
        clock, reasons = self._clock, list[Reason]()

        def offered(reason: Reason) -> None:
            reasons.append(reason)
            tally.close(clock.now())

        async def look() -> None:
            while True:
                tally.look(clock.now())
                watch()
                await clock.sleep(interval)

        tally.begin(clock.now())
        try:
            async with together() as group:
                looking = group.create_task(look())
                try:
                    async with asyncio.timeout(None) as limit, alarm(limit, clock, plan.seconds + plan.grace):
                        await self._offer(plan, partial(self._carry, tally), rng, offered)
                except TimeoutError:
                    pass  # what has not ended has been cut, and is counted so
                finally:
                    looking.cancel()
        finally:
            tally.close(clock.now())
            tally.look(clock.now())
        return reasons[0]

    async def _offer(
        self, plan: LoadPlan, job: Job, rng: random.Random, offered: Callable[[Reason], object]
    ) -> None:
        limits: dict[str, Any] = {
            "seconds": plan.seconds,
            "most": plan.most,
            "clock": self._clock,
            "offered": offered,
        }
        if plan.arrivals is not None:
            moments = plan.arrivals.times(Streams(rng.getrandbits(64)))
            await open_loop(moments, job, **limits)
        else:
            await closed_loop(plan.closed or 1, job, **limits)

    async def _carry(self, tally: Recorder, intended: float) -> None:
        """Carry one job to its end, or until cancelled."""
        now = self._clock.now
        flight = tally.start(intended, now())
        refs: list[str] = []

        def sending(channel: str, ref: str) -> None:
            refs.append(ref)
            self._flights[ref] = flight
            flight.sent(channel)

        try:
            handle = await self.dispatcher.submit("create", prompt=PROMPT, before_send=sending)
            flight.accepted(now())
            job = await handle
        except BaseException as error:
            if isinstance(error, _OWN) and not isinstance(error, REFUSALS):
                flight.failed(type(error).__name__)
            else:
                flight.cut(now())
                raise
        else:
            flight.ended(now(), job.status)
        finally:
            for ref in refs:
                self._flights.pop(ref, None)
