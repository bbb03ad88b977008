"""The journal of a run: what happened to each job, on disk before the next step is taken.

One JSON object a line, appended and synced. A header names the job file and its digest; every other line adds
facts to the job that it names. A last line without its end was being written when the run was killed, and is
dropped. One run at a time: the file is locked while it is open.
"""

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal, Self, cast

import attrs

from pika_balancer.cli.exit_codes import JournalError, JournalInUse
from pika_balancer.models import JobStatus

VERSION: Final = 1

State = Literal["new", "sending", "unsent", "accepted", "ended", "saved", "refused", "unknown"]
"""How far a job is.

`new`: not sent yet; `sending`: submitted without an answer yet; `unsent`: the service does not have it, and
it may be sent again; `accepted`: the service has it; `ended`: it has ended; `saved`: and its files are here;
`refused`: by its own fault, so that it is not sent again; `unknown`: the service may or may not have it.
"""


@attrs.frozen
class Entry:
    """What is known of one job."""

    state: State = "new"
    line: int | None = None
    """Its line in the job file when it was sent."""
    id: str | None = None
    """The caller's own name for it."""
    verb: str | None = None
    ref: str | None = None
    """The reference under which it was sent last."""
    channel: str | None = None
    jobid: str | None = None
    status: str | None = None
    """How it ended."""
    urls: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    """Its results, in the directory of the journal."""
    error: str | None = None
    """Why it was refused, or is unknown."""

    @property
    def in_flight(self) -> bool:
        """Whether the service may be running it."""
        return self.state in {"sending", "accepted"}

    @property
    def is_over(self) -> bool:
        """Whether no run has anything left to do for it."""
        bad = self.state == "ended" and self.status != JobStatus.COMPLETED
        return bad or self.state in {"new", "unsent", "refused", "saved"}

    @property
    def record(self) -> dict[str, Any]:
        """The record with which a dispatcher resumes it."""
        return {
            "version": 1,
            "verb": self.verb,
            "reply_ref": self.ref,
            "jobid": self.jobid,
            "channel": self.channel,
            "status": self.status or "unknown",
        }


_STATES: Final = frozenset(State.__args__)  # type: ignore[attr-defined] # of every Literal
_TEXTS: Final = frozenset({"id", "verb", "ref", "channel", "jobid", "status", "error"})
_LISTS: Final = frozenset({"urls", "files"})


