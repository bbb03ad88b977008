"""The life of jobs: accepted, in progress, ended, noticed; and what the API shows of each."""

import math
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from pika_balancer.secret import Secret
from pika_balancer.server.form import ReceivedFile
from pika_balancer.server.state import State
from pika_balancer.server.timeline import Timeline, utc

Outcome = Literal["completed", "moderated", "failed", "cancelled", "lost"]
"""How a job ends. A lost one holds its slot for a time and is never shown."""

SAMPLE: Final = Path(__file__).with_name("sample.mp4")
"""The video that is the result of every completed job."""

PROGRESS_SHARE: Final = 0.1
"""The share of its service time for which a job is `started`; after it, `progress`."""

_DISCORD_EPOCH_MS: Final = 1_420_070_400_000
_ENDS_BADLY: Final = {
    "moderated": (422, "Prompt moderated", "The prompt or its result was found against the rules."),
    "failed": (500, "Job failed", "The service could not finish the job."),
    "cancelled": (499, "Job cancelled", "The job was cancelled before its end."),
}


@attrs.define(eq=False)
class ServerJob:
    """One accepted job. Moments are readings of the server's clock, in seconds."""

    jobid: str
    verb: str
    channel: str
    discord_hint: str
    max_jobs: int
    base_url: str
    """Address of the API as the submitter saw it; results are fetched below it."""
    accepted: float
    ends: float
    """When the work is done."""
    noticed: float
    """When the service learns of it, and the slot frees."""
    outcome: Outcome
    message_id: str
    prompt: str | None = None
    image: ReceivedFile | None = None
    reply_url: Secret | None = None
    reply_ref: str | None = None
    ended: bool = False
    """Whether the API shows that it has ended; never for a lost job."""
    answered: bool = False
    """Whether the submit's answer has been sent; the callback waits for it."""

    @property
    def file_name(self) -> str:
        """Name of the result."""
        return f"{self.message_id}.mp4"

    @property
    def in_progress_from(self) -> float:
        """When its status changes from `started` to `progress`."""
        return self.accepted + PROGRESS_SHARE * (self.ends - self.accepted)


