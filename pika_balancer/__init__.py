"""Run jobs on several capped accounts: never above a cap, never twice, fairly.

The map, from the centre outwards; imports point inward only:

    text, errors, secret,       text fit to print, what can go wrong, what must not show, the values,
      models, clock, closing    time as an argument, and ends that are seen through
    policy, books, shortage,    which account gets the job, and what is in flight:
      selector                  plain and synchronous
    line, store                 who waits, and where the counts live: in this process, or on Redis
    events                      what happens, told to an observer and to the log
    refresh, holders, leasing,  leases that wait fairly, for one process
      drain, balancer
    mask, strict, answer,       what comes back from the service: shown safely, read strictly
      parse, wire               … and what is sent: the API without I/O
    transport, calls, client    the API over HTTP, without any balancing
    dispatch                    a job's whole life, on a client and a balancer
    callbacks, metrics          the service's reports come in; figures go out to Prometheus
    units, simulate             numbers as people write them; what the accounts will do, and how many it takes
    apart, load                 processes of one's own; load on a service, and what is measured of it
    server, testing, cli        the same API on this machine; helpers for tests; the commands
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
"""Where the names of the asynchronous ring come from, once they are asked for: whoever embeds the selector or
simulates does not wait for an HTTP library."""


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
