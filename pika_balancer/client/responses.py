"""What a body says: bytes in, values out, or `InvalidResponse` with every fault by its path.

No I/O and no clock. Types are strict: `true` is not 1, `"7"` is not 7, null is not a string. Unknown fields
are ignored. The account map has a fast path for what servers really send, and a thorough one for the rest.
"""

import functools
import json
import logging
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, cast, get_args

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, override

from pika_balancer._util.text import encodable, printable
from pika_balancer.client import strict
from pika_balancer.client.strict import Faults, T, Where, bad_key, damage, kind
from pika_balancer.errors import InvalidResponse
from pika_balancer.models import DEFAULT_MAX_JOBS, Account, Attachment, Job, JobStatus, Secret
from pika_balancer.secret import Redactor

CAP_RANGE: Final = (1, 10)
"""The caps that the service allows, both ends included."""

_MOST_ITEMS: Final = 1000  # cattrs keeps an exception for each one that is wrong
_JOBID: Final = re.compile(rb'"jobid"\s*:\s*("(?:[^"\\\x00-\x1f]|\\.)+")')

_log = logging.getLogger("pika_balancer.client.requests")


def read_accounts(
    body: bytes, *, cap_range: tuple[int, int] = CAP_RANGE, secrets: Sequence[Secret] = ()
) -> dict[str, Account]:
    """Return the account map by channel, in the server's order.

    Args:
        body: The body of the answer.
        cap_range: Lowest and highest `maxJobs` that is believed.
        secrets: Tokens that no fault may quote; those in the body are never quoted either.

    Raises:
        InvalidResponse: The body is not such a map; `faults` has each reason.
    """
    make = functools.partial(_accounts, cap_range)
    quick = _quick_accounts(body, *cap_range)
    found = strict.read("the account list", body, secrets, dict, make) if quick is None else quick
    del body
    return _or_raise(found)


def read_account(
    body: bytes, channel: str, *, cap_range: tuple[int, int] = CAP_RANGE, secrets: Sequence[Secret] = ()
) -> Account:
    """Return the one account that `channel` names; arguments and errors as for `read_accounts`."""
    make = functools.partial(_one_account, channel, cap_range)
    found = strict.read("the account", body, secrets, dict, make)
    del body
    return _or_raise(found)


def read_job(body: bytes, *, secrets: Sequence[Secret] = ()) -> Job:
    """Return the job; fields that are null count as absent, since a server has sent such.

    Where its error quotes one of the `secrets`, that is hidden.

    Raises:
        InvalidResponse: Something is missing or of a wrong type; `jobid` is set where it could be read.
    """
    found = strict.read("the job", body, secrets, dict, _job, deep=True)
    if isinstance(found, InvalidResponse):
        found.jobid = find_jobid(body, secrets)
    else:
        if found.error or found.error_details:
            redactor = Redactor(secrets)
            error, details = (text and redactor.hide(text) for text in (found.error, found.error_details))
            found = attrs.evolve(found, error=error, error_details=details)
        if not isinstance(found.status, JobStatus):
            _report(printable(Redactor(secrets).words(found.status), 64))
    del body
    return _or_raise(found)


def read_jobs(body: bytes, *, secrets: Sequence[Secret] = ()) -> list[str]:
    """Return the ids of the running jobs.

    Raises:
        InvalidResponse: The body is not a list of non-empty strings.
    """
    found = strict.read("the list of jobs", body, secrets, list, _jobs)
    del body
    return _or_raise(found)


def read_nothing(body: bytes, *, secrets: Sequence[Secret] = ()) -> None:
    """Accept an empty body, or any JSON object: the status has said all.

    Raises:
        InvalidResponse: There is a body of another kind, a proxy's page perhaps.
    """
    found = strict.read("the answer", body, secrets, dict, _anything, deep=True) if body.strip() else None
    del body
    _or_raise(found)


def find_jobid(body: bytes, secrets: Sequence[Secret] = ()) -> str | None:
    """Return the job id in a broken or cut-off body; None if there is none, or two that differ."""
    ids: set[object] = set()
    for match in _JOBID.finditer(body[:65_536]):
        try:
            ids.add(json.loads(match[1]))
        except ValueError:
            return None
    return Redactor(secrets).fact(ids.pop()) if len(ids) == 1 else None


def _or_raise(found: T | InvalidResponse) -> T:
    if isinstance(found, InvalidResponse):
        raise found
    return found


# --- accounts ------------------------------------------------------------------------------------------

_FLAT: Final = frozenset({str, int, bool, type(None)})  # a float can be NaN

