"""One job from an empty hand to its end: take a slot, submit, follow, give the slot back."""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from typing import Final

from pika_balancer.balancer import Balancer
from pika_balancer.cli.exits import StillRunning
from pika_balancer.client import PikaClient
from pika_balancer.clock import Clock
from pika_balancer.errors import ChannelFull, LostTrack, PikaError, RateLimited, ServiceError, TransportError
from pika_balancer.models import Job, Lease

_GRACE: Final = 5.0
_FAILURES_IN_A_ROW: Final = 5
_PASSING: Final = (TransportError, ServiceError, LostTrack, RateLimited)


async def carry(
    client: PikaClient,
    balancer: Balancer,
    submit: Callable[[Lease], Awaitable[Job]],
    *,
    clock: Clock,
    every: float,
    wait: float | None = None,
    channel: str | None = None,
    saw: Callable[[Job], None] = lambda _job: None,
    deadline: float = math.inf,
    to_the_end: bool = True,
) -> Job:
    """Hold a slot while a job is submitted and runs on it, and return the ended job.

    Args:
        client: Asks how the job stands.
        balancer: Gives the slot.
        submit: Submits the job on the lease's channel; called once at most.
        clock: Measures `every` and `deadline`.
        every: Seconds between two looks at the job.
        wait: Seconds to wait for a slot at most; None for ever.
        channel: The only channel that will do.
        saw: Called with the accepted job, and again each time its status has changed.
        deadline: Moment on `clock` at which to stop following.
        to_the_end: Whether to follow; otherwise the accepted job is returned.

    Raises:
        NoCapacity: No slot in time.
        ChannelFull: Somebody else took the channel's last slot; it rests until the next look at what runs.
        StillRunning: The deadline passed; the job goes on.
        PikaError: The submit failed, or the job cannot be seen any more.
    """
    async with balancer.lease(channel, timeout=wait) as lease:
        try:
            job = await _see_through(submit(lease), saw)
        except ChannelFull:
            await balancer.rest(lease.channel, every)
            raise
        if not to_the_end:
            return job
        return await follow(client, job, clock=clock, every=every, saw=saw, deadline=deadline)


async def follow(
    client: PikaClient,
    job: Job,
    *,
    clock: Clock,
    every: float,
    saw: Callable[[Job], None] = lambda _job: None,
    deadline: float = math.inf,
) -> Job:
    """Return the job once it has ended; passing trouble with the service is waited out. See `carry`."""
    failures = 0
    while not job.ended:
        left = deadline - clock.now()
        if left <= 0:
            raise StillRunning(
                f"the job has not ended in time and goes on; ask with `pika-balancer jobs {job.jobid}`",
                jobid=job.jobid,
                channel=job.channel,
            )
        await clock.sleep(min(every, left))
        try:
            seen = await client.job(job.jobid)
        except _PASSING:
            failures += 1
            if failures >= _FAILURES_IN_A_ROW:
                raise
            continue
        failures = 0
        if seen.status != job.status:
            saw(seen)
        job = seen
    return job


async def _see_through(submitting: Awaitable[Job], saw: Callable[[Job], None]) -> Job:
    """Return the accepted job. If cancelled, first learn its id: an accepted job is paid for."""
    sent = asyncio.ensure_future(submitting)
    try:
        job = await asyncio.shield(sent)
    except asyncio.CancelledError:
        try:
            await asyncio.wait([sent], timeout=_GRACE)
        finally:
            sent.cancel()
            with contextlib.suppress(asyncio.CancelledError, PikaError):
                saw(await sent)
        raise
    saw(job)
    return job
