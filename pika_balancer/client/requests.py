"""What a request looks like and what an answer means, without I/O.

`Request` says everything about a call; `outcome` makes its value, or the error to raise, of an `Answer`.
Discord tokens and reply URLs travel as `Secret` until `Request.encode`.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Generic, Literal, TypeVar, cast
from urllib.parse import quote, urlencode, urlsplit

import attrs

from pika_balancer._util.text import encodable, printable
from pika_balancer.client.error_map import Answer, error_of
from pika_balancer.client.responses import (
    CAP_RANGE,
    find_jobid,
    read_account,
    read_accounts,
    read_job,
    read_jobs,
    read_nothing,
)
from pika_balancer.errors import InvalidArgument, InvalidResponse, PikaError
from pika_balancer.models import Account, Job, Secret
from pika_balancer.secret import telling_parts

__all__ = [
    "CAP_RANGE",
    "FONTS",
    "Answer",
    "Request",
    "Upload",
    "Verb",
    "amend",
    "base_url",
    "find_jobid",
    "get_account",
    "get_accounts",
    "get_job",
    "get_jobs",
    "outcome",
    "read_account",
    "read_accounts",
    "read_job",
    "read_jobs",
    "read_nothing",
    "remove_account",
    "set_account",
    "submit",
    "upload",
    "whole",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Verb = Literal["create", "animate", "encrypt_text", "encrypt_image", "button"]

FONTS: Final = ("MODERN", "COMICS", "SANS SERIF", "BAUHAUS", "RETRO")
"""The fonts that `encrypt_text` knows."""

_OK: Final = 200
_REDIRECT: Final = 300
# Printable ASCII without # ? @ and the backslash.
_BASE_URL: Final = re.compile(r"""(?i:https?)://[!"$->A-\[\]-~]+""")
_HEADER_UNSAFE: Final = re.compile(r'["\\\x00-\x1f\x7f]')


@attrs.frozen
class Upload:
    """A file to send along with a job."""

    filename: str
    """Its name, with extension; any path in it is sent as it is."""
    content: bytes = attrs.field(repr=False)
    """The whole file; never empty."""
    content_type: str = "application/octet-stream"
    """Its media type."""

    def __attrs_post_init__(self) -> None:
        _text("filename", self.filename)
        _filled_bytes(self.content)
        if not re.fullmatch(r"[\w.+-]+/[\w.+-]+", _text("content_type", self.content_type), re.ASCII):
            raise InvalidArgument("content_type must look like image/png", field="content_type")


def _filled_bytes(content: object) -> None:
    if not isinstance(content, bytes) or not content:
        raise InvalidArgument("content must be bytes, at least one", field="content")


def upload(field: str, filename: str, content: bytes) -> Upload:
    """Return the file as an upload of unknown media type; `InvalidArgument` names `field` if it is empty."""
    if not content:
        raise InvalidArgument(f"{field} is empty", field=field)
    return Upload(filename, content)


Value = str | int | Secret | Upload
"""What a field of a request can hold."""