# Slots are set directly, without the constructor's checks: they have just been made, on the whole map.
_new: Final = object.__new__
_set_secret: Final = Secret.__dict__["_value"].__set__
_set_channel: Final = Account.__dict__["channel"].__set__
_set_max_jobs: Final = Account.__dict__["max_jobs"].__set__
_set_discord: Final = Account.__dict__["discord"].__set__
_FIELDS: Final = 3
_QUOTES: Final = 10  # around three names, and two values that are strings


def _quick_accounts(body: bytes, lowest: int, highest: int) -> dict[str, Account] | None:
    """Return the map if it is good and flat; None if it takes a closer look.

    Without a backslash in the body every string costs it two quotes. As many quotes as what was read must
    have had prove that no duplicate key was dropped, at the cost of one scan.
    """
    if (read := _plain_object(body)) is None:
        return None
    text, tree = read
    accounts: dict[str, Account] = {}
    quotes = 0
    for key, entry in tree.items():
        if type(entry) is not dict:
            return None
        fields = cast("dict[str, Any]", entry)
        get = fields.get
        cap = get("maxJobs")
        discord = get("discord")
        if (
            len(fields) == _FIELDS
            and get("channel") == key
            and type(cap) is int
            and type(discord) is str
            and discord
        ):
            quotes += _QUOTES
            secret: Secret | None = _new(Secret)
            _set_secret(secret, discord)
        else:
            cap = get("maxJobs", DEFAULT_MAX_JOBS)
            discord = get("discord", "")
            if get("channel", key) != key or type(cap) is not int or type(discord) is not str:
                return None
            for value in fields.values():
                if type(value) not in _FLAT:
                    return None
                quotes += 4 if type(value) is str else 2
            secret = Secret(discord) if discord else None
        if not lowest <= cap <= highest:
            return None
        accounts[key] = account = _new(Account)
        _set_channel(account, key)
        _set_max_jobs(account, cap)
        _set_discord(account, secret)
    return accounts if text.count('"') == quotes + 2 * len(accounts) else None


def _plain_object(body: bytes) -> tuple[str, dict[str, Any]] | None:
    try:
        text = body.decode()
        tree: Any = None if "\\" in text else json.loads(text)
    except (ValueError, RecursionError):
        return None
    return (text, cast("dict[str, Any]", tree)) if isinstance(tree, dict) and "" not in tree else None


def _accounts(cap_range: tuple[int, int], tree: dict[str, Any], faults: Faults) -> dict[str, Account]:
    accounts: dict[str, Account] = {}
    for key, entry in tree.items():
        faults.extend(bad_key(tree, key, ()))
        if not key:
            faults.append(((key,), "has an empty key, which no channel can have"))
        if (account := _account(key, entry, (key,), cap_range, faults)) is not None:
            accounts[key] = account
    return accounts


def _one_account(
    channel: str, cap_range: tuple[int, int], tree: dict[str, Any], faults: Faults
) -> Account | None:
    return _account(channel, tree, (), cap_range, faults)


def _account(
    key: str, entry: Any, where: Where, cap_range: tuple[int, int], faults: Faults
) -> Account | None:
    before = len(faults)
    faults.extend(islice(damage(entry, where), 50_001))
    if not isinstance(entry, dict):
        faults.append((where, f"must be an object, not {kind(entry)}"))
        return None
    fields = cast("dict[str, Any]", entry)
    lowest, highest = cap_range
    channel = fields.get("channel", key)
    cap = fields.get("maxJobs", DEFAULT_MAX_JOBS)
    discord = fields.get("discord", "")
    if not isinstance(channel, str):
        faults.append(((*where, "channel"), f"must be a string, not {kind(channel)}"))
    elif channel != key:
        faults.append(((*where, "channel"), "differs from the channel that it stands for"))
    if type(cap) is not int:
        faults.append(((*where, "maxJobs"), f"must be a whole number, not {kind(cap)}"))
    elif "maxJobs" in fields and not lowest <= cap <= highest:
        faults.append(((*where, "maxJobs"), f"must be from {lowest} to {highest}"))
    if not isinstance(discord, str):
        faults.append(((*where, "discord"), f"must be a string, not {kind(discord)}"))
    if len(faults) > before or not key:
        return None
    return Account(key, cap, Secret(discord) if discord else None)


# --- jobs ----------------------------------------------------------------------------------------------


class _Wrong(ValueError):
    """A value of a wrong type; the text says what it must be."""


def _strict(wanted: type, phrase: str) -> Any:
    def check(value: Any, _type: object = None) -> Any:
        if type(value) is not wanted:
            raise _Wrong(f"must be {phrase}, not {kind(value)}")
        return value

    return check


_text: Final = _strict(str, "a string")


