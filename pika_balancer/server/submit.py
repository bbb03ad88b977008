"""A submit from its body to its answer: parameters, scripted fault, admission, acceptance."""

import contextlib
import math
import random
from typing import Any

import attrs
from aiohttp import web

from pika_balancer.clock import Clock
from pika_balancer.server.accounts import MAX_JOBS_LIMIT, discord_hint
from pika_balancer.server.answers import error_answer, json_answer
from pika_balancer.server.errors import Refusal
from pika_balancer.server.faults import FaultScript, ScriptedFault
from pika_balancer.server.form import read_form
from pika_balancer.server.jobs import Calendar, Jobs, ServerJob
from pika_balancer.server.params import VERBS, SubmitRequest, check_order
from pika_balancer.server.state import State
from pika_balancer.server.timeline import Timeline

_HTML = "<!DOCTYPE html><html><head><title>500</title></head><body><h1>Server Error</h1></body></html>\n"


@attrs.frozen
class _Seat:
    """Where an order may run."""

    channel: str
    max_jobs: int
    discord_hint: str


@attrs.frozen(kw_only=True)
class Submits:
    """Handles the job calls of one server."""

    state: State
    jobs: Jobs
    timeline: Timeline
    clock: Clock
    calendar: Calendar
    rng: random.Random
    script: FaultScript
    speed: float
    max_jobs_limit: int
    body_limit: int
    allow_remote: bool

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one job call; raises `Refusal` for bad parameters, unknown channels and full ones."""
        self.state.submits += 1
        path, _, verb = request.path.rpartition("/")
        form = await read_form(request, files=VERBS[verb].files, limit=self.body_limit, clock=self.clock)
        order = check_order(verb, form, limit=self.max_jobs_limit, allow_remote=self.allow_remote)
        parent = self._parent(order)
        fault = self.script.draw(self.rng)
        if fault is not None and not fault.kind.accepted:
            self.state.count_fault(fault.name)
            return self._faulty_answer(request, fault)
        # From the look at the free slots to the taking of one nothing awaits.
        job = self._accept(order, parent, fault, base_url=f"{request.scheme}://{request.host}{path}")
        try:
            if fault is not None:
                self.state.count_fault(fault.name)
            return await self._answer(request, job, fault)
        finally:
            self.jobs.answered(job)

    def _parent(self, order: SubmitRequest) -> ServerJob | None:
        if order.jobid is None or order.verb != "button":
            return None
        parent = self.jobs.get(order.jobid)
        if parent is None:
            raise Refusal(404, f"Job {order.jobid} not found")
        if self.jobs.status(parent) != "completed":
            raise Refusal(400, f"Job {order.jobid} is not completed")
        return parent

    def _accept(
        self, order: SubmitRequest, parent: ServerJob | None, fault: ScriptedFault | None, *, base_url: str
    ) -> ServerJob:
        seat = self._seat(order, parent)
        facts: dict[str, Any] = {}
        if fault is not None and fault.kind.outcome is not None:
            facts = {"outcome": fault.kind.outcome, "search_for": fault.seconds}
        return self.jobs.accept(
            channel=seat.channel,
            max_jobs=seat.max_jobs,
            discord_hint=seat.discord_hint,
            verb=order.verb,
            prompt=parent.prompt if parent else order.prompt,
            image=parent.image if parent else order.image,
            reply_url=order.reply_url,
            reply_ref=order.reply_ref,
            base_url=base_url,
            **facts,
        )

    def _seat(self, order: SubmitRequest, parent: ServerJob | None) -> _Seat:
        if parent is None and order.channel is None:
            return self._any_seat()
        seat = self._named_seat(order) if parent is None else self._parents_seat(order, parent)
        if not self.state.has_room(seat.channel, seat.max_jobs):
            self.state.count_refusal(seat.channel)
            error = f"Channel {seat.channel} runs {seat.max_jobs} jobs already"
            raise Refusal(429, error, executingJobs=self.jobs.executing(seat.channel))
        return seat

    def _any_seat(self) -> _Seat:
        if not self.state.accounts:
            raise Refusal(404, "No accounts are configured")
        account = self.state.pick(self.rng)
        if account is None:
            error = "All accounts run as many jobs as they may"
            raise Refusal(429, error, executingJobs=self.jobs.executing())
        return _Seat(account.channel, account.max_jobs, discord_hint(account.discord))

    def _named_seat(self, order: SubmitRequest) -> _Seat:
        channel = order.channel or ""
        account = self.state.accounts.get(channel)
        discord = order.discord or (account.discord if account else None)
        if discord is None:
            raise Refusal(404, f"Channel {channel} is not configured")
        return _Seat(channel, self._cap(order, channel, MAX_JOBS_LIMIT), discord_hint(discord))

    def _parents_seat(self, order: SubmitRequest, parent: ServerJob) -> _Seat:
        return _Seat(parent.channel, self._cap(order, parent.channel, parent.max_jobs), parent.discord_hint)

    def _cap(self, order: SubmitRequest, channel: str, default: int) -> int:
        account = self.state.accounts.get(channel)
        return order.max_jobs or (account.max_jobs if account else min(default, self.max_jobs_limit))

    async def _answer(
        self, request: web.Request, job: ServerJob, fault: ScriptedFault | None
    ) -> web.StreamResponse:
        if fault is not None and fault.kind.answer != "job":
            return self._faulty_answer(request, fault)
        # The answer tells of the moment of acceptance, however late it leaves.
        answer = json_answer(200, self.jobs.as_wire(job))
        if fault is not None and fault.name == "slow":
            await self.timeline.delay(fault.seconds / self.speed)
        if job.reply_url is not None:
            # Sent here and not by aiohttp, so that the callback comes after it; a caller that is gone still
            # gets its callback.
            with contextlib.suppress(ConnectionError):
                await answer.prepare(request)
                await answer.write_eof()
        return answer

    def _faulty_answer(self, request: web.Request, fault: ScriptedFault) -> web.Response:
        kind = fault.kind
        if kind.answer == "drop":
            if request.transport is not None:
                request.transport.close()
            return web.Response()
        if kind.answer == "html":
            return web.Response(status=kind.status, text=_HTML, content_type="text/html")
        if fault.name == "429":
            wait = fault.seconds / self.speed
            body = {
                "error": kind.error,
                "code": kind.status,
                "retryAfter": self.calendar.iso(self.clock.now() + wait),
            }
            return json_answer(kind.status, body, {"Retry-After": str(math.ceil(wait))})
        return error_answer(kind.status, kind.error)
