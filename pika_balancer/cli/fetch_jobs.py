"""Asking after many jobs at once."""

import asyncio
from collections.abc import Iterable
from typing import Final

from pika_balancer.client.client import PikaClient
from pika_balancer.errors import NotFound
from pika_balancer.models import Job

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
