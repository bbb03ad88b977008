"""`pika-balancer submit`: one job or a file of jobs, each sent once even if the command is repeated."""

import argparse
import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Final

from pika_balancer.balancer.balancer import Balancer
from pika_balancer.cli.download import make_directory
from pika_balancer.cli.exit_codes import BadJobFile, Interrupted, JournalInUse, Usage
from pika_balancer.cli.job_batch import BatchRun, BatchSettings
from pika_balancer.cli.job_file import STDIN, JobLine, Source, one_line, read_lines, read_source
from pika_balancer.cli.options import Subparsers, add_command, add_service, connect, duration, whole
from pika_balancer.cli.output import Output
from pika_balancer.cli.submit_batch import SubmitBatch
from pika_balancer.cli.submit_journal import Journal
from pika_balancer.cli.submit_one import SubmitOne
from pika_balancer.dispatch import Dispatcher
from pika_balancer.events import Event
from pika_balancer.models import Secret

_POLL: Final = 10.0
_SEARCH_POLLS: Final = 18
_VERBS: Final = ("create", "animate", "encrypt_text", "encrypt_image")
_ONE_ONLY: Final = ("prompt", "verb", "image", "message", "font", "button_of", "channel", "reply_ref")
_JOURNAL: Final = "pika-journal"
_SHORT: Final = 12
_REFRESH_EVERY: Final = 300.0


def register(subparsers: Subparsers) -> None:
    parser = add_command(
        subparsers,
        "submit",
        summary="run one job, or a file of jobs",
        description="Submit jobs to accounts with a free slot, and follow them to their end. Running jobs of "
        "all clients are counted first, so that no cap is exceeded. The URL of each result goes to stdout; "
        "with --jobs-file and --output, its file. With --jobs-file or --output a journal is kept, so that "
        "the same command resumes after Ctrl-C, kill or a power cut, and sends no job twice. It is "
        "DIR/pika-journal.jsonl for --jobs-file, FILE.journal.jsonl without --output; they are independent.",
        examples='  pika-balancer submit "a cat in the rain"\n'
        '  pika-balancer submit "a cat in the rain" --output videos --timeout 900\n'
        '  pika-balancer submit "a cat in the rain" --channel 1100000000000000001 --no-wait --json\n'
        "  pika-balancer submit --button-of job:20240115021440711-user:1234-channel:5678\n"
        "  pika-balancer submit --jobs-file jobs.csv --output videos --concurrency 5",
    )
    _add_job(parser)
    _add_many(parser)
    add = parser.add_argument
    add("--output", type=Path, metavar="DIR", help="download the results into this directory")
    add("--no-wait", action="store_true", help="leave once all jobs are accepted; for one job, print its id")
    add(
        "--timeout",
        type=duration,
        metavar="SECONDS",
        help="how long to wait for a slot and for the end (default: no limit); an accepted job runs on",
    )
    add(
        "--poll",
        type=duration,
        default=_POLL,
        metavar="SECONDS",
        help="how often to ask for running jobs (default: %(default)gs; the service asks for no less)",
    )
    add("--reply-url", type=Secret, metavar="URL", help="URL to which the service reports the end of a job")
    add_service(parser)
    parser.set_defaults(run=run)


