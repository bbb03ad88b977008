"""`pika-balancer jobs`: what runs now, or how one job stands."""

import argparse
from typing import Any

import attrs

from pika_balancer.cli.fetch_jobs import ask
from pika_balancer.cli.options import Subparsers, add_command, add_service, connect
from pika_balancer.cli.output import Output
from pika_balancer.models import Job
from pika_balancer.secret import shown_url


def register(subparsers: Subparsers) -> None:
    """Add the parser of `jobs`."""
    parser = add_command(
        subparsers,
        "jobs",
        summary="list the running jobs, or show one",
        description="List the jobs that hold slots now, on all accounts, by whomever; or show one.",
        examples="  pika-balancer jobs\n"
        "  pika-balancer jobs job:20240115021440711-user:1234-channel:5678 --json",
    )
    parser.add_argument("jobid", nargs="?", metavar="JOBID", help="the one job to show, ended or not")
    add_service(parser)
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace) -> int:
    """Print the running jobs, or the one that was named."""
    out = Output(as_json=args.json)
    async with connect(args) as client:
        if args.jobid is not None:
            job = await client.job(args.jobid)
            out.document(as_wire(job))
            if not args.json:
                _show(job, out)
            return 0
        jobs = await ask(client, await client.jobs())
    if args.json:
        out.document([as_wire(job) for job in jobs])
    elif jobs:
        rows = [(job.jobid, job.status, job.channel or "-") for job in jobs]
        out.table(("job", "status", "channel"), rows)
    else:
        out.say("no job is running")
    return 0


def as_wire(job: Job) -> dict[str, Any]:
    """Return what is known of the job by the names of the wire; of its reply URL only where it leads."""
    if job.reply_url is not None:
        job = attrs.evolve(job, reply_url=shown_url(job.reply_url))
    known = attrs.asdict(job, filter=lambda _, value: value is not None and value != ())
    return {_camel(name): value for name, value in known.items()}


def _show(job: Job, out: Output) -> None:
    facts = {
        "job": job.jobid,
        "status": job.status,
        "channel": job.channel,
        "verb": job.verb,
        "prompt": job.prompt,
        "created": job.created,
        "updated": job.updated,
        "error": job.error,
        "details": job.error_details,
    }
    for name, value in facts.items():
        if value is not None:
            out.say(f"{name:<9}{value}")
    for item in job.attachments:
        out.say(f"{'result':<9}{item.url}")


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.title() for word in rest)