class Journal:
    """A journal, open for one run; use it as a context manager.

    Args:
        path: The file; None keeps it in memory. Only its owner can read it, from its first byte on; an
            existing one gets these permissions. A symbolic link is refused.
        file: Name of the job file that it belongs to.
        digest: Digest of that file as it is now.

    Attributes:
        changed: Whether the job file was another one when it was last run.

    Raises:
        JournalInUse: Another run has it open.
        JournalError: It cannot be made or read, is damaged, or belongs to another job file.
    """

    def __init__(self, path: Path | None, *, file: str = "", digest: str = "") -> None:
        self.path = path
        self.changed = False
        self._fd: int | None = None
        self._broken: JournalError | None = None
        self._facts: dict[str, dict[str, Any]] = {}
        self._headers: list[dict[str, Any]] = []
        if path is None:
            return
        try:
            self._fd = _open_locked(path)
            self._read(self._fd, path)
            self._write_header(path, file, digest)
        except OSError as error:
            self.close()
            raise JournalError(f"the journal {path} cannot be used: {_why(error)}") from None
        except JournalError:
            self.close()
            raise

    def __getitem__(self, key: str) -> Entry:
        return Entry(**self._facts.get(key, {}))

    def __len__(self) -> int:
        return len(self._facts)

    def count_others(self, keys: Iterable[str]) -> int:
        """Return how many jobs of the journal are not among these."""
        return len(self._facts.keys() - set(keys))

    def note(self, key: str, state: State, **facts: Any) -> None:
        """Add facts to a job, durably.

        Raises:
            JournalError: That failed, now or earlier; nothing more is written then.
        """
        self._append({"job": key, "state": state, **facts})
        self.remember(key, state, **facts)

    def remember(self, key: str, state: State, **facts: Any) -> None:
        """Add facts to a job in memory alone."""
        self._facts.setdefault(key, {}).update(facts, state=state)

    def close(self) -> None:
        """Close the file, and with that unlock it; a second time does nothing."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def discard(self) -> None:
        """Close it and remove it."""
        if self.path is not None and self._fd is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, facts: dict[str, Any]) -> None:
        if self._broken is not None:
            raise self._broken
        if self._fd is None:
            return
        # ASCII: nothing in it can steer a terminal.
        left = memoryview(json.dumps(facts).encode() + b"\n")
        try:
            while left:
                left = left[os.write(self._fd, left) :]
            os.fsync(self._fd)
        except OSError as error:
            self._broken = JournalError(
                f"the journal {self.path} cannot be written: {_why(error)}; nothing more is submitted"
            )
            raise self._broken from None

    def _read(self, fd: int, path: Path) -> None:
        with os.fdopen(os.dup(fd), "rb") as file:
            content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.ftruncate(fd, whole)
        for number, line in enumerate(content[:whole].split(b"\n")[:-1], 1):
            if not self._take(line, first=number == 1):
                raise JournalError(
                    f"line {number} of the journal {path} is damaged; mend or move it, "
                    "but without it jobs that were sent will be sent again"
                )

    def _take(self, line: bytes, *, first: bool) -> bool:
        """Read one line; return whether it is valid."""
        try:
            tree: Any = json.loads(line)
        except (ValueError, RecursionError):
            return False
        if not isinstance(tree, dict):
            return False
        facts = cast("dict[str, Any]", tree)
        if first or "journal" in facts:
            self._headers.append(facts)
            named = isinstance(facts.get("file"), str) and isinstance(facts.get("digest"), str)
            return named and facts.get("journal") == VERSION
        key, state = facts.pop("job", None), facts.pop("state", None)
        if not isinstance(key, str) or not isinstance(state, str) or state not in _STATES:
            return False
        if not all(_is_fact(name, value) for name, value in facts.items()):
            return False
        self.remember(key, cast("State", state), **{name: _frozen(value) for name, value in facts.items()})
        return True

    def _write_header(self, path: Path, file: str, digest: str) -> None:
        last = self._headers[-1] if self._headers else {"file": file, "digest": None}
        if last["file"] != file:
            raise JournalError(
                f"the journal {path} belongs to {last['file']}; choose another --output for {file}"
            )
        if last["digest"] != digest:
            self.changed = bool(self._headers)
            self._append({"journal": VERSION, "file": file, "digest": digest})


def _is_fact(name: str, value: Any) -> bool:
    if name in _LISTS:
        return _is_list(value) and all(isinstance(one, str) for one in value)
    return type(value) is int if name == "line" else name in _TEXTS and isinstance(value, str | None)


def _frozen(value: Any) -> Any:
    return tuple(value) if _is_list(value) else value


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _open_locked(path: Path) -> int:
    """Return the file's descriptor, which holds the lock."""
    # No link is followed: in a directory that others write to, it could lead to another file of ours.
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
    while True:
        made = not path.exists()
        fd = os.open(path, flags, 0o600)
        try:
            _lock(fd, path)
            _narrow(fd, path)
            if made:
                _sync_directory(path.parent)
            # The run before may have removed it between `open` and the lock.
            if os.fstat(fd).st_ino == path.stat().st_ino:
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _lock(fd: int, path: Path) -> None:
    try:
        import fcntl  # noqa: PLC0415 - there is none on Windows, where concurrent runs are not detected
    except ImportError:  # pragma: no cover
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalInUse(
            f"another run keeps the journal {path} now; wait for its end, or stop it"
        ) from None


def _narrow(fd: int, path: Path) -> None:
    """Let only its owner read it."""
    if hasattr(os, "fchmod") and os.fstat(fd).st_mode & 0o077:
        try:
            os.fchmod(fd, 0o600)
        except PermissionError:
            raise JournalError(
                f"the journal {path} belongs to another user, and others may read it; move it, or choose "
                "another --output"
            ) from None


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _why(error: OSError) -> str:
    return error.strerror or type(error).__name__
