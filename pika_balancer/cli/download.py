"""Downloads a result into a directory: complete or not at all, under a name without directories."""

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
    """Create the directory; raises `Usage` if files cannot be written to it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Usage(f"--output: that directory cannot be made: {error.strerror}", field="output") from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise Usage("--output: that directory cannot be written to", field="output")


def safe_name(attachment: Attachment, jobid: str) -> str:
    """Return a file name without directories, made of the name of the attachment."""
    offered = attachment.filename or unquote(urlsplit(attachment.url).path)
    last = re.split(r"[/\\]", offered)[-1]
    stem, dot, suffix = re.sub(r"[^A-Za-z0-9._-]+", "_", last).strip("._-").rpartition(".")
    if not dot:
        stem, suffix = suffix, ""
    stem = stem.strip("._-")[:_LONGEST_STEM] or re.sub(r"[^A-Za-z0-9]+", "-", jobid)[:_LONGEST_STEM]
    return f"{stem}.{suffix[:_LONGEST_SUFFIX] or 'mp4'}"


async def download(job: Job, attachment: Attachment, directory: Path, service: str | None = None) -> Path:
    """Download one result, without authorisation, and return its file; existing files are never replaced.

    Args:
        job: The completed job.
        attachment: One of its results.
        directory: The directory of the file.
        service: Base URL of the service that named the result. Neither the result's URL nor a redirect may
            lead to this machine or a private network, unless the service is there, too. None: no limit.

    Raises:
        DownloadFailed: It could not be fetched or saved; no file is left.
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
    """Return the networks where results may be."""
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
    # Not the session of the API's client: another host must never get the token.
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
    """The answer is not a result; the message is safe to print."""


def _reserve(path: Path) -> Path:
    """Create an empty file of that name, or of that name with a number, and return it."""
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
