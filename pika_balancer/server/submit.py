"""Answers job calls: reads the parameters, draws a scripted fault, takes a slot, answers with the job."""

import contextlib
import math
import random
from typing import Any, Final

import attrs
from aiohttp import web

from pika_balancer.server.accounts import MAX_JOBS_LIMIT, discord_hint
from pika_balancer.server.answers import Refusal, error_answer, json_answer
from pika_balancer.server.faults import FaultScript, ScriptedFault
from pika_balancer.server.form import read_form
from pika_balancer.server.jobs import Jobs, ServerJob
from pika_balancer.server.params import VERBS, SubmitRequest, check_submit
from pika_balancer.server.state import State
from pika_balancer.server.timeline import Timeline

_HTML: Final = (
    "<!DOCTYPE html><html><head><title>500</title></head><body><h1>Server Error</h1></body></html>\n"
)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Submits:
    """Handles the job calls of one server."""

    state: State
    jobs: Jobs
    timeline: Timeline
    rng: random.Random
    script: FaultScript
    speed: float
    body_limit: int
    allow_remote: bool

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one job call; raises `Refusal` for bad parameters, unknown channels and full ones."""
        self.state.count_submit()
        path, _, verb = request.path.rpartition("/")
        form = await read_form(
            request, files=VERBS[verb].files, limit=self.body_limit, clock=self.timeline.clock
        )
        submit = check_submit(verb, form, allow_remote=self.allow_remote)
        parent = self._parent(submit)
        fault = self.script.draw(self.rng)
        if fault is not None and not fault.kind.accepted:
            self.state.count_fault(fault.name)
            return self._faulty_answer(request, fault)
        # Nothing awaits between the check for a free slot and the taking of it.
        job = self._accept(submit, parent, fault, base_url=f"{request.scheme}://{request.host}{path}")
        try:
            if fault is not None:
                self.state.count_fault(fault.name)
            return await self._answer(request, job, fault)
        finally:
            self.jobs.answered(job)

    def _parent(self, submit: SubmitRequest) -> ServerJob | None:
        if submit.jobid is None or submit.verb != "button":
            return None
        parent = self.jobs.get(submit.jobid)
        if parent is None:
            raise Refusal(404, f"Job {submit.jobid} not found")
        if self.jobs.status(parent) != "completed":
            raise Refusal(400, f"Job {submit.jobid} is not completed")
        return parent

    def _accept(
        self, submit: SubmitRequest, parent: ServerJob | None, fault: ScriptedFault | None, *, base_url: str
    ) -> ServerJob:
        facts: dict[str, Any] = {}
        if fault is not None and fault.kind.outcome is not None:
            facts = {"outcome": fault.kind.outcome, "search_for": fault.seconds}
        channel, max_jobs, hint = self._placement(submit, parent)
        return self.jobs.accept(
            channel=channel,
            max_jobs=max_jobs,
            discord_hint=hint,
            verb=submit.verb,
            prompt=parent.prompt if parent else submit.prompt,
            image=parent.image if parent else submit.image,
            reply_url=submit.reply_url,
            reply_ref=submit.reply_ref,
            base_url=base_url,
            **facts,
        )

    def _placement(self, submit: SubmitRequest, parent: ServerJob | None) -> tuple[str, int, str]:
        """Return the channel to run on, its cap, and what the job shows of its Discord token.

        Raises:
            Refusal: 404 if there is no such channel, 429 without a free slot.
        """
        channel = parent.channel if parent else submit.channel
        if channel is None:
            if not self.state.accounts:
                raise Refusal(404, "No accounts are configured")
            picked = self.state.pick(self.rng)
            if picked is None:
                error = "All accounts run as many jobs as they may"
                raise Refusal(429, error, executingJobs=self.state.executing())
            return picked.channel, picked.max_jobs, discord_hint(picked.discord)
        account = self.state.accounts.get(channel)
        discord = submit.discord or (account.discord if account else None)
        if parent is not None:
            hint = parent.discord_hint
        elif discord is not None:
            hint = discord_hint(discord)
        else:
            raise Refusal(404, f"Channel {channel} is not configured")
        default = parent.max_jobs if parent else MAX_JOBS_LIMIT
        max_jobs = submit.max_jobs or (account.max_jobs if account else default)
        if not self.state.has_room(channel, max_jobs):
            self.state.count_refusal(channel)
            error = f"Channel {channel} runs {max_jobs} jobs already"
            raise Refusal(429, error, executingJobs=self.state.executing(channel))
        return channel, max_jobs, hint

    async def _answer(
        self, request: web.Request, job: ServerJob, fault: ScriptedFault | None
    ) -> web.StreamResponse:
        if fault is not None and fault.kind.answer != "job":
            return self._faulty_answer(request, fault)
        # The answer shows the moment of acceptance, however late it leaves.
        answer = json_answer(200, self.jobs.as_wire(job))
        if fault is not None and fault.name == "slow":
            await self.timeline.delay(fault.seconds / self.speed)
        if job.reply_url is not None:
            # Sent here and not by aiohttp, so that the callback comes after it. A caller that has
            # disconnected still gets its callback.
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
            retry_at = self.timeline.iso(self.timeline.clock.now() + wait)
            headers = {"Retry-After": str(math.ceil(wait))}
            return Refusal(429, kind.error, headers=headers, retryAfter=retry_at).answer()
        return error_answer(kind.status, kind.error)
