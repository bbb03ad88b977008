"""Reads the body of a submit, multipart/form-data or urlencoded, as leniently as real senders need."""

import asyncio
import re
import urllib.parse
from collections.abc import Collection, Iterator
from typing import Final

import attrs
from aiohttp import web

from pika_balancer.clock import Clock, alarm
from pika_balancer.server.answers import Refusal

READ_WITHIN: Final = 120.0
"""Seconds within which a body must have arrived completely."""

MAX_PARAMS: Final = 200
"""How many parameters a body may have."""

_LONGEST_HEAD: Final = 8 * 1024
_VALUE: Final = r'[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^;\s"]+))'
_BOUNDARY: Final = re.compile(rf"[;\s]boundary{_VALUE}", re.IGNORECASE)
_NAME: Final = re.compile(rf"^content-disposition:[^\r\n]*?[;\s]name{_VALUE}", re.IGNORECASE | re.MULTILINE)
_TYPE: Final = re.compile(r"^content-type:[ \t]*([^\s;]+)", re.IGNORECASE | re.MULTILINE)
_MAGIC: Final = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
)


@attrs.frozen
class ReceivedFile:
    """Facts about an uploaded file; its bytes are dropped."""

    size: int
    """In bytes."""
    type: str
    """Media type: of the image format by its first bytes, else as declared by the sender."""


Form = dict[str, str | ReceivedFile]
"""Parameters by name; empty ones are left out, and of several with one name the last counts."""


def too_large(limit: int) -> Refusal:
    """Return the refusal of a body longer than `limit` bytes."""
    return Refusal(413, f"Request body is larger than {limit} bytes")


async def read_body(request: web.Request, clock: Clock) -> bytes:
    """Return the whole body.

    Raises:
        Refusal: 408 if it takes longer than `READ_WITHIN` seconds of the clock.
        ConnectionError: The sender has disconnected.
    """
    try:
        async with asyncio.timeout(None) as window, alarm(window, clock, READ_WITHIN):
            return await request.read()
    except TimeoutError:
        raise Refusal(408, f"Request body did not arrive within {READ_WITHIN:g} s") from None
    except RuntimeError:
        # Raised by aiohttp if the sender had disconnected before this call.
        raise ConnectionResetError from None


async def read_form(request: web.Request, *, files: Collection[str], limit: int, clock: Clock) -> Form:
    """Return the parameters of a submit; those named in `files` become uploads, whatever their file name.

    Raises:
        Refusal: 413 for a body of more than `limit` bytes, 408 if it takes too long, 400 if it is malformed.
        ConnectionError: The sender has disconnected.
    """
    if (request.content_length or 0) > limit:
        raise too_large(limit)
    # Not by aiohttp's readers: they cost more than all the rest of a submit, and drop parts with unusual
    # file names.
    content_type = request.headers.get("Content-Type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    match = _BOUNDARY.search(content_type)
    boundary = (match[1] or match[2]) if match else None
    if media_type == "application/x-www-form-urlencoded":
        return _urlencoded(await read_body(request, clock))
    if media_type != "multipart/form-data" or not boundary:
        raise Refusal(400, "Request body must be multipart/form-data, with a boundary")
    return parse_multipart(await read_body(request, clock), boundary, files)


def _urlencoded(body: bytes) -> Form:
    try:
        return dict(urllib.parse.parse_qsl(body.decode(), errors="strict", max_num_fields=MAX_PARAMS))
    except ValueError:
        raise Refusal(400, "Request body is not valid application/x-www-form-urlencoded") from None


def parse_multipart(body: bytes, boundary: str, files: Collection[str]) -> Form:
    """Return the parameters of a multipart body; raises `Refusal` (400) if it is malformed."""
    form: Form = {}
    for count, part in enumerate(_parts(body, boundary)):
        if count == MAX_PARAMS:
            raise Refusal(400, f"Request body has more than {MAX_PARAMS} parameters")
        raw_head, _, content = part.partition(b"\r\n\r\n")
        if len(raw_head) > _LONGEST_HEAD:
            raise Refusal(400, f"Request body has a parameter with a head of more than {_LONGEST_HEAD} bytes")
        head = raw_head.decode(errors="replace")
        match = _NAME.search(head)
        name = match[1] or match[2] if match else None
        if not (name and content):
            continue
        if name in files:
            declared = _TYPE.search(head)
            form[name] = ReceivedFile(len(content), _media_type(content, declared[1] if declared else ""))
        else:
            try:
                form[name] = content.decode()
            except UnicodeDecodeError:
                raise Refusal(400, f"Param {name} is not valid UTF-8") from None
    return form


def _parts(body: bytes, boundary: str) -> Iterator[bytes]:
    """Yield the parts, each with its head (RFC 2046, section 5.1.1)."""
    delimiter = re.compile(
        rb"\r\n--" + re.escape(boundary.encode(errors="surrogateescape")) + rb"(?:(--)|[ \t]*(?=\r\n))"
    )
    body = b"\r\n" + body
    start: int | None = None
    for match in delimiter.finditer(body):
        if start is not None:
            yield body[start : match.start()]
        if match[1]:
            return
        start = match.end()
    raise Refusal(400, "Request body is not valid multipart/form-data: it is cut short")


def _media_type(start: bytes, declared: str) -> str:
    for magic, media_type in _MAGIC:
        if magic.match(start):
            return media_type
    return declared or "application/octet-stream"
