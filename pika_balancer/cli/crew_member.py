"""One of the processes of a demo that share the accounts.

What it is to do comes in as one line of JSON on its stdin, and anything more there lets it begin. How it
stands goes out as lines of JSON on its stdout, the first once it is ready. The end of its stdin lets it wait
for what runs and end; SIGTERM hurries it.
"""

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Self

import attrs

from pika_balancer.balancer.balancer import Balancer
from pika_balancer.cli.demo_view import DemoFrame
from pika_balancer.cli.exit_codes import FAILURE, INTERRUPTED, OK, exit_for, sentence
from pika_balancer.cli.output import Output
from pika_balancer.cli.workers import Workers
from pika_balancer.client.client import PikaClient
from pika_balancer.clock import Clock, SystemClock
from pika_balancer.errors import PikaError
from pika_balancer.models import Secret
from pika_balancer.store.redis.store import RedisStore


@attrs.frozen(kw_only=True)
class Share:
    """What a process is to do."""

    number: int
    """Which of the processes it is, from 1."""
    base_url: str
    """Where the API is."""
    token: Secret
    """The API token."""
    store: Secret
    """URL of the store, in which a password may be."""
    pool: str
    """Names the pool there."""
    lease_ttl: float
    """Seconds without a sign of life after which it counts as dead."""
    policy: str
    """How accounts are chosen."""
    seed: str
    """Fixes its chance."""
    jobs: int
    """How many jobs it does."""
    workers: int
    """How many at once it wants to do."""
    every: float
    """Seconds between two looks at a job."""
    stagger: float
    """Seconds over which its workers start."""

    def wire(self) -> str:
        """Return it as a line, secrets and all."""
        return json.dumps(attrs.asdict(self) | {"token": self.token.reveal(), "store": self.store.reveal()})

    @classmethod
    def read(cls, line: str) -> Self:
        """Return what a line says."""
        facts: dict[str, Any] = json.loads(line)
        for name in ("token", "store"):
            facts[name] = Secret(facts[name])
        return cls(**facts)


@attrs.frozen
class Standing:
    """How a process stands."""

    completed: int = 0
    """How many jobs it has done."""
    waiting: int = 0
    """How many of its workers wait in line."""
    done: Counter[str] = attrs.Factory(Counter[str])
    """Its jobs that have ended, by channel."""

    def wire(self) -> str:
        """Return it as a line."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def read(cls, line: bytes) -> Self:
        """Return what a line says."""
        facts: dict[str, Any] = json.loads(line)
        return cls(facts["completed"], facts["waiting"], Counter(facts["done"]))


class Telling:
    """A view that tells every frame to whoever started the process."""

    interval: float = 0.1
    """Seconds between two frames."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, frame: DemoFrame) -> None:
        """Tell how it stands."""
        done = Counter({row.channel: row.done for row in frame.rows if row.done})
        self._tell(Standing(frame.completed, frame.waiting, done).wire())


async def work(
    share: Share, tell: Callable[[str], object], begin: Callable[[], Awaitable[object]], *, clock: Clock
) -> None:
    """Do a share of the jobs, and tell how it goes; if cancelled, end as `Workload.run` does.

    Args:
        share: Which part of the work it is.
        tell: Is handed a line whenever there is something new.
        begin: Returns when it is time to begin; called, and waited for, once everything is ready.
        clock: Measures everything.

    Raises:
        PikaError: Service or store cannot be reached or understood.
    """
    store = RedisStore(
        share.store,
        share.pool,
        lease_ttl=share.lease_ttl,
        policy=share.policy,
        first_start=True,
        name=f"process {share.number}",
        rng=random.Random(share.seed),  # noqa: S311 - balancing, not cryptography
        clock=clock,
    )
    try:
        async with (
            PikaClient(share.token, base_url=share.base_url, clock=clock) as client,
            await Balancer.from_client(client, store=store, clock=clock) as balancer,
        ):
            workload = Workers(
                client,
                balancer,
                clock=clock,
                jobs=share.jobs,
                workers=share.workers,
                every=share.every,
                stagger=share.stagger,
            )
            tell(Standing().wire())
            await begin()
            await workload.run(Telling(tell))
    finally:
        await store.close()


async def _live(share: Share, tell: Callable[[str], object], clock: Clock) -> int:
    """Do the share until the end of stdin or a signal; return the exit code."""
    loop = asyncio.get_running_loop()
    begin = asyncio.Event()
    task = asyncio.create_task(work(share, tell, begin.wait, clock=clock))

    def hear() -> None:
        if os.read(sys.stdin.fileno(), 64):
            begin.set()
        else:
            loop.remove_reader(sys.stdin)
            task.cancel()

    loop.add_reader(sys.stdin, hear)
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return INTERRUPTED
    except BrokenPipeError:
        return FAILURE
    except PikaError as error:
        Output().note(f"process {share.number}: {sentence(error)}")
        return exit_for(error).code
    finally:
        loop.remove_reader(sys.stdin)
    return OK


def main() -> int:
    """Do what this process is told to, and return its exit code."""

    def tell(line: str) -> None:
        # Past the buffer, which would complain once more at the end where nobody listens any longer.
        os.write(sys.stdout.fileno(), f"{line}\n".encode())

    line = sys.stdin.readline()
    return asyncio.run(_live(Share.read(line), tell, SystemClock())) if line else INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
