"""A job's whole life: lease, submit, act on the answer, follow to the end, release.

handle, batch, webhook      one job, many jobs and the receiver of callbacks, as a caller sees them
dispatcher                  the interface: arguments, start, drain and close
submitter, cooldown         one job until the service has it: slot, POST, what each answer means
registry, poller            the jobs until their ends: answers, polls, callbacks
reconciler                  the in-flight counts against what the service executes
"""

from pika_balancer.dispatch.batch import Batch, Outcome, Progress
from pika_balancer.dispatch.dispatcher import Dispatcher
from pika_balancer.dispatch.handle import JobHandle

__all__ = ["Batch", "Dispatcher", "JobHandle", "Outcome", "Progress"]