def _add_job(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("one job").add_argument
    add("prompt", nargs="?", metavar="PROMPT", help="prompt of the job, up to 1500 characters")
    add("--verb", choices=_VERBS, help="what to do (default: create)")
    add("--image", type=_file, metavar="FILE", help="an image to start from")
    add("--message", metavar="TEXT", help="text for encrypt_text to hide; for encrypt_image, a file")
    add("--font", metavar="NAME", help="font of encrypt_text")
    add("--button-of", metavar="JOBID", help="press the retry button of this completed job instead")
    add("--channel", metavar="ID", help="use only this account (default: any with a free slot)")
    add("--reply-ref", metavar="TEXT", help="a new reference of your own, which the report repeats")


def _add_many(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("many jobs").add_argument
    add(
        "--jobs-file",
        type=_jobs,
        metavar="FILE",
        help="jobs as JSON lines or CSV with a header, - for stdin; columns: prompt, verb, image, message, "
        "font, jobid, button, channel, and an id of your own; paths are relative to the file",
    )
    add(
        "--concurrency",
        type=whole(1),
        metavar="N",
        help="how many jobs to run or wait for at once (default: the number of slots)",
    )
    add(
        "--resubmit-unknown",
        action="store_true",
        help="send jobs again if it is unknown whether the service has them; they may then run twice",
    )


async def run(args: argparse.Namespace) -> int:
    out = Output(as_json=args.json)
    source: Source | None = (
        read_source(args.jobs_file) if isinstance(args.jobs_file, Path) else args.jobs_file
    )
    lines = [_one(args)] if source is None else _many(args, source, out)
    if args.output is not None:
        make_directory(args.output)  # before any job is paid for
    settings = BatchSettings(
        output=args.output,
        to_the_end=not args.no_wait,
        resubmit_unknown=args.resubmit_unknown,
        reply_url=args.reply_url,
        reply_ref=args.reply_ref,
    )
    with _journal(source, args.output, lines[0]) as journal:
        reporter: SubmitOne | SubmitBatch
        if source is None:
            reporter = SubmitOne(lines[0], journal, out, args.output)
        else:
            reporter = SubmitBatch(lines, journal, out, args.output)
        batch = BatchRun(journal, settings, reporter)
        try:
            with reporter.progress, _listing(out):
                await _perform(args, lines, batch, reporter)
            return reporter.finish(batch.ended_by, to_the_end=settings.to_the_end)
        finally:
            if source is None and journal[lines[0].key].is_over:
                journal.discard()


def _one(args: argparse.Namespace) -> JobLine:
    values = {name: getattr(args, name) for name in ("verb", "prompt", "message", "font", "channel")}
    values["image"] = None if args.image is None else str(args.image)
    if args.button_of is not None:
        values |= {"verb": "button", "jobid": args.button_of}
    if not any(values.values()):
        raise Usage(
            "the following arguments are required: PROMPT, or --jobs-file FILE; "
            "see `pika-balancer submit --help`"
        )
    return one_line(values)


def _many(args: argparse.Namespace, source: Source, out: Output) -> list[JobLine]:
    if any(getattr(args, name) is not None for name in _ONE_ONLY):
        raise Usage("--jobs-file describes its jobs completely; leave out PROMPT and its options")
    if source.name == STDIN and args.output is None:
        raise Usage("--jobs-file - needs --output DIR, where the journal goes", field="output")
    with _listing(out):
        return read_lines(source)


@contextlib.contextmanager
def _listing(out: Output) -> Generator[None]:
    """Print the faults of a job file, line by line."""
    try:
        yield
    except BadJobFile as wrong:
        for fault in wrong.faults:
            out.note(str(fault))
        raise


def _journal(source: Source | None, directory: Path | None, line: JobLine) -> Journal:
    if source is not None:
        name = f"{source.name}.journal.jsonl"
        path = source.path.with_name(name) if directory is None else directory / f"{_JOURNAL}.jsonl"
        return Journal(path, file=source.name, digest=source.digest)
    if directory is None:
        return Journal(None)
    # One for each job, removed when the job is done: the same job may be wanted again, even at once.
    number = 1
    while True:
        try:
            journal = Journal(directory / f"{_JOURNAL}-{line.key[:_SHORT]}-{number}.jsonl")
        except JournalInUse:
            number += 1
            continue
        if not len(journal) or not journal[line.key].is_over:
            return journal
        journal.discard()  # the job was done, and its run was killed before it could do this


async def _perform(
    args: argparse.Namespace, lines: list[JobLine], batch: BatchRun, reporter: SubmitOne | SubmitBatch
) -> None:
    """Run the jobs; `batch.ended_by` is what ended that early."""

    def observe(event: Event) -> None:
        batch.observe(event)
        try:
            reporter.observe(event)
        except OSError as error:  # a closed pipe, as in `submit … | head`
            batch.abort(error)

    try:
        async with (
            connect(args) as client,
            await Balancer.from_client(client, refresh_every=_REFRESH_EVERY, observer=observe) as balancer,
            Dispatcher(
                client,
                balancer,
                poll_every=args.poll,
                search_for=_SEARCH_POLLS * args.poll,
                reconcile=False,
            ) as dispatcher,
        ):
            await batch.take_over(client, dispatcher, lines)
            reporter.begin(balancer)
            await batch.run(
                lines,
                concurrency=args.concurrency or max(1, balancer.snapshot().capacity),
                timeout=args.timeout,
            )
            await dispatcher.close()  # jobs that were not to be followed run on
    except Interrupted as stop:
        batch.ended_by = batch.ended_by or stop


def _jobs(name: str) -> Path | Source:
    # Standard input is read with the options: in the event loop, that would block Ctrl-C.
    return read_source(Path(name)) if name == STDIN else Path(name)


def _file(name: str) -> Path:
    path = Path(name)
    try:
        found = path.is_file()
    except OSError:  # the name is too long
        found = False
    if not found:
        raise argparse.ArgumentTypeError(f"there is no file {name!r:.60}")
    return path
