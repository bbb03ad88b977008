"""The calls of the API as values, without I/O: a `Request` for each, and `outcome`, which reads its answer.

Discord tokens and reply URLs are `Secret` until `Request.encode`.
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
    read_account,
    read_accounts,
    read_job,
    read_jobs,
    read_nothing,
)
from pika_balancer.errors import InvalidArgument, InvalidResponse, PikaError
from pika_balancer.models import Account, Job, Secret
from pika_balancer.secret import telling_parts

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Verb = Literal["create", "animate", "encrypt_text", "encrypt_image", "button"]

FONTS: Final = ("MODERN", "COMICS", "SANS SERIF", "BAUHAUS", "RETRO")
"""The fonts of `encrypt_text`."""

_OK: Final = 200
_REDIRECT: Final = 300
# Printable ASCII without # ? @ and the backslash.
_BASE_URL: Final = re.compile(r"""(?i:https?)://[!"$->A-\[\]-~]+""")
_HEADER_UNSAFE: Final = re.compile(r'["\\\x00-\x1f\x7f]')


@attrs.frozen
class Upload:
    """A file to send with a job."""

    filename: str
    """Name with extension; a path in it is sent unchanged."""
    content: bytes = attrs.field(repr=False)
    """The whole file; never empty."""
    content_type: str = "application/octet-stream"
    """Media type."""

    def __attrs_post_init__(self) -> None:
        _text("filename", self.filename)
        content: object = self.content
        if not isinstance(content, bytes) or not content:
            raise InvalidArgument("content must be bytes, at least one", field="content")
        if not re.fullmatch(r"[\w.+-]+/[\w.+-]+", _text("content_type", self.content_type), re.ASCII):
            raise InvalidArgument("content_type must look like image/png", field="content_type")


Value = str | int | Secret | Upload
"""Value of a field of a request."""


@attrs.frozen
class Request(Generic[T_co]):
    """One call of the API."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    """Path and query below the base URL, percent-encoded."""
    read: Callable[..., T_co] = attrs.field(repr=False)
    """Reads the body of a success: `read(body, secrets=...)`."""
    fields: tuple[tuple[str, Value], ...] = ()
    """The body, by the service's names."""
    json: bool = False
    """Whether the body is sent as JSON; else as a form."""
    channel: str | None = None
    """The channel that the call names."""
    jobid: str | None = None
    """The job that the call names."""

    @property
    def idempotent(self) -> bool:
        """Whether it can be repeated; a second POST is a second, billed job."""
        return self.method == "GET"

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The Discord tokens in the request, and the secret parts of its reply URL."""
        held = [(name, value) for name, value in self.fields if isinstance(value, Secret)]
        urls = (value.reveal() for name, value in held if name == _NAMES["reply_url"])
        tokens = (value for name, value in held if name != _NAMES["reply_url"])
        return *tokens, *(Secret(part) for url in urls for part in telling_parts(url))

    def encode(self, boundary: str) -> tuple[str, bytes] | None:
        """Return content type and body; None if the request has no body.

        Args:
            boundary: Random ASCII letters and digits to separate the parts of a form; it is extended until
                no part contains it.
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
    """Return a base URL without a slash at its end; None if it is not one."""
    if not isinstance(text, str) or not _BASE_URL.fullmatch(text):
        return None
    try:
        parts = urlsplit(text)
        # As the resolver encodes it: this refuses empty and overlong labels.
        return text.rstrip("/") if (parts.hostname or "").encode("idna") and parts.port != 0 else None
    except ValueError:
        return None


def check_int(field: str, value: object, lowest: int, highest: int | None = None) -> int:
    """Return `value` if it is a whole number in range; else raise `InvalidArgument` for `field`."""
    if type(value) is int and lowest <= value and (highest is None or value <= highest):
        return value
    limit = f"from {lowest} to {highest}" if highest is not None else f"of at least {lowest}"
    raise InvalidArgument(f"{field} must be a whole number {limit}", field=field)


# --- a function for each call: it raises `InvalidArgument` for an argument that cannot be sent ----------


def get_accounts(cap_range: tuple[int, int] = CAP_RANGE) -> Request[dict[str, Account]]:
    return Request("GET", "/account", partial(read_accounts, cap_range=cap_range))


