"""Reads the bodies of answers: bytes in, values out, or `InvalidResponse` with the path of each fault.

No I/O and no clock. Types are strict: `true` is not 1, `"7"` is not 7, null is not a string. Unknown fields
are skipped. If a key appears twice in an object, the last one counts, as in most JSON readers.
"""

import functools
import json
import logging
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated, Any, Final, TypeVar, cast

import attrs
import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from pika_balancer._util.text import printable
from pika_balancer.errors import Fault, InvalidResponse
from pika_balancer.models import (
    DEFAULT_MAX_JOBS,
    Account,
    Attachment,
    Job,
    JobStatus,
    Secret,
)
from pika_balancer.secret import Redactor

CAP_RANGE: Final = (1, 10)
"""The caps that the service allows, both ends included."""

_LARGEST_BOUND: Final = 2**63 - 1  # of msgspec

T = TypeVar("T")
_MOST_FAULTS: Final = 1000
_JOBID: Final = re.compile(rb'"jobid"\s*:\s*("(?:[^"\\\x00-\x1f]|\\.)+")')
_TYPES: Final = {
    "int": "a whole number",
    "float": "a number with a point",
    "str": "a string",
    "object": "an object",
    "array": "a list",
    "bool": "true or false",
}

_log = logging.getLogger("pika_balancer.client.requests")

_Filled = Annotated[str, Meta(min_length=1)]
_List = Meta(max_length=1000)


class _WireAccount(Struct, rename="camel", gc=False):
    channel: str | UnsetType = UNSET
    max_jobs: int | UnsetType = UNSET
    discord: str = ""


class _WireAttachment(Struct):
    url: str
    filename: str | None = None
    content_type: str | None = None
    size: int | None = None
    proxy_url: str | None = None


class _WireJob(Struct, rename="camel"):
    """The fields of `Job`; null counts as absent, since a server has sent such."""

    jobid: _Filled
    status: str | None = None
    verb: str | None = None
    created: str | None = None
    updated: str | None = None
    prompt: str | None = None
    channel: str | None = None
    max_jobs: int | None = None
    discord: str | None = None
    message_id: str | None = None
    content: str | None = None
    timestamp: str | None = None
    buttons: Annotated[tuple[str, ...], _List] | None = None
    attachments: Annotated[tuple[_WireAttachment, ...], _List] | None = None
    embeds: Annotated[tuple[dict[str, Any], ...], _List] | None = None
    image: dict[str, Any] | None = None
    reply_url: str | None = None
    reply_ref: str | None = None
    code: int | None = None
    error: str | None = None
    error_details: str | None = None


_raw_map: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_account: Final = msgspec.json.Decoder(_WireAccount)
_job: Final = msgspec.json.Decoder(_WireJob)
_ids: Final = msgspec.json.Decoder(list[_Filled])
_any_object: Final = msgspec.json.Decoder(dict[str, Any])


def read_accounts(
    body: bytes, *, cap_range: tuple[int, int] = CAP_RANGE, secrets: Sequence[Secret] = ()
) -> dict[str, Account]:
    """Return the account map by channel, in the server's order.

    Args:
        body: The body of the answer.
        cap_range: Lowest and highest acceptable `maxJobs`.
        secrets: Tokens that no message may quote; those in the body are never quoted either.

    Raises:
        InvalidResponse: The body is not such a map; `faults` names up to 1000 wrong accounts.
    """
    accounts = _valid_accounts(body, *cap_range)
    if accounts is None:
        faults = islice(_account_faults(body, cap_range), _MOST_FAULTS)
        error = _refusal("the account list", body, secrets, list(faults))
        # A traceback would show it.
        del body
        raise error
    return accounts


def read_account(
    body: bytes, channel: str, *, cap_range: tuple[int, int] = CAP_RANGE, secrets: Sequence[Secret] = ()
) -> Account:
    """Return the one account that `channel` names; arguments and errors as for `read_accounts`."""
    found = _decode(_account, body)
    problem = found if isinstance(found, _Fault) else _problem_of(found, channel, cap_range)
    if problem is None:
        wire = cast("_WireAccount", found)
        cap = DEFAULT_MAX_JOBS if wire.max_jobs is UNSET else wire.max_jobs
        return Account(channel, cap, Secret(wire.discord) if wire.discord else None)
    error = _refusal("the account", body, secrets, [problem])
    del body, found
    raise error


