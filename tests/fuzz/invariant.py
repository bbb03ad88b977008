"""What must hold for any input: a valid value, or an error of this library that can be printed."""

import pickle
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

import attrs

from pika_balancer.errors import InvalidArgument, InvalidResponse, PikaError
from pika_balancer.models import Account, Attachment, Job, Secret
from pika_balancer.server import ConfigError

T = TypeVar("T")

API: Final = Secret("user:1234-canary0canary0canary0")
"""The API token of the caller, which no error may show."""
LONGEST: Final = 1000
"""Characters of a message: a person has to read it."""


def value_or_error(
    call: Callable[..., T], *given: Any, hidden: Sequence[str] = (), **named: Any
) -> T | PikaError | ConfigError:
    """Return the result of the call, or the error of this library that it raises.

    Args:
        call: Takes the input.
        given: Positional arguments.
        hidden: Texts that must not show in an error.
        named: Keyword arguments.
    """
    try:
        return call(*given, **named)
    except (PikaError, ConfigError) as error:
        check_error(error, *hidden)
        return error


def check_error(error: PikaError | ConfigError, *hidden: str) -> None:
    """Fail if the error cannot be printed, shows a secret, or is too long to read."""
    message = str(error)
    assert message, f"{type(error).__name__} says nothing"
    assert message.isprintable(), f"not fit to print: {message!r:.500}"
    assert len(message) <= LONGEST, f"{len(message)} characters: {message:.200}"
    faults = error.faults if isinstance(error, InvalidResponse) else ()
    assert all(str(fault).isprintable() for fault in faults)
    shown = "".join(
        [message, repr(error), repr(vars(error)), *map(str, faults), *traceback.format_exception_only(error)]
    )
    for secret in (API.reveal(), *hidden):
        assert secret not in shown, f"a secret shows in {message!r:.200}"
    if isinstance(error, InvalidArgument):
        assert error.field, f"no field is named by {message!r:.200}"
    assert str(pickle.loads(pickle.dumps(error))) == message


def check_account(account: Account) -> None:
    """Fail if a field of the account is not of its type or out of its range."""
    assert _is_text(account.channel)
    assert type(account.max_jobs) is int
    assert 1 <= account.max_jobs <= 10
    assert account.discord is None or (type(account.discord) is Secret and account.discord.reveal())


def check_job(job: Job) -> None:
    """Fail if a field of the job is not of its type."""
    assert _is_text(job.jobid)
    assert _is_text(str(job.status)) or job.status == ""
    for name, value in attrs.asdict(job, recurse=False).items():
        if name == "attachments":
            assert type(value) is tuple
            for item in cast("tuple[Attachment, ...]", value):
                _check_fields(item, {"size": int})
        elif name in ("buttons", "embeds"):
            wanted = str if name == "buttons" else Mapping
            assert type(value) is tuple
            assert all(isinstance(item, wanted) for item in value)
        elif name == "image":
            assert value is None or isinstance(value, Mapping)
        elif name in ("max_jobs", "code"):
            assert value is None or type(value) is int
        else:
            assert value is None or isinstance(value, str)
    assert job.discord is None or len(job.discord) <= 9
    assert isinstance(repr(job), str)


def _check_fields(item: Attachment, numbers: Mapping[str, type]) -> None:
    for name, value in attrs.asdict(item).items():
        assert value is None or type(value) is numbers.get(name, str)
    assert isinstance(item.url, str)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value) and bool(value.encode())
