"""`pika-balancer plan`: find how many accounts are needed."""

import argparse
import warnings
from typing import Final, get_args

import attrs

from pika_balancer._util.units import parse_count
from pika_balancer.cli.exit_codes import INTERRUPTED, NO_CAPACITY, OK
from pika_balancer.cli.options import Subparsers, add_command, reads, whole
from pika_balancer.cli.output import Output
from pika_balancer.cli.progress import Gauge, interruptible
from pika_balancer.cli.scenario_options import (
    add_jobs,
    add_run,
    add_trouble,
    extras,
    read_accounts_option,
    scenario_of,
    work_of,
)
from pika_balancer.cli.simulate import show_table
from pika_balancer.simulate import Result, Scenario, SimulatedAccount, Trace, notation, simulate
from pika_balancer.simulate.report import plan_page
from pika_balancer.simulate.sizing import Find, Plan, SizePoint, at_size, plan

_MOST: Final = 1000
_JOBS: Final = 50_000
_MOST_JOBS: Final = 3_200_000


def register(subparsers: Subparsers) -> None:
    """Add the parser of `plan`."""
    parser = add_command(
        subparsers,
        "plan",
        summary="find how many accounts are needed",
        description="Find the smallest number of accounts (or of slots, or the largest rate) that meets "
        "every target at 95 % confidence. Prints the sizes around it too, and what it does if an account is "
        "banned, jobs run longer or more of them arrive. Exits with 3 if no size tried meets the targets.",
        examples="  pika-balancer plan --arrivals poisson:500/h --service lognormal:mean=180s,cv=0.7 "
        "--account-cap 6 --target 'refused<1%' --target 'wait.p95<120s' --when-full queue\n"
        "  pika-balancer plan --trace jobs.csv --account-cap 6 --when-full retry:15s,80 "
        "--target 'wait.p95<2min' --report answer.html\n"
        "  pika-balancer plan --find rate --accounts 5x6 --arrivals poisson:500/h --service exp:3min "
        "--target 'refused<1%' --json",
    )
    accounts = parser.add_mutually_exclusive_group(required=True)
    accounts.add_argument("--account-cap", type=whole(1), metavar="N", help="the cap of every account")
    accounts.add_argument(
        "--accounts",
        type=read_accounts_option,
        metavar="CAPS",
        help="existing accounts, as for `simulate`; additional ones are like the last",
    )
    parser.add_argument(
        "--target",
        type=reads(notation.parse_target),
        action="append",
        required=True,
        metavar="TARGET",
        help="refused<1%%, wait.p95<120s, utilisation<85%%, …; repeatable",
    )
    parser.add_argument(
        "--find", choices=get_args(Find), default="accounts", help="what to find (default: %(default)s)"
    )
    add_jobs(parser)
    add_trouble(parser, by_account=False)
    add = add_run(parser).add_argument
    count = reads(parse_count)
    add(
        "--most",
        type=whole(1),
        default=_MOST,
        metavar="N",
        help="largest number of accounts or slots to try (default: %(default)s)",
    )
    add(
        "--jobs",
        type=count,
        default=_JOBS,
        metavar="N",
        help="jobs of the first simulation of a size (default: 50,000)",
    )
    add(
        "--most-jobs",
        type=count,
        default=_MOST_JOBS,
        metavar="N",
        help="jobs of its last simulation (default: 3,200,000)",
    )
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace) -> int:
    """Find the size, and print it with the sizes around it; after a signal, the sizes evaluated so far."""
    out = Output(as_json=args.json)
    points: list[SizePoint] = []
    with interruptible(), extras():
        try:
            work = work_of(args)
            accounts = args.accounts or (SimulatedAccount("1", args.account_cap),)
            scenario = scenario_of(args, work, accounts)
            found = _planned(args, scenario, points)
            found = attrs.evolve(found, warnings=(*work.notes, *found.warnings))
            if args.report is not None:
                chosen = simulated(found, scenario, args.seed)
                plan_page.report_of_plan(found, scenario, chosen).write(args.report)
        except KeyboardInterrupt:
            out.document({"interrupted": True, "points": [point.to_dict() for point in points]})
            out.note(f"interrupted; {len(points)} sizes were evaluated" + _last(points))
            return INTERRUPTED
    out.document(found.to_dict() | {"seed": args.seed, "scenario": dict(plan_page.question(found, scenario))})
    if not args.json:
        show(found, scenario, out)
    return NO_CAPACITY if found.answer is None else OK


def show(found: Plan, scenario: Scenario, out: Output) -> None:
    """Print the plan as text."""
    out.pairs(plan_page.question(found, scenario))
    out.say()
    out.say(plan_page.answer(found))
    for warning in found.warnings:
        out.say(f"note: {warning}")
    out.say()
    if found.neighbours:
        show_table(plan_page.neighbours(found), out)
        out.say()
        trouble = plan_page.sensitivity(found)
        out.say(f"{trouble.title}:")
        show_table(trouble, out)
    else:
        show_table(plan_page.tried(found), out)
    out.say()
    out.say(plan_page.footer(found))


def simulated(found: Plan, scenario: Scenario, seed: int) -> Result | None:
    """Return a simulation of the answer, None if there is none."""
    if found.answer is None:
        return None
    sized = at_size(scenario, found.find, found.answer)
    return simulate(sized, jobs=None if isinstance(sized.arrivals, Trace) else _JOBS, seed=seed)


def _planned(args: argparse.Namespace, scenario: Scenario, points: list[SizePoint]) -> Plan:
    # A warning about the slow engine would be one for each size.
    with Gauge(None) as gauge, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)

        def progress(point: SizePoint) -> None:
            points.append(point)
            gauge.show(len(points))

        return plan(
            args.target,
            scenario,
            find=args.find,
            most=args.most,
            jobs=args.jobs,
            most_jobs=args.most_jobs,
            seed=args.seed,
            progress=progress,
        )


def _last(points: list[SizePoint]) -> str:
    if not points:
        return ""
    last = points[-1]
    return f", the last with {last.slots} slots: {last.verdict}"