class Jobs:
    """All jobs that a server knows: those executing, and the newest that have ended.

    Args:
        state: Counts their slots.
        timeline: Ends them.
        draw: Returns a service time in seconds, before division by `speed`.
        speed: Service times and `notice` are divided by it.
        notice: Period, in seconds, of the poll by which the service learns of ends; 0: at once.
        retain: How many ended jobs are kept.
        report: Called once for each job that has ended and whose submit has been answered; not if lost.
    """

    def __init__(
        self,
        state: State,
        timeline: Timeline,
        *,
        draw: Callable[[], float],
        speed: float,
        notice: float,
        retain: int,
        report: Callable[[ServerJob], None],
    ) -> None:
        self._state = state
        self._timeline = timeline
        self._draw = draw
        self._speed = speed
        self._period = notice / speed
        self._retain = retain
        self._report = report
        self._file_size = SAMPLE.stat().st_size
        self._by_id: dict[str, ServerJob] = {}
        self._ended_ids: deque[str] = deque()
        self._last_stamp: dict[str, int] = {}
        self._serial = 0

    def accept(
        self, *, channel: str, outcome: Outcome = "completed", search_for: float = 0.0, **facts: Any
    ) -> ServerJob:
        """Start a job on `channel`; the caller has checked that a slot is free.

        Args:
            channel: Where it runs.
            outcome: How it will end.
            search_for: For a `lost` job, how long it holds its slot, in seconds before division by `speed`.
            facts: The other fields of `ServerJob` that the submit decides.
        """
        now = self._timeline.clock.now()
        stamp = self._stamp(channel, now)
        ends = now + (search_for if outcome == "lost" else self._draw()) / self._speed
        self._serial += 1
        job = ServerJob(
            jobid=f"job:{utc(stamp):%Y%m%d%H%M%S}{stamp % 1000:03d}-user:1000-channel:{channel[-4:]}",
            channel=channel,
            accepted=now,
            ends=ends,
            noticed=ends if outcome == "lost" else self._next_poll(ends),
            outcome=outcome,
            message_id=str((max(0, stamp - _DISCORD_EPOCH_MS) << 22) + self._serial % (1 << 22)),
            **facts,
        )
        self._by_id[job.jobid] = job
        self._state.job_accepted(channel, job.jobid, job.reply_ref)
        self._timeline.at(job.noticed, lambda: self._end(job))
        return job

    def answered(self, job: ServerJob) -> None:
        """Allow the job's end to be reported: the submit's answer has been sent."""
        job.answered = True
        if job.ended:
            self._report(job)

    def get(self, jobid: str) -> ServerJob | None:
        """Return a job by its id; None if it is unknown, no longer retained, or lost."""
        job = self._by_id.get(jobid)
        return None if job is None or job.outcome == "lost" else job

    def status(self, job: ServerJob) -> str:
        """Return the job's status word at this moment."""
        if job.ended:
            return job.outcome
        # "At most", so that a job with a service time of 0 is `started` when its submit is answered.
        return "started" if self._timeline.clock.now() <= job.in_progress_from else "progress"

    def as_wire(self, job: ServerJob) -> dict[str, Any]:
        """Return the job as the API shows it; absent fields are left out, never null."""
        status = self.status(job)
        iso = self._timeline.iso
        updated = {"started": job.accepted, "progress": job.in_progress_from}.get(status, job.noticed)
        optional = {
            "prompt": job.prompt,
            "replyUrl": None if job.reply_url is None else job.reply_url.reveal(),
            "replyRef": job.reply_ref,
            "image": None if job.image is None else attrs.asdict(job.image),
        }
        wire: dict[str, Any] = {
            "jobid": job.jobid,
            "verb": f"pika-{job.verb}",
            "status": status,
            "created": iso(job.accepted),
            "updated": iso(updated),
            "discord": job.discord_hint,
            "channel": job.channel,
            "maxJobs": job.max_jobs,
            "code": 200,
        } | {name: value for name, value in optional.items() if value is not None}
        if status == "progress":
            wire |= {"messageId": job.message_id, "content": f"{job.prompt or job.verb} (working)"}
            wire["timestamp"] = iso(updated)
        elif status == "completed":
            wire |= self._result(job)
        elif status in _ENDS_BADLY:
            code, error, details = _ENDS_BADLY[status]
            wire |= {"code": code, "error": error, "errorDetails": details}
        return wire

    def _result(self, job: ServerJob) -> dict[str, Any]:
        return {
            "messageId": job.message_id,
            "content": job.prompt or job.verb,
            "timestamp": self._timeline.iso(job.ends),
            "buttons": ["retry"],
            "attachments": [
                {
                    "url": f"{job.base_url}/files/{job.jobid}/{job.file_name}",
                    "filename": job.file_name,
                    "content_type": "video/mp4",
                    "size": self._file_size,
                }
            ],
            "embeds": [],
        }

    def _stamp(self, channel: str, now: float) -> int:
        # Ids hold milliseconds and four digits of the channel: the stamps of a busy channel run ahead of
        # time, so that no id repeats.
        tail = channel[-4:]
        stamp = max(self._timeline.unix_ms(now), self._last_stamp.get(tail, 0) + 1)
        self._last_stamp[tail] = stamp
        return stamp

    def _next_poll(self, moment: float) -> float:
        if self._period == 0:
            return moment
        ticks = math.ceil((moment - self._timeline.origin) / self._period)
        return max(moment, self._timeline.origin + ticks * self._period)

    def _end(self, job: ServerJob) -> None:
        self._state.job_ended(job.jobid, completed=job.outcome == "completed")
        if job.outcome == "lost":
            del self._by_id[job.jobid]
            return
        job.ended = True
        self._ended_ids.append(job.jobid)
        if len(self._ended_ids) > self._retain:
            del self._by_id[self._ended_ids.popleft()]
        if job.answered:
            self._report(job)
