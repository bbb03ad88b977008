"""What the demo shows, with one process as with several, and how it went by the server's count."""

import argparse
import asyncio
import random
from typing import Any, Final, Protocol

import attrs

from pika_balancer.cli.demo_view import DemoView, PlainView
from pika_balancer.cli.exit_codes import FAILURE, INTERRUPTED, OK
from pika_balancer.cli.output import Output
from pika_balancer.cli.workers import Workers
from pika_balancer.clock import Clock
from pika_balancer.models import Secret
from pika_balancer.server import LocalServer, ServerStatistics

_LOOKS_PER_JOB: Final = 20
_LOOKS_PER_SECOND: Final = 250
_SHORTEST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0

START_WITHIN: Final = 0.75
"""The part of a job's mean time over which the workers start."""


def server_of(args: argparse.Namespace, token: Secret, seed: int, clock: Clock) -> LocalServer:
    """Return the server by the options; its chance is its own, so that what others draw does not shift it."""
    return LocalServer(
        args.accounts,
        token=token.reveal(),
        service=args.service,
        speed=args.speed,
        rng=random.Random(f"server {seed}"),  # noqa: S311 - service times, not cryptography
        clock=clock,
    )


class Shown(Protocol):
    """Something that runs before the user's eyes."""

    async def run(self, view: DemoView) -> None:
        """Run, showing how it stands."""
        ...


async def watched(work: Shown, out: Output) -> bool:
    """Run it and show it; return whether it was cut short."""
    view = out.terminal.live() if out.terminal is not None else PlainView(out.say)
    try:
        with view:
            await work.run(view)
    except asyncio.CancelledError:
        return True
    return False


def pause_between_looks(mean: float, slots: int) -> float:
    """Return the seconds between two looks at a job: a small part of its life, but no flood of requests."""
    pause = min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, mean / _LOOKS_PER_JOB))
    return max(pause, slots / _LOOKS_PER_SECOND)


@attrs.frozen
class Seen:
    """What the server saw on one account."""

    channel: str
    max_jobs: int
    jobs: int
    peak_in_flight: int


def seen_by(statistics: ServerStatistics) -> tuple[Seen, ...]:
    """Return what the server saw, by account, in the order of the account map."""
    return tuple(
        Seen(seen.channel, seen.max_jobs or 0, seen.jobs, seen.peak_in_flight)
        for seen in statistics.channels.values()
    )


@attrs.frozen
class DemoReport:
    """How the demo went, by the server's own count."""

    jobs: int
    """Jobs there were to do."""
    completed: int
    """Jobs that have ended as completed."""
    refusals: int
    """Submits that the server refused because no slot was free."""
    elapsed_s: float
    """Seconds from the first worker's start to the last one's end."""
    accounts: tuple[Seen, ...]
    """In the order of the account map."""
    interrupted: bool
    """Whether it was cut short."""

    @classmethod
    def of(
        cls, statistics: ServerStatistics, workload: Workers, *, jobs: int, interrupted: bool
    ) -> "DemoReport":
        """Return the report of a workload that has ended."""
        return cls(
            jobs=jobs,
            completed=statistics.completed,
            refusals=statistics.attempts_when_full,
            elapsed_s=round(workload.elapsed, 3),
            accounts=seen_by(statistics),
            interrupted=interrupted,
        )

    @property
    def exceeded(self) -> int:
        """How many accounts ever ran more jobs than their cap."""
        return sum(seen.peak_in_flight > seen.max_jobs for seen in self.accounts)

    @property
    def exit_code(self) -> int:
        """0 only if every job is completed, nothing was refused and no cap was passed."""
        if self.interrupted:
            return INTERRUPTED
        return OK if self.completed == self.jobs and not self.refusals and not self.exceeded else FAILURE

    def document(self) -> dict[str, Any]:
        """Return the report as `--json` shows it."""
        return attrs.asdict(self)

    def show(self, out: Output) -> None:
        """Print the report."""
        rows = [(seen.channel, seen.jobs, seen.peak_in_flight, seen.max_jobs) for seen in self.accounts]
        out.say()
        out.table(("account", "jobs", "peak in flight", "cap"), rows)
        out.say()
        stopped = "stopped early: " if self.interrupted else ""
        rate = self.completed / self.elapsed_s if self.elapsed_s else 0.0
        speed = f"in {self.elapsed_s:.1f} s ({rate:.1f} jobs/s)"
        out.say(f"{stopped}{self.completed} of {self.jobs} jobs completed {speed}")
        out.say(
            f"by the server's count: {self.refusals} submits refused (0 expected), "
            f"{self.exceeded} accounts above their cap (0 expected)"
        )
