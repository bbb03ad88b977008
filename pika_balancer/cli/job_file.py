"""Files of jobs: one job per line, as JSON or CSV, all checked before any is sent.

A later run recognises a job by its `key`: a digest of its values and its `id`, and the number of equal jobs
above it. So lines may be added, removed and moved between two runs; a changed line is a new job. Images count
by their names, not by their content.
"""

import csv
import hashlib
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

import attrs

from pika_balancer._util.text import printable
from pika_balancer.cli.exit_codes import BadJobFile, Usage
from pika_balancer.client import requests
from pika_balancer.client.requests import Upload, Verb
from pika_balancer.errors import Fault, InvalidArgument

COLUMNS: Final = ("id", "verb", "prompt", "image", "message", "font", "jobid", "button", "channel")
"""The columns of a job file; `image`, and `message` for `encrypt_image`, are paths."""

STDIN: Final = "-"
"""Stands for standard input where a file is named."""

_STAND_IN: Final = Upload("file", b"-")
_DIGITS: Final = 32

Numbered = tuple[int, dict[str, Any] | str]
"""The line of a job, and its values or its fault."""


@attrs.frozen
class JobLine:
    """One job of a file."""

    number: int
    """The line of the file where it begins, from 1."""
    key: str
    """Identifies it in later runs."""
    verb: Verb
    id: str | None
    """The caller's own name for it."""
    channel: str | None
    """The only channel to use; None for any."""
    values: Mapping[str, str | Path]
    """The other parameters, by their Python names; files as paths."""

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"line {self.number}" if self.id is None else f"line {self.number} ({self.id})"


@attrs.frozen
class Source:
    """A file of jobs as it was read."""

    path: Path
    """Its path; `-` for standard input."""
    content: bytes = attrs.field(repr=False)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def directory(self) -> Path:
        """The base of the paths in it: its own directory, or the working directory for standard input."""
        return Path() if self.name == STDIN else self.path.parent


def read_source(path: Path) -> Source:
    """Read a file of jobs, or standard input; raises `Usage` if that cannot be done."""
    try:
        content = sys.stdin.buffer.read() if str(path) == STDIN else path.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise Usage(
            f"--jobs-file: {path.name or str(path)!r:.60} cannot be read: {why}", field="jobs_file"
        ) from None
    return Source(path, content)


def read_lines(source: Source) -> list[JobLine]:
    """Return the jobs of the file, in its order.

    Raises:
        BadJobFile: It has faults; `faults` lists all of them by line.
        Usage: There is no job in it.
    """
    faults: list[Fault] = []
    lines: list[JobLine] = []
    equals: Counter[str] = Counter()
    ids: dict[str, int] = {}
    for number, values in _numbered(source):
        if isinstance(values, str):
            faults.append(Fault(f"line {number}", values))
            continue
        line, problems = _line(number, values, source.directory, equals)
        if line.id is not None and ids.setdefault(line.id, number) != number:
            problems.append(f"id {printable(line.id, 40)!r} is also that of line {ids[line.id]}")
        faults += [Fault(f"line {number}", problem) for problem in problems]
        lines.append(line)
    if faults:
        count = f"{len(faults)} {'fault' if len(faults) == 1 else 'faults'}"
        raise BadJobFile(
            f"--jobs-file: {source.name} has {count}, and nothing was sent; mend the lines named above",
            faults=tuple(faults),
        )
    if not lines:
        raise Usage(f"--jobs-file: there is no job in {source.name}", field="jobs_file")
    return lines


def one_line(values: Mapping[str, Any]) -> JobLine:
    """Return the one job that a command line describes; paths are relative to the working directory.

    Raises:
        Usage: A value is wrong.
    """
    given = {name: value for name, value in values.items() if value is not None}
    line, problems = _line(1, given, Path(), Counter())
    if problems:
        raise Usage("; ".join(problems))
    return line


