"""`pika-balancer submit`: one job, on an account that has room for it."""

import argparse
import math
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

from pika_balancer.balancer import Balancer
from pika_balancer.cli.carry import carry
from pika_balancer.cli.download import download, make_directory
from pika_balancer.cli.exits import Interrupted, NotCompleted
from pika_balancer.cli.jobs import as_wire
from pika_balancer.cli.options import Subparsers, above_zero, add_command, add_service, connect
from pika_balancer.cli.output import Output
from pika_balancer.cli.running import Running
from pika_balancer.client import PikaClient
from pika_balancer.clock import Clock, SystemClock
from pika_balancer.errors import (
    ChannelFull,
    InvalidResponse,
    LostTrack,
    NoCapacity,
    PikaError,
    ServiceError,
    TransportError,
)
from pika_balancer.models import Job, JobStatus, Lease

_EVERY: Final = 10.0


def register(subparsers: Subparsers) -> None:
    """Add the parser of `submit`."""
    parser = add_command(
        subparsers,
        "submit",
        summary="run one job",
        description="Submit a job to an account that has room for it, and follow it to its end. What "
        "runs already is counted first, so that no cap is passed. The URL of the result goes to stdout.",
        examples='  pika-balancer submit "a cat in the rain"\n'
        '  pika-balancer submit "a cat in the rain" --output videos --timeout 900\n'
        '  pika-balancer submit "a cat in the rain" --channel 1100000000000000001 --no-wait --json',
    )
    add = parser.add_argument
    add("prompt", metavar="PROMPT", help="what to make, up to 1500 characters")
    add("--image", type=_file, metavar="FILE", help="an image to start from")
    add("--channel", metavar="ID", help="the only account that will do (default: any with room)")
    add("--output", type=Path, metavar="DIR", help="download the result into this directory")
    add("--no-wait", action="store_true", help="print the job's id and leave once it is accepted")
    add(
        "--timeout",
        type=above_zero,
        default=math.inf,
        metavar="SECONDS",
        help="give up waiting after this long, for a slot or for the end; an accepted job goes on",
    )
    add(
        "--every",
        type=above_zero,
        default=_EVERY,
        metavar="SECONDS",
        help="how often to look at the job (default: %(default)g; the service asks for no less)",
    )
    add("--reply-url", metavar="URL", help="where the service shall report the end")
    add("--reply-ref", metavar="TEXT", help="your own reference, which comes back with that report")
    add_service(parser)
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace) -> int:
    """Submit the job and see it to its end."""
    out = Output(as_json=args.json)
    if args.output is not None:
        make_directory(args.output)  # before anything is paid for
    log = _Log(out)
    try:
        async with connect(args) as client:
            job = await _place(client, args, log, SystemClock())
            files = await _collect(job, args.output, out) if job.ended else []
    except Interrupted:
        raise Interrupted(log.farewell(), jobid=log.jobid) from None
    except PikaError as error:
        if log.in_the_dark(error):
            out.note(
                "the job may run all the same: `pika-balancer jobs` lists what runs; do not just repeat it"
            )
        raise
    out.document(as_wire(job) | ({"files": files} if args.output is not None else {}))
    if args.no_wait:
        out.result(job.jobid)
    return 0


async def _place(client: PikaClient, args: argparse.Namespace, log: "_Log", clock: Clock) -> Job:
    """Return the job as soon as that is asked for, or once it has ended."""
    deadline = clock.now() + args.timeout

    def submit(lease: Lease) -> Coroutine[Any, Any, Job]:
        log.submitting(lease)
        return client.create(
            args.prompt,
            image=args.image,
            channel=lease.channel,
            reply_url=args.reply_url,
            reply_ref=args.reply_ref,
        )

    async with await Balancer.from_client(client) as balancer:
        running = Running(client, balancer)
        while True:
            await running.look()
            left = max(0.0, deadline - clock.now())
            shortage = balancer.shortage(args.channel)
            if shortage is not None and shortage.reason != "never":
                log.waiting()
            try:
                return await carry(
                    client,
                    balancer,
                    submit,
                    clock=clock,
                    every=args.every,
                    wait=min(args.every, left),
                    channel=args.channel,
                    saw=log.saw,
                    deadline=deadline,
                    to_the_end=not args.no_wait,
                )
            except ChannelFull:
                log.taken_by_others()
            except NoCapacity as error:
                if left <= args.every or error.reason == "never":
                    raise


async def _collect(job: Job, directory: Path | None, out: Output) -> list[str]:
    """Print the URLs of the results, and fetch them if a directory is named; return the files' names."""
    if job.status != JobStatus.COMPLETED:
        words = ": ".join(text for text in (job.error, job.error_details) if text)
        raise NotCompleted(
            f"the job ended as {job.status}" + (f"; the service says: {words}" if words else ""),
            job=as_wire(job),
            jobid=job.jobid,
            channel=job.channel,
        )
    if not job.attachments:
        out.note("the job is completed, but the service names no result")
    files: list[str] = []
    for attachment in job.attachments:
        out.result(attachment.url)
        if directory is not None:
            path = await download(job, attachment, directory)
            files.append(str(path))
            out.note(f"saved {path}")
    return files


class _Log:
    """Tells how the job stands, and remembers what is needed to find it again."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._waits = False
        self._sent = False
        self._job: Job | None = None

    @property
    def jobid(self) -> str | None:
        """The job's id, once it is known."""
        return None if self._job is None else self._job.jobid

    def submitting(self, lease: Lease) -> None:
        self._sent = True
        self._out.note(f"submitting on channel {lease.channel}")

    def saw(self, job: Job) -> None:
        first = self._job is None
        self._job = job
        if first:
            self._out.note(f"accepted as {job.jobid}")
        self._out.note(job.status)

    def waiting(self) -> None:
        if not self._waits:
            self._waits = True
            self._out.note("no slot is free; waiting for one")

    def taken_by_others(self) -> None:
        self._sent = False
        self._out.note("the channel has just become full; looking for another slot")

    def in_the_dark(self, error: PikaError) -> bool:
        """Return whether a job may have been accepted whose id nobody knows."""
        unsure = isinstance(error, ServiceError | InvalidResponse | LostTrack) or (
            isinstance(error, TransportError) and error.maybe_sent
        )
        return self._sent and self._job is None and error.jobid is None and unsure

    def farewell(self) -> str:
        if self._job is not None:
            stands = f"has ended as {self._job.status}" if self._job.ended else "goes on"
            return f"interrupted; the job {stands}: `pika-balancer jobs {self._job.jobid}` shows it"
        if self._sent:
            return "interrupted during the submit: the job may run; `pika-balancer jobs` lists what runs"
        return "interrupted; nothing was submitted"


def _file(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {name!r}")
    return path