@attrs.frozen
class Request(Generic[T_co]):
    """One call of the service, and how to read the body of its success."""

    method: Literal["GET", "POST", "DELETE"]
    """The HTTP method."""
    path: str
    """Path and query below the base URL, percent-encoded."""
    read: Callable[..., T_co] = attrs.field(repr=False)
    """Makes the value: `read(body, secrets=...)`."""
    fields: tuple[tuple[str, Value], ...] = ()
    """What the body holds, by the names of the wire."""
    json: bool = False
    """Whether the body is JSON; it is a form otherwise."""
    channel: str | None = None
    """The channel that the call names."""
    jobid: str | None = None
    """The job that the call asks after."""

    @property
    def idempotent(self) -> bool:
        """Whether a repeat is harmless; a second POST is a second, billed job."""
        return self.method == "GET"

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The Discord tokens that the request carries, and what nobody may know of its reply URL."""
        held = [(name, value) for name, value in self.fields if isinstance(value, Secret)]
        urls = (value.reveal() for name, value in held if name == _NAMES["reply_url"])
        tokens = (value for name, value in held if name != _NAMES["reply_url"])
        return *tokens, *(Secret(part) for url in urls for part in telling_parts(url))

    def encode(self, boundary: str) -> tuple[str, bytes] | None:
        """Return content type and body; None where the request has no body.

        Args:
            boundary: Separates the parts of a form; ASCII letters and digits, at random. It is made longer
                while it occurs in a part.
        """
        if not self.fields:
            return None
        if self.json:
            plain = {name: item.reveal() if isinstance(item, Secret) else item for name, item in self.fields}
            return "application/json", json.dumps(plain).encode()
        while any(boundary.encode() in _plain(value) for _, value in self.fields):
            boundary += "0"
        lines: list[bytes] = []
        for name, value in self.fields:
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'
            if isinstance(value, Upload):
                safe = _HEADER_UNSAFE.sub(lambda char: quote(char[0]), value.filename)
                head += f'; filename="{safe}"\r\nContent-Type: {value.content_type}'
            lines += [head.encode(), b"", _plain(value)]
        lines += [f"--{boundary}--".encode(), b""]
        return f"multipart/form-data; boundary={boundary}", b"\r\n".join(lines)


def _plain(value: Value) -> bytes:
    if isinstance(value, Upload):
        return value.content
    return (value.reveal() if isinstance(value, Secret) else str(value)).encode()


def base_url(text: object) -> str | None:
    """Return a base URL without the slash at its end; None if requests cannot be made below it."""
    if not isinstance(text, str) or not _BASE_URL.fullmatch(text):
        return None
    try:
        parts = urlsplit(text)
        # As the resolver will encode it: it refuses empty and overlong labels.
        return text.rstrip("/") if (parts.hostname or "").encode("idna") and parts.port != 0 else None
    except ValueError:
        return None


def whole(field: str, value: object, lowest: int, highest: int | None = None) -> int:
    """Return `value` if it is a whole number in its range; `InvalidArgument` names `field` if not."""
    if type(value) is int and lowest <= value and (highest is None or value <= highest):
        return value
    limit = f"from {lowest} to {highest}" if highest is not None else f"of at least {lowest}"
    raise InvalidArgument(f"{field} must be a whole number {limit}", field=field)


# --- requests ------------------------------------------------------------------------------------------


def get_accounts(cap_range: tuple[int, int] = CAP_RANGE) -> Request[dict[str, Account]]:
    """Ask for the account map."""
    return Request("GET", "/account", partial(read_accounts, cap_range=cap_range))


def get_account(channel: str, cap_range: tuple[int, int] = CAP_RANGE) -> Request[Account]:
    """Ask for one account; raises `InvalidArgument` for a channel that cannot stand in a path."""
    read = partial(read_account, channel=channel, cap_range=cap_range)
    return Request("GET", _account_path(channel), read, channel=channel)


def set_account(
    channel: str, discord: Secret | None, max_jobs: int | None, cap_range: tuple[int, int] = CAP_RANGE
) -> Request[None]:
    """Configure an account.

    Raises:
        InvalidArgument: The field is `channel`, `discord` or `max_jobs`.
    """
    path = _account_path(channel)
    fields = (
        ("discord", _secret("discord", discord)),
        ("channel", channel),
        ("maxJobs", whole("max_jobs", max_jobs, *cap_range)),
    )
    return Request("POST", path, read_nothing, fields, json=True, channel=channel)


def remove_account(channel: str) -> Request[None]:
    """Remove an account; raises `InvalidArgument` for a channel that cannot stand in a path."""
    return Request("DELETE", _account_path(channel), read_nothing, channel=channel)


def get_jobs() -> Request[list[str]]:
    """Ask for the ids of the running jobs, of all channels."""
    return Request("GET", "/jobs", read_jobs)


def get_job(jobid: str) -> Request[Job]:
    """Ask for one job; raises `InvalidArgument` for an empty id."""
    query = urlencode({"jobid": _text("jobid", jobid)})
    return Request("GET", f"/jobs/?{query}", read_job, jobid=jobid)


_NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "create": ("prompt",),
    "animate": ("image",),
    "encrypt_text": ("message", "prompt"),
    "encrypt_image": ("message", "prompt"),
    "button": ("jobid", "button"),
}
_MAY_HAVE: Final[dict[str, tuple[str, ...]]] = {
    "create": ("image",),
    "animate": ("prompt",),
    "encrypt_text": ("font", "image"),
    "encrypt_image": ("image",),
    "button": (),
}
_ALL_MAY_HAVE: Final = ("channel", "discord", "max_jobs", "reply_url", "reply_ref")
_LONGEST: Final = {"prompt": 1500, "message": 20, "reply_url": 1024, "reply_ref": 1024}
_NAMES: Final = {"max_jobs": "maxJobs", "reply_url": "replyUrl", "reply_ref": "replyRef"}


def submit(
    verb: Verb,
    values: Mapping[str, str | int | Secret | Upload | None],
    cap_range: tuple[int, int] = CAP_RANGE,
) -> Request[Job]:
    """Submit a job.

    Args:
        verb: What is asked for.
        values: The parameters by their Python names; None means left out.
        cap_range: Lowest and highest `max_jobs`.

    Raises:
        InvalidArgument: A parameter is missing, empty, too long or of a wrong type; `field` names it.
    """
    if verb not in tuple(_NEEDS):  # not in the dictionary: anything may be passed, lists too
        raise InvalidArgument(f"verb must be one of {', '.join(_NEEDS)}", field="verb")
    if verb == "button":
        values = {"button": "retry", **values}
    known = (*_NEEDS[verb], *_MAY_HAVE[verb], *_ALL_MAY_HAVE)
    for name in values:
        if name not in known:
            raise InvalidArgument(f"{verb} takes no {printable(name, 40)}", field=name)
    for name in _NEEDS[verb]:
        if values.get(name) is None:
            raise InvalidArgument(f"{verb} needs {name}", field=name)
    fields: list[tuple[str, Value]] = []
    for name, value in values.items():
        if value is not None:
            fields.append((_NAMES.get(name, name), _field(verb, name, value, cap_range)))
    channel = values.get("channel")
    return Request("POST", f"/{verb}", read_job, tuple(fields), channel=cast("str | None", channel))


def amend(prepared: Request[Job], values: Mapping[str, str | Secret]) -> Request[Job]:
    """Return a submit with some of its values set anew, by their Python names.

    Raises:
        InvalidArgument: A value is empty, too long or of a wrong type; `field` names it.
    """
    verb = cast("Verb", prepared.path[1:])
    new = {_NAMES.get(name, name): _field(verb, name, value, CAP_RANGE) for name, value in values.items()}
    kept = tuple((name, value) for name, value in prepared.fields if name not in new)
    channel = cast("str | None", values.get("channel", prepared.channel))
    return attrs.evolve(prepared, fields=(*kept, *new.items()), channel=channel)


def _field(verb: Verb, name: str, value: object, cap_range: tuple[int, int]) -> Value:
    if name == "discord":
        return _secret(name, value)
    if name == "reply_url":
        return _secret(name, Secret(value) if isinstance(value, str) else value)
    if name == "max_jobs":
        return whole(name, value, *cap_range)
    if name == "image" or (verb, name) == ("encrypt_image", "message"):
        if not isinstance(value, Upload):
            raise InvalidArgument(f"{name} must be bytes, a pathlib.Path or an Upload", field=name)
        return value
    text = _text(name, value, _LONGEST.get(name))
    if name == "font" and text not in FONTS:
        raise InvalidArgument(f"font must be one of {', '.join(FONTS)}", field=name)
    return text


def _text(name: str, value: object, longest: int | None = None) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidArgument(f"{name} must be a non-empty string", field=name)
    if longest is not None and len(value) > longest:
        raise InvalidArgument(f"{name} has {len(value)} characters; {longest} are allowed", field=name)
    if not encodable(value):
        raise InvalidArgument(f"{name} has a lone surrogate and cannot be sent as UTF-8", field=name)
    return value


def _secret(name: str, value: object) -> Secret:
    if not isinstance(value, Secret):
        what = "a URL" if name == "reply_url" else "a Discord token"
        raise InvalidArgument(f"{name} must be {what}, as a string or a Secret", field=name)
    try:
        _text(name, value.reveal(), _LONGEST.get(name))
    except InvalidArgument as caught:
        problem = caught.message
    except PikaError as caught:
        problem = f"{name} cannot be sent: {caught.message}"
    else:
        return value
    # Raised out here: the frames that were handed the token do not come along.
    raise InvalidArgument(problem, field=name)


def _account_path(channel: str) -> str:
    # No encoding keeps a dot segment from being resolved on the way.
    if _text("channel", channel) in {".", ".."}:
        raise InvalidArgument("channel must not be a dot segment", field="channel")
    return f"/account/{quote(channel, safe='')}"


def outcome(
    request: Request[T], answer: Answer, *, now: float, secrets: Sequence[Secret] = ()
) -> T | PikaError:
    """Return the value of a success, else the error to raise; never raises.

    Args:
        request: What was asked.
        answer: What came back.
        now: Wall time in seconds since 1970, for a `Retry-After` date where the answer has no `Date`.
        secrets: Tokens that no message may show, besides those in the request and the body.
    """
    secrets = (*secrets, *request.secrets)
    if not _OK <= answer.status < _REDIRECT:
        return error_of(answer, now=now, channel=request.channel, jobid=request.jobid, secrets=secrets)
    try:
        return request.read(answer.body, secrets=secrets)
    except InvalidResponse as caught:
        failure = caught.with_traceback(None)
    failure.status = answer.status
    failure.channel = request.channel
    failure.jobid = failure.jobid or request.jobid
    return failure