def _line(
    number: int, given: dict[str, Any], directory: Path, equals: Counter[str]
) -> tuple[JobLine, list[str]]:
    problems = [
        f"unknown name {printable(name, 40)!r}; known are {', '.join(COLUMNS)}"
        for name in given
        if name not in COLUMNS
    ]
    values = {name: value for name, value in given.items() if name in COLUMNS and value is not None}
    if type(values.get("id")) is int:  # as a spreadsheet or a counter makes them
        values["id"] = str(values["id"])
    wrong = [name for name, value in values.items() if not isinstance(value, str)]
    problems += [f"{name} must be a string, not {_kind(values.pop(name))}" for name in wrong]
    values.setdefault("verb", "create")
    equal = _digest(values)
    equals[equal] += 1
    verb, own_id = cast("Verb", values.pop("verb")), values.pop("id", None)
    if own_id == "":
        problems.append("id must not be empty; leave it out")
    sent: dict[str, Any] = dict(values)
    for name in ("image", "message") if verb == "encrypt_image" else ("image",):
        if name in values:
            values[name] = directory / values[name]
            sent[name] = _STAND_IN
            problems += _file_problems(name, values[name])
    try:
        requests.submit(verb, sent)
    except InvalidArgument as error:
        if error.field not in wrong:
            problems.append(error.message)
    channel: str | None = values.pop("channel", None)
    return JobLine(number, f"{equal}.{equals[equal]}", verb, own_id, channel, values), problems


def _digest(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _file_problems(name: str, path: Path) -> Iterator[str]:
    shown = printable(str(path), 200)
    try:
        if not path.is_file():
            yield f"{name}: there is no file {shown!r}"
        elif not os.access(path, os.R_OK):
            yield f"{name}: {shown!r} cannot be read"
        elif path.stat().st_size == 0:
            yield f"{name}: {shown!r} is empty"
    except OSError as error:
        yield f"{name}: {shown!r} cannot be read: {error.strerror}"


def _numbered(source: Source) -> Iterator[Numbered]:
    try:
        text = source.content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield source.content.count(b"\n", 0, error.start) + 1, "is not UTF-8; save the file as UTF-8"
        return
    is_json = source.path.suffix == ".jsonl" or text.lstrip().startswith(("{", "["))
    yield from _json_lines(text) if is_json else _csv_rows(text)


def _json_lines(text: str) -> Iterator[Numbered]:
    # Not splitlines(), which also splits at characters that may stand in a JSON string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            yield number, f"is not JSON at character {error.colno}: {error.msg}"
        except (ValueError, RecursionError) as error:
            yield number, str(error) if isinstance(error, _TwiceError) else "is not JSON that can be read"
        else:
            yield number, value if isinstance(value, dict) else f"must be an object, not {_kind(value)}"


def _kind(value: object) -> str:
    """Return the name of a JSON value's type, with article."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    names: dict[type, str] = {
        str: "a string",
        int: "a whole number",
        float: "a number with a point",
        list: "a list",
    }
    return names.get(type(value), "an object")


class _TwiceError(ValueError):
    """A name appears twice in one object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise _TwiceError("a name appears more than once")
    return made


def _csv_rows(text: str) -> Iterator[Numbered]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    begins = 1
    try:
        for row in rows:
            number, begins = begins, rows.line_num + 1
            if not any(cell.strip() for cell in row):
                continue
            if header is None:
                header = [name.strip() for name in row]
                if wrong := _wrong_header(header):
                    yield number, wrong
                    return
            elif len(row) != len(header):
                yield number, f"has {len(row)} cells, but the header {len(header)}"
            else:
                yield number, {name: cell for name, cell in zip(header, row, strict=True) if cell}
    except csv.Error as error:
        yield begins, f"is not CSV: {error}"


def _wrong_header(header: list[str]) -> str:
    unknown = [printable(name, 40) for name in header if name not in COLUMNS]
    if unknown:
        return f"unknown columns {', '.join(map(repr, unknown))}; known are {', '.join(COLUMNS)}"
    return "the header names a column twice" if len(set(header)) < len(header) else ""