def get_account(channel: str, cap_range: tuple[int, int] = CAP_RANGE) -> Request[Account]:
    read = partial(read_account, channel=channel, cap_range=cap_range)
    return Request("GET", _account_path(channel), read, channel=channel)


def set_account(
    channel: str, discord: Secret | None, max_jobs: int | None, cap_range: tuple[int, int] = CAP_RANGE
) -> Request[None]:
    path = _account_path(channel)
    fields = (
        ("discord", _secret("discord", discord)),
        ("channel", channel),
        ("maxJobs", check_int("max_jobs", max_jobs, *cap_range)),
    )
    return Request("POST", path, read_nothing, fields, json=True, channel=channel)


def remove_account(channel: str) -> Request[None]:
    return Request("DELETE", _account_path(channel), read_nothing, channel=channel)


def get_jobs() -> Request[list[str]]:
    return Request("GET", "/jobs", read_jobs)


def get_job(jobid: str) -> Request[Job]:
    query = urlencode({"jobid": _text("jobid", jobid)})
    return Request("GET", f"/jobs/?{query}", read_job, jobid=jobid)


# The required and the optional arguments of each verb; all verbs also take `_SHARED`.
_ARGUMENTS: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "create": (("prompt",), ("image",)),
    "animate": (("image",), ("prompt",)),
    "encrypt_text": (("message", "prompt"), ("font", "image")),
    "encrypt_image": (("message", "prompt"), ("image",)),
    "button": (("jobid", "button"), ()),
}
_SHARED: Final = ("channel", "discord", "max_jobs", "reply_url", "reply_ref")
_LONGEST: Final = {"prompt": 1500, "message": 20, "reply_url": 1024, "reply_ref": 1024}
_NAMES: Final = {"max_jobs": "maxJobs", "reply_url": "replyUrl", "reply_ref": "replyRef"}


def submit(
    verb: Verb,
    values: Mapping[str, str | int | Secret | Upload | None],
    cap_range: tuple[int, int] = CAP_RANGE,
) -> Request[Job]:
    """Return a submit.

    Args:
        verb: The kind of job.
        values: The arguments by their Python names; None leaves one out.
        cap_range: Lowest and highest `max_jobs`.

    Raises:
        InvalidArgument: An argument is missing, empty, too long or of a wrong type; `field` names it.
    """
    if verb not in tuple(_ARGUMENTS):  # a tuple, since `verb` may be unhashable
        raise InvalidArgument(f"verb must be one of {', '.join(_ARGUMENTS)}", field="verb")
    if verb == "button":
        values = {"button": "retry", **values}
    required, optional = _ARGUMENTS[verb]
    for name in values:
        if name not in (*required, *optional, *_SHARED):
            raise InvalidArgument(f"{verb} takes no {printable(name, 40)}", field=name)
    for name in required:
        if values.get(name) is None:
            raise InvalidArgument(f"{verb} needs {name}", field=name)
    fields = tuple(
        (_NAMES.get(name, name), _field(verb, name, value, cap_range))
        for name, value in values.items()
        if value is not None
    )
    return Request("POST", f"/{verb}", read_job, fields, channel=cast("str | None", values.get("channel")))


def with_values(prepared: Request[Job], values: Mapping[str, str | Secret]) -> Request[Job]:
    """Return a submit with some arguments replaced, by their Python names.

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
        return check_int(name, value, *cap_range)
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
    # Raised here, so that the traceback lacks the frames that hold the token.
    raise InvalidArgument(problem, field=name)


def _account_path(channel: str) -> str:
    # URL libraries resolve a dot segment however it is encoded.
    if _text("channel", channel) in {".", ".."}:
        raise InvalidArgument("channel must not be a dot segment", field="channel")
    return f"/account/{quote(channel, safe='')}"


def outcome(
    request: Request[T], answer: Answer, *, now: float, secrets: Sequence[Secret] = ()
) -> T | PikaError:
    """Return the value of a success, else the error to raise; never raises.

    Args:
        request: The request.
        answer: Its answer.
        now: Wall time in seconds since 1970, for a `Retry-After` date if the answer has no `Date`.
        secrets: Tokens that no message may quote; those in request and body are never quoted either.
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
