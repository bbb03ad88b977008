"""`pika-balancer jobs`: the running jobs, or one job."""

import argparse
import asyncio
from typing import Any, Final

import attrs

from pika_balancer.cli.options import Subparsers, add_command, add_service, connect
from pika_balancer.cli.output import Output
from pika_balancer.client.client import PikaClient
from pika_balancer.errors import NotFound
from pika_balancer.models import Job
from pika_balancer.secret import shown_url

_AT_ONCE: Final = 8
_SHOWN: Final = ("status", "channel", "verb", "prompt", "created", "updated", "error", "error_details")


def register(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "jobs",
        summary="list the running jobs, or show one",
        description="List the jobs that hold slots now, on all accounts and of all clients; or show one.",
        examples="  pika-balancer jobs\n"
        "  pika-balancer jobs job:20240115021440711-user:1234-channel:5678 --json",
    )
    parser.add_argument("jobid", nargs="?", metavar="JOBID", help="the one job to show, running or ended")
    add_service(parser)
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace) -> int:
    out = Output(as_json=args.json)
    async with connect(args) as client:
        if args.jobid is not None:
            job = await client.job(args.jobid)
            out.document(as_wire(job))
            if not args.json:
                _show(job, out)
            return 0
        jobs = await running_jobs(client)
    if args.json:
        out.document([as_wire(job) for job in jobs])
    elif jobs:
        out.table(("job", "status", "channel"), [(job.jobid, job.status, job.channel or "-") for job in jobs])
    else:
        out.say("no job is running")
    return 0


async def running_jobs(client: PikaClient) -> list[Job]:
    """Return all running jobs, without those that the service no longer knows when asked for them."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def ask(jobid: str) -> Job | None:
        async with gate:
            try:
                return await client.job(jobid)
            except NotFound:
                return None

    tasks = [asyncio.ensure_future(ask(jobid)) for jobid in dict.fromkeys(await client.jobs())]
    try:
        jobs = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [job for job in jobs if job is not None]


def as_wire(job: Job) -> dict[str, Any]:
    """Return the known facts by the names of the wire; of its reply URL only the address."""
    if job.reply_url is not None:
        job = attrs.evolve(job, reply_url=shown_url(job.reply_url))
    known = attrs.asdict(job, filter=lambda _, value: value is not None and value != ())
    return {_camel(name): value for name, value in known.items()}


def _show(job: Job, out: Output) -> None:
    facts = [(name.removeprefix("error_"), getattr(job, name)) for name in _SHOWN]
    results = [("result", item.url) for item in job.attachments]
    out.pairs(pair for pair in [("job", job.jobid), *facts, *results] if pair[1] is not None)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.title() for word in rest)
