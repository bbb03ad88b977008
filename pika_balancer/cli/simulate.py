"""`pika-balancer simulate`: simulate the accounts under a load."""

import argparse
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import attrs

from pika_balancer._util.units import parse_count, parse_duration
from pika_balancer.cli.exit_codes import INTERRUPTED, OK, Interrupted, Usage
from pika_balancer.cli.options import Subparsers, add_command, reads, share, whole
from pika_balancer.cli.output import Output
from pika_balancer.cli.progress import Gauge, Stop, interruptible, stopping
from pika_balancer.cli.scenario_options import (
    accounts_by,
    add_jobs,
    add_run,
    add_trouble,
    extras,
    read_accounts_option,
    scenario_of,
    work_of,
    writable,
)
from pika_balancer.simulate import Result, Scenario, Trace, in_bursts, replicate, simulate
from pika_balancer.simulate.report import Table, report_of, simulation_page, words
from pika_balancer.simulate.report.numbers import duration, figure

_JOBS: Final = 1_000_000
_JOBS_SLOW: Final = 100_000
_MOST: Final = 10**12
_TABLES: Final = ("estimates", "series", "jobs")
_ENGINES: Final = ("auto", "numba", "reference")


def register(subparsers: Subparsers) -> None:
    """Add the parser of `simulate`."""
    parser = add_command(
        subparsers,
        "simulate",
        summary="simulate the accounts under a load",
        description="Simulate how many jobs find every account full, how long they wait, and how many slots "
        "are in use. Every estimate has its 95 % confidence interval, and the exact value where queueing "
        "theory has one. Ctrl-C prints the results so far.",
        examples="  pika-balancer simulate --accounts 5x6 --arrivals poisson:500/h --service exp:180s\n"
        "  pika-balancer simulate --accounts 5x6 --arrivals poisson:500/h "
        "--service lognormal:mean=180s,cv=0.7 --when-full retry:15s,80 --jobs 1e6 --seed 1\n"
        "  pika-balancer simulate --accounts 3x6 --trace jobs.csv --time-scale 0.1 --when-full queue "
        "--report answer.html\n"
        "  pika-balancer simulate --accounts 6,6,4 --outage 2:1h..90min --arrivals poisson:200/h "
        "--service exp:3min --duration 7d --json",
    )
    parser.add_argument(
        "--accounts",
        type=read_accounts_option,
        required=True,
        metavar="CAPS",
        help="accounts by their caps: 6,6,4, or 5x6 for five with cap 6; or a JSON file as printed by "
        "`pika-balancer accounts --json`, - for stdin",
    )
    add_jobs(parser)
    add_trouble(parser, by_account=True)
    group = add_run(parser)
    add = group.add_argument
    length = group.add_mutually_exclusive_group()
    length.add_argument(
        "--jobs",
        type=reads(parse_count),
        metavar="N",
        help=f"number of jobs (default: the whole trace, else {_JOBS:,}; slow engine: {_JOBS_SLOW:,})",
    )
    length.add_argument(
        "--duration",
        type=reads(parse_duration),
        metavar="TIME",
        help="simulated time, instead of --jobs: 7d",
    )
    add(
        "--warm-up",
        type=share,
        metavar="SHARE",
        help="share of the run that counts in no estimate (default: 10%%, of a trace 0%%)",
    )
    add(
        "--replications",
        type=whole(1),
        default=1,
        metavar="N",
        help="number of independent runs, whose results are pooled (default: %(default)s)",
    )
    add(
        "--processes",
        type=whole(1, 1000),
        metavar="N",
        help="number of processes for --replications (default: one for each processor)",
    )
    add(
        "--engine",
        choices=_ENGINES,
        default="auto",
        help="numba is fast and needs the extra `sim` (default: %(default)s)",
    )
    add("--csv", type=writable, metavar="FILE", help="write a table to this CSV file")
    add("--parquet", type=_parquet, metavar="FILE", help="write the table to this Parquet file")
    add(
        "--table",
        choices=_TABLES,
        default=_TABLES[0],
        help="the table: estimates, jobs in flight over time, or the fate of each job (default: %(default)s)",
    )
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace) -> int:
    """Simulate, and print the result; after a signal, the result so far."""
    out = Output(as_json=args.json)
    if args.replications > 1 and args.table == "jobs":
        raise Usage("--table jobs needs a single run: remove --replications")
    if args.processes is not None and args.replications == 1:
        raise Usage("--processes needs --replications")
    with stopping() as stop, extras():
        work = work_of(args)
        scenario = scenario_of(args, work, accounts_by(args), warm_up=args.warm_up)
        stop.check()
        simulated = _simulated if args.replications == 1 else _replicated
        result = simulated(args, scenario, length_of(args, scenario), stop)
        bursts = None if stop.asked or not isinstance(scenario.arrivals, Trace) else in_bursts(result)
        result = attrs.evolve(result, notes=(*work.notes, *result.notes, *([bursts] if bursts else [])))
        for path, write in ((args.csv, result.to_csv), (args.parquet, result.to_parquet)):
            if path is not None:
                write(path, args.table)
        if args.report is not None:
            report_of(result).write(args.report)
    out.document(document(result))
    if not args.json:
        show(result, out)
    return INTERRUPTED if stop.asked else OK


