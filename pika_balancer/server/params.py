"""Checks of a request's parameters, in the documented order and with the documented texts."""

import json
import re
import urllib.parse
from collections.abc import Iterable
from typing import Any, Final, cast

import attrs

from pika_balancer.secret import Secret
from pika_balancer.server.accounts import CHANNEL_ID, MAX_JOBS_LIMIT, ServerAccount
from pika_balancer.server.answers import Refusal
from pika_balancer.server.form import Form, ReceivedFile

FONTS: Final = ("MODERN", "COMICS", "SANS SERIF", "BAUHAUS", "RETRO")
"""Allowed values of `font`."""

_LONGEST_PROMPT: Final = 1500
_LONGEST_MESSAGE: Final = 20
_LONGEST_REPLY: Final = 1024

# Matched as a text, so that no two URL parsers can disagree about the host.
_LOOPBACK_URL: Final = re.compile(
    r"https?://(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?(?:[/?#][^\s\\]*)?",
    re.IGNORECASE | re.ASCII,
)


@attrs.frozen
class Verb:
    """Which of its own parameters a call needs, and which are files."""

    required: tuple[str, ...]
    """Parameters without which it is refused."""
    files: frozenset[str] = frozenset({"image"})
    """Parameters that are files."""


VERBS: Final[dict[str, Verb]] = {
    "create": Verb(("prompt",)),
    "animate": Verb(("image",)),
    "encrypt_text": Verb(("message", "prompt")),
    "encrypt_image": Verb(("message", "prompt"), frozenset({"message", "image"})),
    "button": Verb(("jobid", "button"), frozenset()),
}
"""The job calls, by the last part of their path."""


@attrs.frozen
class SubmitRequest:
    """The checked parameters of a submit; None for those that are absent."""

    verb: str
    """A key of `VERBS`."""
    prompt: str | None = None
    image: ReceivedFile | None = None
    jobid: str | None = None
    """The job whose button is pressed; only for `button`."""
    channel: str | None = None
    """The channel to run on; None leaves it to the server."""
    discord: Secret | None = None
    """The Discord token to use on that channel; None: the configured one."""
    max_jobs: int | None = None
    """The cap of that channel for this call; None: the configured one, else the service's default."""
    reply_url: Secret | None = None
    """Where the end is reported; it may contain a secret."""
    reply_ref: str | None = None


def check_submit(name: str, form: Form, *, allow_remote: bool) -> SubmitRequest:
    """Return the parameters of a submit, checked.

    Args:
        name: A key of `VERBS`.
        form: The parameters as received; unknown ones are ignored.
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
    image, channel, discord = form.get("image"), texts.get("channel"), texts.get("discord")
    reply_url = _reply_url(texts, allow_remote=allow_remote)
    reply_ref = _check_length(texts, "replyRef", _LONGEST_REPLY)
    if channel:
        _check_channel(channel)
    elif discord:
        raise _missing("channel")
    return SubmitRequest(
        verb=name,
        prompt=texts.get("prompt") if name != "button" else None,
        image=image if isinstance(image, ReceivedFile) else None,
        jobid=texts.get("jobid"),
        channel=channel,
        discord=None if discord is None else Secret(discord),
        max_jobs=_max_jobs(texts),
        reply_url=reply_url,
        reply_ref=reply_ref,
    )


def check_account(text: bytes, path_channel: str, others: Iterable[ServerAccount]) -> ServerAccount:
    """Return the account that the body of `POST /account/<channel>` describes.

    Raises:
        Refusal: 400.
    """
    body = _json_object(text)
    for param in ("discord", "channel"):
        if not (isinstance(body.get(param), str) and body[param]):
            raise _missing(param)
    discord, channel = body["discord"], body["channel"]
    _check_channel(channel)
    if channel != path_channel:
        raise Refusal(400, f"Required param channel ({channel}) not matching to /pika/account/{path_channel}")
    max_jobs = body.get("maxJobs")
    if max_jobs in (None, "", 0):
        raise _missing("maxJobs")
    if isinstance(max_jobs, str) and re.fullmatch(r"[0-9]{1,9}", max_jobs):
        max_jobs = int(max_jobs)
    if type(max_jobs) is not int or max_jobs < 1:
        raise Refusal(400, f"Required param maxJobs must be a whole number from 1 to {MAX_JOBS_LIMIT}")
    if max_jobs > MAX_JOBS_LIMIT:
        # Sic: the service's own words.
        raise Refusal(400, f"Required param maxJobs {max_jobs} can't be more that {MAX_JOBS_LIMIT}")
    account = ServerAccount(channel, max_jobs, discord)
    for other in others:
        if other.channel != channel and other.discord == account.discord:
            raise Refusal(400, f"Channel {other.channel} configuration has same discord value")
    return account


def _json_object(text: bytes) -> dict[str, Any]:
    try:
        body: Any = json.loads(text)
    except (ValueError, RecursionError):
        # Not chained: the message of a parser could quote a Discord token.
        raise Refusal(400, "Request body is not valid JSON") from None
    if not isinstance(body, dict):
        raise Refusal(400, "Request body must be a JSON object")
    return cast("dict[str, Any]", body)


def _missing(param: str) -> Refusal:
    return Refusal(400, f"Required param {param} is missing or empty")


def _check_length(texts: dict[str, str], param: str, longest: int) -> str | None:
    value = texts.get(param)
    if value is not None and len(value) > longest:
        raise Refusal(400, f"Param {param} is longer than {longest} characters")
    return value


def _check_channel(channel: str) -> None:
    if not CHANNEL_ID.fullmatch(channel):
        raise Refusal(400, f"Required param channel ({channel}) is not valid Discord channel id")


def _max_jobs(texts: dict[str, str]) -> int | None:
    text = texts.get("maxJobs")
    if text is None:
        return None
    value = int(text) if re.fullmatch(r"[0-9]{1,9}", text.strip()) else 0
    if not 1 <= value <= MAX_JOBS_LIMIT:
        raise Refusal(400, f"Param maxJobs must be a whole number from 1 to {MAX_JOBS_LIMIT}")
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
