"""The life of jobs: accepted, in progress, ended, seen to have ended; and what the API shows of each."""

import datetime as dt
import math
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Literal

import attrs

from pika_balancer.clock import Clock
from pika_balancer.distributions import Distribution
from pika_balancer.secret import Secret
from pika_balancer.server.form import ReceivedFile
from pika_balancer.server.state import State
from pika_balancer.server.timeline import Timeline

Outcome = Literal["completed", "moderated", "failed", "cancelled", "lost"]
"""How a job ends. A lost one holds its slot for a time and is never seen again."""

PROGRESS_SHARE: Final = 0.1
"""The part of its service time that a job is `started`; after it, `progress`."""

_DISCORD_EPOCH_MS: Final = 1_420_070_400_000
_ENDS_BADLY: Final = {
    "moderated": (422, "Prompt moderated", "The prompt or its result was found against the rules."),
    "failed": (500, "Job failed", "The service could not finish the job."),
    "cancelled": (499, "Job cancelled", "The job was cancelled before its end."),
}


class Calendar:
    """Turns moments of a clock into wall time, by an epoch at which both stood still."""

    def __init__(self, clock: Clock, epoch: dt.datetime) -> None:
        self._epoch_ms = round(epoch.timestamp() * 1000)
        self._origin = clock.now()

    def ms(self, moment: float) -> int:
        """Return the milliseconds since 1970 at `moment`."""
        return self._epoch_ms + round((moment - self._origin) * 1000)

    def iso(self, moment: float) -> str:
        """Return `moment` as ISO 8601 with milliseconds and `Z`."""
        return _at(self.ms(moment)).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _at(ms: int) -> dt.datetime:
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=ms)


@attrs.define(eq=False)
class ServerJob:
    """One accepted job. Moments are readings of the server's clock, in seconds."""

    jobid: str
    verb: str
    channel: str
    discord_hint: str
    max_jobs: int
    base_url: str
    """Address of the API as its submitter saw it; results are fetched below it."""
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
    """Whether anybody can see that it has ended; never for a lost job."""
    answered: bool = False
    """Whether the submit's own answer has left; the callback waits for it."""

    @property
    def file_name(self) -> str:
        """Name of the result."""
        return f"{self.message_id}.mp4"


class Jobs:
    """All jobs that a server knows: those executing, and the newest that have ended.

    `report` is called once for each job that ends, after its submit has been answered; never for lost jobs.
    """

    def __init__(
        self,
        state: State,
        *,
        timeline: Timeline,
        clock: Clock,
        calendar: Calendar,
        rng: random.Random,
        law: Distribution,
        speed: float,
        notice: float,
        retain: int,
        file_size: int,
        report: Callable[[ServerJob], None],
    ) -> None:
        self._state = state
        self._timeline = timeline
        self._clock = clock
        self._calendar = calendar
        self._rng = rng
        self._draw = law.one(rng)
        self._speed = speed
        self._period = notice / speed
        self._origin = clock.now()
        self._retain = retain
        self._file_size = file_size
        self._report = report
        self._by_id: dict[str, ServerJob] = {}
        self._ended_ids: deque[str] = deque()
        self._last_stamp: dict[str, int] = {}
        self._serial = 0

    def accept(
        self, *, channel: str, outcome: Outcome = "completed", search_for: float = 0.0, **facts: Any
    ) -> ServerJob:
        """Take a job on `channel`, whose slot is the caller's to have checked, and let its time run.

        Args:
            channel: Where it runs.
            outcome: How it will end.
            search_for: For a `lost` job, the seconds of service time that it holds its slot.
            facts: The other fields of `Job` that the submit decides.
        """
        now = self._clock.now()
        stamp = self._stamp(channel, now)
        service = (search_for if outcome == "lost" else self._draw()) / self._speed
        ends = now + service
        self._serial += 1
        job = ServerJob(
            jobid=f"job:{_at(stamp):%Y%m%d%H%M%S}{stamp % 1000:03d}-user:1000-channel:{channel[-4:]}",
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
        """Note that the submit's own answer has left: from now on the job's end may be reported."""
        job.answered = True
        self._report_if_due(job)

    def get(self, jobid: str) -> ServerJob | None:
        """Return a job by its id; None for one unknown, forgotten or lost."""
        job = self._by_id.get(jobid)
        return None if job is None or job.outcome == "lost" else job

    def executing(self, channel: str | None = None) -> list[str]:
        """Return the ids of the jobs that hold slots, on one channel or on all."""
        return self._state.executing(channel)

    def status(self, job: ServerJob) -> str:
        """Return the job's status word at this moment."""
        if job.ended:
            return job.outcome
        # "At most", so that a job without any service time is started when its submit is answered.
        return "started" if self._clock.now() <= self._progress_from(job) else "progress"

    def as_wire(self, job: ServerJob) -> dict[str, Any]:
        """Return the job as the API shows it; absent fields are left out, never null."""
        status = self.status(job)
        iso = self._calendar.iso
        if job.ended:
            updated = job.noticed
        else:
            updated = job.accepted if status == "started" else self._progress_from(job)
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
        }
        reply_url = None if job.reply_url is None else job.reply_url.reveal()
        wire |= _given(prompt=job.prompt, replyUrl=reply_url, replyRef=job.reply_ref)
        if job.image is not None:
            wire["image"] = {"size": job.image.size, "type": job.image.type}
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
            "timestamp": self._calendar.iso(job.ends),
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
        # Ids hold milliseconds and four digits of the channel: a busy channel's stamps run ahead of time
        # rather than ever repeat.
        tail = channel[-4:]
        stamp = max(self._calendar.ms(now), self._last_stamp.get(tail, 0) + 1)
        self._last_stamp[tail] = stamp
        return stamp

    def _next_poll(self, moment: float) -> float:
        if self._period == 0:
            return moment
        ticks = math.ceil((moment - self._origin) / self._period)
        return max(moment, self._origin + ticks * self._period)

    def _progress_from(self, job: ServerJob) -> float:
        return job.accepted + PROGRESS_SHARE * (job.ends - job.accepted)

    def _end(self, job: ServerJob) -> None:
        self._state.job_ended(job.channel, job.jobid, completed=job.outcome == "completed")
        if job.outcome == "lost":
            del self._by_id[job.jobid]
            return
        job.ended = True
        self._ended_ids.append(job.jobid)
        if len(self._ended_ids) > self._retain:
            del self._by_id[self._ended_ids.popleft()]
        self._report_if_due(job)

    def _report_if_due(self, job: ServerJob) -> None:
        if job.ended and job.answered:
            self._report(job)


def _given(**values: str | None) -> dict[str, str]:
    return {key: value for key, value in values.items() if value is not None}
