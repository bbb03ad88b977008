"""A job's whole life: lease → submit → what the answer means → follow to the end → release.

The map, from the centre outwards:

    verdict, health        what an error means for job, slot and account; how long an account rests
    handle, gate, poller   one job, as its submitter sees it; the way in; looking at many, spread over time
    lookout                what executes upstream, compared with the books
    roster                 the jobs in care, and every step of their lives
    submission, following  a submit and its answer; what is told of a job after that
    batch, dispatcher      many jobs; the whole
"""

from pika_balancer.dispatch.batch import Batch, Outcome, Progress
from pika_balancer.dispatch.dispatcher import Dispatcher
from pika_balancer.dispatch.handle import JobHandle

__all__ = ["Batch", "Dispatcher", "JobHandle", "Outcome", "Progress"]
