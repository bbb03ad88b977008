"""Asking after many jobs: in their order, a few at a time, and nothing left behind."""

import asyncio
from typing import cast

import pytest

from pika_balancer import Job, PikaClient
from pika_balancer.cli.fetch_jobs import ask
from pika_balancer.errors import NotFound, PikaError, Unauthorized

COMPLETED = Job("j", "completed", channel="1")


class Script:
    """Answers `job()` as scripted; the last answer stays."""

    def __init__(self, *answers: Job | PikaError) -> None:
        self.answers: list[Job | PikaError] = list(answers)
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0

    async def job(self, jobid: str) -> Job:
        self.asked.append(jobid)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, PikaError):
            raise answer
        return answer

    @property
    def client(self) -> PikaClient:
        return cast("PikaClient", self)


async def test_ask_keeps_the_order_skips_the_forgotten_and_is_never_more_than_eight_at_once() -> None:
    script = Script(*([COMPLETED] * 5), NotFound("gone"), *([COMPLETED] * 34))
    jobs = await ask(script.client, [str(number) for number in range(40)])
    assert len(jobs) == 39
    assert script.asked == [str(number) for number in range(40)]
    assert script.most_at_once == 8


async def test_ask_that_fails_leaves_no_task() -> None:
    script = Script(COMPLETED, Unauthorized("no"))
    before = asyncio.all_tasks()
    with pytest.raises(Unauthorized):
        await ask(script.client, [str(number) for number in range(40)])
    assert asyncio.all_tasks() == before