def read_job(body: bytes, *, secrets: Sequence[Secret] = ()) -> Job:
    """Return the job. The `secrets` are hidden in its error texts.

    Raises:
        InvalidResponse: A field is missing or has a wrong type; `jobid` is set if it could be read.
    """
    wire = _decode(_job, body)
    if isinstance(wire, _Fault):
        error = _refusal("the job", body, secrets, [wire])
        error.jobid = find_jobid(body, secrets)
        del body
        raise error
    fields = {name: value for name in wire.__struct_fields__ if (value := getattr(wire, name)) is not None}
    if wire.status is not None:
        fields["status"] = _status(wire.status, secrets)
    if wire.discord is not None:
        fields["discord"] = _hint(wire.discord)
    if wire.attachments is not None:
        fields["attachments"] = tuple(Attachment(**msgspec.structs.asdict(file)) for file in wire.attachments)
    if wire.error or wire.error_details:
        redactor = Redactor(secrets)
        fields |= {name: redactor.hide(fields[name]) for name in ("error", "error_details") if name in fields}
    return Job(**fields)


def read_jobs(body: bytes, *, secrets: Sequence[Secret] = ()) -> list[str]:
    """Return the ids of the executing jobs.

    Raises:
        InvalidResponse: The body is not a list of non-empty strings.
    """
    return _decoded("the list of jobs", _ids, body, secrets)


def read_nothing(body: bytes, *, secrets: Sequence[Secret] = ()) -> None:
    """Accept an empty body or any JSON object.

    Raises:
        InvalidResponse: The body is something else, such as the page of a proxy.
    """
    if body.strip():
        _decoded("the answer", _any_object, body, secrets)


def find_jobid(body: bytes, secrets: Sequence[Secret] = ()) -> str | None:
    """Return the job id in a broken or cut-off body; None if there is none, or two that differ."""
    ids: set[object] = set()
    for match in _JOBID.finditer(body[:65_536]):
        try:
            ids.add(json.loads(match[1]))
        except ValueError:
            return None
    return Redactor(secrets).fact(ids.pop()) if len(ids) == 1 else None


def read_anything(body: bytes) -> tuple[dict[str, Any], set[str]]:
    """Return the object in the body of an error, empty if it is none, and the Discord tokens in it."""
    try:
        tree = _any_object.decode(body)
        return tree, set(_tokens(tree))
    except (msgspec.MsgspecError, RecursionError):
        return {}, set()


@functools.lru_cache(maxsize=16)
def _account_map(lowest: int, highest: int) -> "msgspec.json.Decoder[dict[str, Any]]":
    """Return the decoder of the account map with caps in that range."""
    cap = Annotated[int, Meta(ge=lowest, le=min(highest, _LARGEST_BOUND))]
    fields = [("channel", str | UnsetType, UNSET), ("max_jobs", cap, DEFAULT_MAX_JOBS), ("discord", str, "")]
    entry: Any = msgspec.defstruct("Entry", fields, rename="camel", gc=False)
    return msgspec.json.Decoder(cast("Any", dict)[str, entry])


def _valid_accounts(body: bytes, lowest: int, highest: int) -> dict[str, Account] | None:
    """Return the account map, or None if anything in the body is wrong."""
    try:
        entries = _account_map(lowest, highest).decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return None
    for key, entry in entries.items():
        if entry.channel != key:
            if entry.channel is not UNSET:
                return None
            entry.channel = key
        entry.discord = Secret(entry.discord) if entry.discord else None
    if "" in entries:
        return None
    # Without a call of Python per account, which would take as long as the decoder.
    return msgspec.convert(entries, dict[str, Account], from_attributes=True)


@attrs.frozen
class _Fault:
    where: tuple[str | int, ...]
    problem: str


def _decoded(what: str, decoder: "msgspec.json.Decoder[T]", body: bytes, secrets: Sequence[Secret]) -> T:
    found = _decode(decoder, body)
    if not isinstance(found, _Fault):
        return found
    error = _refusal(what, body, secrets, [found])
    del body
    raise error


