"""What runs upstream already, whoever submitted it: asked for job by job, and counted in the books."""

import asyncio
from collections.abc import Iterable
from typing import Final

from pika_balancer.balancer import Balancer
from pika_balancer.client import PikaClient
from pika_balancer.errors import NotFound
from pika_balancer.models import Job, Lease

_AT_ONCE: Final = 8


async def ask(client: PikaClient, jobids: Iterable[str]) -> list[Job]:
    """Return these jobs, in their order, without those that the service does not know any more."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(jobid: str) -> Job | None:
        async with gate:
            try:
                return await client.job(jobid)
            except NotFound:
                return None

    tasks = [asyncio.ensure_future(one(jobid)) for jobid in jobids]
    try:
        jobs = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [job for job in jobs if job is not None]


class Running:
    """Keeps a balancer's counts true to what the service says is running."""

    def __init__(self, client: PikaClient, balancer: Balancer) -> None:
        self._client = client
        self._balancer = balancer
        self._leases: dict[str, Lease] = {}

    async def look(self) -> None:
        """Adopt jobs that have begun since the last look; give back the slots of those that have ended."""
        running = await self._client.jobs()
        for jobid in self._leases.keys() - set(running):
            await self._balancer.release(self._leases.pop(jobid))
        for job in await ask(self._client, [jobid for jobid in running if jobid not in self._leases]):
            if job.channel is not None and not job.ended:
                self._leases[job.jobid] = await self._balancer.adopt(job.channel, job.jobid)
