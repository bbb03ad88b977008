"""Run jobs on several capped accounts: never above a cap, never twice, in order of arrival.

The rooms from the centre outwards; imports point inward only:

    errors, secret, models      what can fail, what must not show, and the values; no I/O
    clock, events               time as an argument; what happens, for an observer and the log
    distributions               service times and inter-arrival times, with one notation
    selection                   which account gets the next job, and the in-flight counts: pure
    store                       the counts and the wait queue, in this process or on Redis
    balancer                    leases with fair waiting, for one process
    client                      the Pika API over HTTP, without any balancing
    dispatch                    a job's whole life, on a client and a balancer; the webhook
    metrics                     a Prometheus collector
    simulate                    what the accounts will do, and how many it takes
    server, loadtest, testing   the API on this machine, load on it, and helpers for tests
    cli                         the commands
    _util                       helpers that know nothing of the field
"""

import importlib
from typing import TYPE_CHECKING, Final

from pika_balancer.errors import (
    AccountSuspended,
    ApiError,
    BadRequest,
    ChannelFull,
    Closed,
    ConnectFailed,
    ConnectionLost,
    Fault,
    ForeignLease,
    InvalidArgument,
    InvalidResponse,
    LostTrack,
    NoCapacity,
    NotFound,
    PikaError,
    PromptRejected,
    RateLimited,
    RequestTimeout,
    ServiceError,
    StoreUnavailable,
    SubmissionUnknown,
    SubscriptionRequired,
    TransportError,
    Unauthorized,
    UnexpectedStatus,
    UnknownChannel,
    WrongLoop,
)
from pika_balancer.models import Account, Attachment, Job, JobStatus, Lease, Secret, Snapshot
from pika_balancer.selection.policy import POLICIES
from pika_balancer.selection.selector import Selector

if TYPE_CHECKING:
    from pika_balancer.balancer.balancer import Balancer
    from pika_balancer.client.client import PikaClient
    from pika_balancer.dispatch import Dispatcher, JobHandle

__version__ = "0.1.0"

__all__ = [
    "POLICIES",
    "Account",
    "AccountSuspended",
    "ApiError",
    "Attachment",
    "BadRequest",
    "Balancer",
    "ChannelFull",
    "Closed",
    "ConnectFailed",
    "ConnectionLost",
    "Dispatcher",
    "Fault",
    "ForeignLease",
    "InvalidArgument",
    "InvalidResponse",
    "Job",
    "JobHandle",
    "JobStatus",
    "Lease",
    "LostTrack",
    "NoCapacity",
    "NotFound",
    "PikaClient",
    "PikaError",
    "PromptRejected",
    "RateLimited",
    "RequestTimeout",
    "Secret",
    "Selector",
    "ServiceError",
    "Snapshot",
    "StoreUnavailable",
    "SubmissionUnknown",
    "SubscriptionRequired",
    "TransportError",
    "Unauthorized",
    "UnexpectedStatus",
    "UnknownChannel",
    "WrongLoop",
]


_LATER: Final = {
    "Balancer": "balancer",
    "Dispatcher": "dispatch",
    "JobHandle": "dispatch",
    "PikaClient": "client",
}
"""Module of each name that is imported on first use: the selector and the simulator need no HTTP library."""


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