def _decode(decoder: "msgspec.json.Decoder[T]", body: "bytes | msgspec.Raw") -> T | _Fault:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        return _fault_of(str(error))
    except msgspec.MsgspecError as error:
        start = bytes(body).lstrip()[:1]
        if start in (b"", b"<"):
            return _Fault((), "is HTML or XML instead of JSON; check the base URL" if start else "is empty")
        return _Fault((), f"is not JSON: {str(error).removeprefix('JSON is malformed: ')}")
    except RecursionError:
        return _Fault((), "is nested too deep")


def _fault_of(message: str) -> _Fault:
    """Translate msgspec's message, which quotes names of fields and types but no values."""
    text, _, path = message.partition(" - at `$")
    where = tuple(
        int(index) if index else name for index, name in re.findall(r"\[(\d+)\]|\.(\w+)", path.rstrip("`"))
    )
    missing = re.fullmatch(r"Object missing required field `(\w+)`", text)
    if missing:
        return _Fault((*where, missing[1]), "is missing")
    if ">= 1" in text:
        return _Fault(where, "must not be empty")
    kinds = re.fullmatch(r"Expected `([\w |]+)`, got `(\w+)`", text)
    if kinds:
        wanted = kinds[1].removesuffix(" | null")
        return _Fault(where, f"must be {_TYPES.get(wanted, wanted)}, not {_TYPES.get(kinds[2], kinds[2])}")
    return _Fault(where, f"is wrong: {text}")


def _account_faults(body: bytes, cap_range: tuple[int, int]) -> Iterator[_Fault]:
    raw = _decode(_raw_map, body)
    if isinstance(raw, _Fault):
        yield raw
        return
    for key, entry in raw.items():
        if not key:
            yield _Fault((key,), "has an empty key, which no channel can have")
        found = _decode(_account, entry)
        fault = found if isinstance(found, _Fault) else _problem_of(found, key, cap_range)
        if fault is not None:
            yield _Fault((key, *fault.where), fault.problem)


def _problem_of(account: _WireAccount, key: str, cap_range: tuple[int, int]) -> _Fault | None:
    if account.channel is not UNSET and account.channel != key:
        return _Fault(("channel",), "differs from the channel that it stands for")
    lowest, highest = cap_range
    if account.max_jobs is not UNSET and not lowest <= account.max_jobs <= highest:
        return _Fault(("maxJobs",), f"must be from {lowest} to {highest}")
    return None


def _refusal(what: str, body: bytes, secrets: Sequence[Secret], found: list[_Fault]) -> InvalidResponse:
    redactor = Redactor(secrets, read_anything(body)[1])
    faults = tuple(Fault(redactor.path(fault.where), fault.problem) for fault in found)
    first, *others = faults
    more = f" (and {len(others)} more, see `faults`)" if others else ""
    return InvalidResponse(
        f"{what} in the service's answer breaks the contract: {first}{more}", faults=faults
    )


def _tokens(tree: object, key: str = "") -> Iterator[str]:
    """Yield the Discord tokens at any depth: the texts in fields of that name, and in lists there."""
    if isinstance(tree, str):
        if key == "discord":
            yield tree
    elif isinstance(tree, list):
        for item in cast("list[object]", tree):
            yield from _tokens(item, key)
    elif isinstance(tree, dict):
        for name, item in cast("dict[str, object]", tree).items():
            yield from _tokens(item, name)


def _status(word: str, secrets: Sequence[Secret]) -> str:
    try:
        return JobStatus(word)
    except ValueError:
        _warn_of_status(printable(Redactor(secrets).words(word), 64))
        return word


@functools.lru_cache(maxsize=256)
def _warn_of_status(word: str) -> None:
    # The cache warns once per word, and bounds what a server can make this process remember.
    _log.warning("unknown job status '%s': the job counts as running", word)


def _hint(shown: str) -> str:
    """Shorten a whole Discord token, which a service may send by mistake."""
    return shown if len(shown) <= 9 else f"{shown[:3]}…{shown[-3:]}"  # noqa: PLR2004 - as in "abc...xyz"