def length_of(args: argparse.Namespace, scenario: Scenario) -> int | None:
    """Return the number of jobs, None if --duration or a trace ends the run.

    Raises:
        Usage: There would be more jobs than can be simulated.
    """
    endless = not isinstance(scenario.arrivals, Trace)
    if endless and args.duration is not None and args.duration * scenario.arrivals.rate > _MOST:
        raise Usage(f"--duration: more than {_MOST:,} jobs would arrive; shorten it, or use --jobs")
    if args.jobs is not None or args.duration is not None or isinstance(scenario.arrivals, Trace):
        jobs: int | None = args.jobs
        return jobs
    slow = args.engine == "reference" or find_spec("numba") is None
    return _JOBS_SLOW if slow else _JOBS


def document(result: Result) -> dict[str, Any]:
    """Return the result as plain JSON."""
    return result.to_dict() | {
        "seed": result.seed,
        "notes": list(result.notes),
        "warm_up": result.warm_up,
        "scenario": dict(words.question(result.scenario)),
    }


def show(result: Result, out: Output) -> None:
    """Print the result as text."""
    out.pairs(words.question(result.scenario))
    out.say()
    out.say(words.answer(result))
    for note in result.notes:
        out.say(f"note: {note}")
    for table in (simulation_page.figures(result), simulation_page.accounts(result)):
        out.say()
        show_table(table, out)
    out.say()
    out.say(simulation_page.footer(result))
    if result.elapsed_s > 0:
        out.say(f"{result.jobs:,} jobs in {duration(result.elapsed_s)}, {figure(result.jobs_per_s)} jobs/s")


def show_table(table: Table, out: Output) -> None:
    """Print a table of a report."""
    out.table(table.header, table.rows, right=range(1, len(table.header)))


def _simulated(args: argparse.Namespace, scenario: Scenario, jobs: int | None, stop: Stop) -> Result:
    total = jobs or (len(scenario.arrivals) if isinstance(scenario.arrivals, Trace) else 0)
    total = total or int(args.duration * scenario.arrivals.rate)
    # The notes contain the engine's warning.
    with Gauge(total) as gauge, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)

        def watch(done: int) -> bool:
            gauge.show(done)
            return not stop.asked

        return simulate(
            scenario,
            jobs=jobs,
            duration=args.duration,
            seed=args.seed,
            records=args.table == "jobs",
            engine=args.engine,
            watch=watch,
        )


def _replicated(args: argparse.Namespace, scenario: Scenario, jobs: int | None, stop: Stop) -> Result:
    """Return the pooled result of several runs; after a signal, of those that have ended."""
    began = time.perf_counter()
    with interruptible(), Gauge(args.replications) as gauge, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        pooled = replicate(
            scenario,
            runs=args.replications,
            jobs=jobs,
            duration=args.duration,
            seed=args.seed,
            engine=args.engine,
            workers=args.processes,
            progress=lambda progress: gauge.show(progress.done),
        )
    if pooled.interrupted:
        stop.asked = True
        if not pooled.runs:
            raise Interrupted("interrupted before any run ended")
    result = pooled.result()
    few = f"interrupted; the result is of the {len(pooled.runs)} of {args.replications} runs that ended"
    notes = (*result.notes, few) if pooled.interrupted else result.notes
    # The runs have seeds of their own, and run in parallel.
    return attrs.evolve(result, seed=args.seed, notes=notes, elapsed_s=time.perf_counter() - began)


def _parquet(text: str) -> Path:
    if find_spec("pyarrow") is None:
        raise argparse.ArgumentTypeError("Parquet needs pyarrow: pip install 'pika-balancer[parquet]'")
    return writable(text)