def _filled(value: Any, _type: object = None) -> str:
    if not _text(value):
        raise _Wrong("must not be empty")
    return cast("str", value)


def _status(value: Any, _type: object = None) -> str:
    word: str = _text(value)
    try:
        return JobStatus(word)
    except ValueError:
        return word


@functools.lru_cache(maxsize=256)
def _report(word: str) -> None:
    """Say once per word that it is unknown; the cache bounds what a server can make us remember."""
    _log.warning("unknown job status '%s': the job counts as running", word)


def _hint(value: Any, _type: object = None) -> str:
    """Keep a service that sends the whole Discord token from leaking it through a job."""
    shown: str = _text(value)
    return shown if len(shown) <= 9 else f"{shown[:3]}…{shown[-3:]}"  # noqa: PLR2004 - as in "abc...xyz"


def _object(value: Any, _type: object = None) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _Wrong(f"must be an object, not {kind(value)}")
    return cast("dict[str, Any]", value)


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(word.title() for word in tail)


_WIRE_NAMES: Final = {name: _camel(name) for name in attrs.fields_dict(Job)}


@functools.cache
def _converter() -> cattrs.Converter:
    """Return what structures jobs; made at the first job, since making it costs more than reading one."""
    converter = cattrs.Converter()

    def read_list(item: Any) -> None:
        def check(value: Any, _type: object) -> tuple[Any, ...]:
            if not isinstance(value, list):
                raise _Wrong(f"must be a list, not {kind(value)}")
            if len(cast("Any", value)) > _MOST_ITEMS:
                raise _Wrong(f"has more than {_MOST_ITEMS} entries")
            return tuple(converter.structure(cast("Any", value), list[item]))

        converter.register_structure_hook_func(functools.partial(operator.eq, tuple[item, ...]), check)

    def read_object(cls: type[Any], **overrides: Any) -> None:
        made = cast("Any", make_dict_structure_fn(cls, converter, **overrides))

        def check(value: Any, cls: type[Any]) -> Any:
            # A server has sent null for a field that it should have left out.
            return made({key: item for key, item in _object(value).items() if item is not None}, cls)

        converter.register_structure_hook(cls, check)

    def present(optional: Any) -> Any:
        # Nulls were left out: what is there is of the other type, which need not be found out each time.
        [wanted] = [each for each in get_args(optional) if each is not type(None)]
        return converter.get_structure_hook(wanted)

    converter.register_structure_hook_factory(lambda each: type(None) in get_args(each), present)
    converter.register_structure_hook(str, _text)
    converter.register_structure_hook(int, _strict(int, "a whole number"))
    converter.register_structure_hook_func(functools.partial(operator.eq, Mapping[str, Any]), _object)
    read_object(Attachment)
    for item in (str, Mapping[str, Any], Attachment):
        read_list(item)
    hooks = {"jobid": _filled, "status": _status, "discord": _hint}
    read_object(
        Job,
        **{name: override(rename=wire, struct_hook=hooks.get(name)) for name, wire in _WIRE_NAMES.items()},
    )
    return converter


def _job(tree: dict[str, Any], faults: Faults) -> Job | None:
    try:
        return _converter().structure(tree, Job)
    except cattrs.BaseValidationError as error:
        faults.extend(_wrongs(error, ()))
    order = {key: place for place, key in enumerate(tree)}
    faults.sort(key=lambda fault: order.get(cast("str", fault[0][0]), -1) if fault[0] else -1)
    return None


def _wrongs(error: BaseException, where: Where) -> Iterator[tuple[Where, str]]:
    """Yield the faults in cattrs' tree of errors, by the names of the wire."""
    if isinstance(error, cattrs.ClassValidationError):
        names = _WIRE_NAMES if error.cl is Job else {}
        for inner, note in error.group_exceptions()[0]:
            yield from _wrongs(inner, (*where, names.get(note.name, note.name)))
    elif isinstance(error, cattrs.IterableValidationError):
        for inner, place in error.group_exceptions()[0]:
            yield from _wrongs(inner, (*where, place.index))
    else:
        yield where, str(error) if isinstance(error, _Wrong) else "is missing"


def _jobs(tree: list[Any], faults: Faults) -> list[str]:
    for place, jobid in enumerate(tree):
        if not isinstance(jobid, str):
            faults.append(((place,), f"must be a string, not {kind(jobid)}"))
        elif not jobid:
            faults.append(((place,), "must not be empty"))
        elif not encodable(jobid):
            faults.append(((place,), "has a lone surrogate"))
    return tree


def _anything(_tree: dict[str, Any], _faults: Faults) -> None:
    """Read nothing: any object will do."""
