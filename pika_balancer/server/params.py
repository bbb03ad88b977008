"""Checks of a submit's parameters, against the documented table of calls."""

import re
import urllib.parse
from typing import Any, Final

import attrs

from pika_balancer.secret import Secret
from pika_balancer.server.accounts import CHANNEL_ID
from pika_balancer.server.errors import Refusal
from pika_balancer.server.form import Form, ReceivedFile

FONTS: Final = ("MODERN", "COMICS", "SANS SERIF", "BAUHAUS", "RETRO")
"""What `font` may say."""

_LONGEST_PROMPT: Final = 1500
_LONGEST_MESSAGE: Final = 20
_LONGEST_REPLY: Final = 1024

# A list of what is plainly this machine, so that no two URL parsers can disagree about where it leads.
_LOOPBACK_URL: Final = re.compile(
    r"https?://(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?(?:[/?#][^\s\\]*)?",
    re.IGNORECASE | re.ASCII,
)


@attrs.frozen
class Verb:
    """What a call takes beside the parameters that all calls take."""

    required: tuple[str, ...]
    """Parameters without which it is refused."""
    optional: tuple[str, ...] = ()
    """The others."""
    files: frozenset[str] = frozenset({"image"})
    """Parameters that are files."""


VERBS: Final[dict[str, Verb]] = {
    "create": Verb(("prompt",), ("image",)),
    "animate": Verb(("image",), ("prompt",)),
    "encrypt_text": Verb(("message", "prompt"), ("font", "image")),
    "encrypt_image": Verb(("message", "prompt"), ("image",), frozenset({"message", "image"})),
    "button": Verb(("jobid", "button"), (), frozenset()),
}
"""The job calls, by the last part of their path."""


@attrs.frozen
class SubmitRequest:
    """A submit whose parameters are good."""

    verb: str
    """A key of `VERBS`."""
    prompt: str | None = None
    """The prompt, where there is one."""
    image: ReceivedFile | None = None
    """The image, where there is one."""
    jobid: str | None = None
    """The job whose button is pressed; only for `button`."""
    channel: str | None = None
    """The channel to run on; None leaves it to the server."""
    discord: Secret | None = None
    """The Discord token to use on that channel; None: the configured one."""
    max_jobs: int | None = None
    """The cap of that channel for this call; None: the configured one, else the service's default."""
    reply_url: Secret | None = None
    """Where the end is reported, which nobody else may know."""
    reply_ref: str | None = None
    """The caller's reference."""


def check_order(name: str, form: Form, *, limit: int, allow_remote: bool) -> SubmitRequest:
    """Return the order that `form` makes.

    Args:
        name: A key of `VERBS`.
        form: The parameters that came; unknown ones are ignored.
        limit: The largest `maxJobs`.
        allow_remote: Whether `replyUrl` may lead to another machine.

    Raises:
        Refusal: 400 with an `error` that names the parameter.
    """
    verb = VERBS[name]
    for param in verb.required:
        if not form.get(param) or isinstance(form[param], ReceivedFile) != (param in verb.files):
            raise _missing(param)
    texts: dict[str, str] = {key: value for key, value in form.items() if isinstance(value, str)}
    _check_length(texts, "prompt", _LONGEST_PROMPT)
    if "message" not in verb.files:
        _check_length(texts, "message", _LONGEST_MESSAGE)
    if name == "encrypt_text" and texts.get("font", FONTS[0]) not in FONTS:
        raise Refusal(400, f"Param font must be one of {', '.join(FONTS)}")
    if name == "button" and texts["button"] != "retry":
        raise Refusal(400, "Param button must be retry")
    image = form.get("image")
    return SubmitRequest(
        verb=name,
        prompt=texts.get("prompt") if name != "button" else None,
        image=image if isinstance(image, ReceivedFile) else None,
        jobid=texts.get("jobid"),
        reply_url=_reply_url(texts, allow_remote=allow_remote),
        reply_ref=_check_length(texts, "replyRef", _LONGEST_REPLY),
        **_place(texts, limit),
    )


def _missing(param: str) -> Refusal:
    return Refusal(400, f"Required param {param} is missing or empty")


def _check_length(texts: dict[str, str], param: str, longest: int) -> str | None:
    value = texts.get(param)
    if value is not None and len(value) > longest:
        raise Refusal(400, f"Param {param} is longer than {longest} characters")
    return value


def _place(texts: dict[str, str], limit: int) -> dict[str, Any]:
    channel, discord = texts.get("channel"), texts.get("discord")
    if discord and not channel:
        raise _missing("channel")
    if channel and not CHANNEL_ID.fullmatch(channel):
        raise Refusal(400, f"Required param channel ({channel}) is not valid Discord channel id")
    token = None if discord is None else Secret(discord)
    return {"channel": channel, "discord": token, "max_jobs": _max_jobs(texts, limit)}


def _max_jobs(texts: dict[str, str], limit: int) -> int | None:
    text = texts.get("maxJobs")
    if text is None:
        return None
    value = int(text) if re.fullmatch(r"[0-9]{1,9}", text.strip()) else 0
    if not 1 <= value <= limit:
        raise Refusal(400, f"Param maxJobs must be a whole number from 1 to {limit}")
    return value


def _reply_url(texts: dict[str, str], *, allow_remote: bool) -> Secret | None:
    url = _check_length(texts, "replyUrl", _LONGEST_REPLY)
    if url is None:
        return None
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise Refusal(400, "Param replyUrl must be an http or https URL")
    if not (allow_remote or _LOOPBACK_URL.fullmatch(url)):
        raise Refusal(
            400,
            "Param replyUrl must lead to this machine (localhost, 127.x.x.x or [::1]): remote ones are off",
        )
    return Secret(url)
