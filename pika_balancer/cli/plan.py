"""`pika-balancer plan`: how many accounts it takes."""

import argparse
import warnings
from typing import Final, get_args

import attrs

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
from pika_balancer.simulate.sizing import Find, Plan, SizePoint, plan
from pika_balancer.simulate.variants import with_accounts, with_rate, with_slots

_MOST: Final = 1000
_JOBS: Final = 50_000
_MOST_JOBS: Final = 3_200_000


def register(subparsers: Subparsers) -> None:
    """Add the parser of `plan`."""
    parser = add_command(
        subparsers,
        "plan",
        summary="find how many accounts it takes",
        description="Find the smallest number of accounts (or of slots, or the largest rate) that meets "
        "every target at 95 % confidence, with what one more or less does, and what becomes of it when an "
        "account is banned, jobs take longer or more of them come. Exits with 3 if nothing in reach does.",
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
        help="or the accounts that there are, as `simulate` takes them; more are like the last one",
    )
    parser.add_argument(
        "--target",
        type=reads(notation.parse_target),
        action="append",
        required=True,
        metavar="TARGET",
        help="what must be met: refused<1%%, wait.p95<120s, utilisation<85%%; may be repeated",
    )
    parser.add_argument(
        "--find", choices=get_args(Find), default="accounts", help="what to find (default: %(default)s)"
    )
    add_jobs(parser)
    add_trouble(parser, by_account=False)
    add = add_run(parser).add_argument
    count = reads(notation.parse_count)
    add(
        "--most",
        type=whole(1),
        default=_MOST,
        metavar="N",
        help="the largest size to try (default: %(default)s)",
    )
    add(
        "--jobs",
        type=count,
        default=_JOBS,
        metavar="N",
        help="jobs of the first look at a size (default: 50,000)",
    )
    add(
        "--most-jobs",
        type=count,
        default=_MOST_JOBS,
        metavar="N",
        help="jobs of the last (default: 3,200,000)",
    )
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace) -> int:
    """Find the size, and print it with what surrounds it; after a signal, the sizes that were looked at."""
    out = Output(as_json=args.json)
    looks: list[SizePoint] = []
    with interruptible(), extras():
        try:
            work = work_of(args)
            accounts = args.accounts or (SimulatedAccount("1", args.account_cap),)
            scenario = scenario_of(args, work, accounts)
            found = _planned(args, scenario, looks)
            found = attrs.evolve(found, warnings=(*work.notes, *found.warnings))
            if args.report is not None:
                chosen = simulated(found, scenario, args.seed)
                plan_page.report_of_plan(found, scenario, chosen).write(args.report)
        except KeyboardInterrupt:
            out.document({"interrupted": True, "points": [point.to_dict() for point in looks]})
            out.note(f"interrupted; {len(looks)} sizes were looked at" + _last(looks))
            return INTERRUPTED
    out.document(found.to_dict() | {"seed": args.seed, "scenario": dict(plan_page.question(found, scenario))})
    if not args.json:
        show(found, scenario, out)
    return NO_CAPACITY if found.answer is None else OK


def show(found: Plan, scenario: Scenario, out: Output) -> None:
    """Print the plan, for people."""
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
    """Return a simulation of the size that was chosen, None where none was."""
    if found.answer is None:
        return None
    if found.find == "rate":
        sized = with_rate(scenario, found.answer / scenario.arrivals.rate)
    else:
        sized = (with_accounts if found.find == "accounts" else with_slots)(scenario, int(found.answer))
    return simulate(sized, jobs=None if isinstance(sized.arrivals, Trace) else _JOBS, seed=seed)


def _planned(args: argparse.Namespace, scenario: Scenario, looks: list[SizePoint]) -> Plan:
    # What the engine has to say is among the warnings.
    with Gauge(None) as gauge, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)

        def progress(point: SizePoint) -> None:
            looks.append(point)
            gauge.show(len(looks))

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


def _last(looks: list[SizePoint]) -> str:
    if not looks:
        return ""
    last = looks[-1]
    return f", the last of them with {last.slots} slots: {last.verdict}"
