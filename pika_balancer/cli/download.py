"""Fetch a result into a directory: streamed, whole or not at all, under a name that cannot lead elsewhere."""

import asyncio
import contextlib
import os
import re
import secrets
import socket
from collections.abc import Collection
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import aiohttp

from pika_balancer._util.network import SCOPES, Scope, scope, sockets_to
from pika_balancer.cli.exit_codes import DownloadFailed, Usage
from pika_balancer.models import Attachment, Job

_TOTAL: Final = 900.0
_SILENCE: Final = 30.0
_CHUNK: Final = 1 << 16
_LARGEST: Final = 2 << 30
_LONGEST_STEM: Final = 80
_LONGEST_SUFFIX: Final = 12
_OK: Final = 200


def make_directory(directory: Path) -> None:
    """Make sure that files can be put into `directory`; raises `Usage` if not."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Usage(f"--output: that directory cannot be made: {error.strerror}", field="output") from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise Usage("--output: that directory cannot be written to", field="output")


def safe_name(attachment: Attachment, jobid: str) -> str:
    """Return a plain file name, made of what the attachment calls itself."""
    offered = attachment.filename or unquote(urlsplit(attachment.url).path)
    last = re.split(r"[/\\]", offered)[-1]
    stem, dot, suffix = re.sub(r"[^A-Za-z0-9._-]+", "_", last).strip("._-").rpartition(".")
    if not dot:
        stem, suffix = suffix, ""
    stem = stem.strip("._-")[:_LONGEST_STEM] or re.sub(r"[^A-Za-z0-9]+", "-", jobid)[:_LONGEST_STEM]
    return f"{stem}.{suffix[:_LONGEST_SUFFIX] or 'mp4'}"


async def download(job: Job, attachment: Attachment, directory: Path, service: str | None = None) -> Path:
    """Fetch one result, without authorisation, and return its file; a file that exists is never replaced.

    Args:
        job: Whose result it is.
        attachment: Which of its results.
        directory: Where the file goes.
        service: Base URL of the service that names the result. Neither the result's address nor a redirect
            may lead to this machine or a network of somebody's own, unless the service is there, too. None
            lets them lead anywhere.

    Raises:
        DownloadFailed: It could not be fetched or kept; nothing is left behind.
    """
    name = safe_name(attachment, job.jobid)
    part = directory / f".{name}.{secrets.token_hex(4)}.part"
    try:
        await _fetch(attachment.url, part, await _scopes(service))
        target = _reserve(directory / name)
        part.replace(target)
    except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
        raise DownloadFailed(
            f"the job is completed, but its result could not be saved: {_why(error)}; "
            f"`pika-balancer jobs {job.jobid}` shows its URL",
            jobid=job.jobid,
            channel=job.channel,
        ) from None
    finally:
        part.unlink(missing_ok=True)
    return target


async def _scopes(service: str | None) -> Collection[Scope]:
    """Return where results may be."""
    if service is None:
        return SCOPES
    found = set[Scope]({"public"})
    with contextlib.suppress(OSError):
        loop = asyncio.get_running_loop()
        for info in await loop.getaddrinfo(urlsplit(service).hostname, None, type=socket.SOCK_STREAM):
            found.add(scope(str(info[4][0])))
    return found


async def _fetch(url: str, part: Path, scopes: Collection[Scope]) -> None:
    if urlsplit(url).scheme.lower() not in {"http", "https"}:
        raise _Refused("its address is neither http nor https")
    timeout = aiohttp.ClientTimeout(total=_TOTAL, sock_connect=_SILENCE, sock_read=_SILENCE)
    headers = {"Accept-Encoding": "identity"}
    connector = aiohttp.TCPConnector(socket_factory=sockets_to(scopes))
    # No session of the API's client: this goes to somebody else's host, which must never see the token.
    async with (
        aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers=headers, auto_decompress=False
        ) as session,
        session.get(url) as response,
    ):
        if response.status != _OK:
            raise _Refused(f"HTTP {response.status}")
        size = 0
        with part.open("xb") as file:
            async for chunk in response.content.iter_chunked(_CHUNK):
                size += len(chunk)
                if size > _LARGEST:
                    raise _Refused(f"it is larger than {_LARGEST >> 30} GiB")
                await asyncio.to_thread(file.write, chunk)
        if size == 0:
            raise _Refused("it is empty")


class _Refused(ValueError):
    """The answer is not a result that can be kept; the text is fit to print."""


def _reserve(path: Path) -> Path:
    """Make an empty file of that name, or of that name with a number, and return it."""
    number = 1
    candidate = path
    while True:
        try:
            candidate.touch(exist_ok=False)
        except FileExistsError:
            number += 1
            candidate = path.with_stem(f"{path.stem}-{number}")
        else:
            return candidate


def _why(error: Exception) -> str:
    if isinstance(error, _Refused):
        return str(error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
