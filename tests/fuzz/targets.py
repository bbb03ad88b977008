"""The functions that are fed with bad bytes; each raises if an invariant does not hold."""

import asyncio
import contextlib
import email.parser
import email.policy
import functools
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader
from aiohttp.test_utils import make_mocked_request

from pika_balancer._util import units
from pika_balancer.cli.exit_codes import BadJobFile, error_document, sentence
from pika_balancer.cli.job_file import JobLine, Source, read_lines
from pika_balancer.cli.submit_journal import Journal
from pika_balancer.client import requests, responses
from pika_balancer.client.error_map import Answer
from pika_balancer.client.requests import Request, Upload
from pika_balancer.dispatch.handle import read_records
from pika_balancer.dispatch.webhook import Webhook
from pika_balancer.distributions import format_distribution, parse_distribution
from pika_balancer.errors import ApiError, InvalidArgument, InvalidResponse, PikaError
from pika_balancer.models import Account, Job, Secret
from pika_balancer.server import parse_accounts, parse_fault
from pika_balancer.simulate import notation
from pika_balancer.simulate.trace import Recording, read_trace
from tests.fuzz.invariant import API, check_account, check_error, check_job, value_or_error

Target = Callable[[bytes], None]

NOW: Final = 1_705_284_900.0
CHANNEL: Final = "1193054500145942538"
_STATUSES: Final = (200, 200, 200, 400, 401, 404, 422, 429, 500, 504, 596, 302, 299, 101, 999)


# --- answers -------------------------------------------------------------------------------------------


def fuzz_parse(body: bytes) -> None:
    """Read the body as every kind of answer; a map is accepted if each of its accounts is."""
    hidden = _discords(body)
    accounts = value_or_error(responses.read_accounts, body, secrets=(API,), hidden=hidden)
    if isinstance(accounts, dict):
        entries = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        for channel, account in accounts.items():
            check_account(account)
            assert account == responses.read_account(bytes(entries[channel]), channel)
    one = value_or_error(responses.read_account, body, CHANNEL, secrets=(API,), hidden=hidden)
    if isinstance(one, Account):
        check_account(one)
    job = value_or_error(responses.read_job, body, secrets=(API,), hidden=hidden)
    if isinstance(job, Job):
        check_job(job)
    jobs = value_or_error(responses.read_jobs, body, secrets=(API,), hidden=hidden)
    assert not isinstance(jobs, list) or all(jobid.encode() for jobid in jobs)
    value_or_error(responses.read_nothing, body, secrets=(API,), hidden=hidden)
    found = responses.find_jobid(body, (API,))
    assert found is None or found.encode()


def fuzz_wire(data: bytes) -> None:
    """Use the data as status, headers and body of an answer to every request."""
    status = _STATUSES[data[0] % len(_STATUSES)] if data else 200
    head, _, body = data[1:].partition(b"\n\n")
    lines = head.decode("latin-1").split("\n")
    headers = {name: value for name, _, value in (line.partition(":") for line in lines[:8])}
    hidden = _discords(body)
    for request in _requests():
        found = requests.outcome(request, Answer(status, headers, body), now=NOW, secrets=(API,))
        if isinstance(found, PikaError):
            check_error(found, *hidden)
            assert found.status == status
            _check_facts(found)
            json.dumps(error_document(found), allow_nan=False)
            assert sentence(found)
        else:
            assert status // 100 == 2
            if isinstance(found, Job):
                check_job(found)


@functools.cache
def _requests() -> tuple[Request[Any], ...]:
    token = Secret("canary-discord-token-canary")
    return (
        requests.get_accounts(),
        requests.get_account(CHANNEL),
        requests.set_account(CHANNEL, token, 3),
        requests.remove_account(CHANNEL),
        requests.get_jobs(),
        requests.get_job("job:1"),
        requests.submit("create", {"prompt": "a cat", "discord": token}),
    )


def _check_facts(error: PikaError) -> None:
    for fact in (error.channel, error.jobid, *error.executing_jobs):
        assert fact is None or (type(fact) is str and fact.encode())
    assert error.code is None or type(error.code) is int
    assert error.retry_after is None or 0 <= error.retry_after <= 3600
    assert isinstance(error, ApiError | InvalidResponse)


def _discords(body: bytes) -> list[str]:
    """Return what no message may show: whole sample tokens, and parts of those in a `discord` field."""
    text = body.decode("latin-1")
    parts = re.findall(r'"discord"\s*:\s*"[^"\\]*(fake-token-number-(?:one|two)-000)', text)
    return parts + re.findall(r"MTAw\w{20}\.\w{6}\.fake-token-number-(?:one|two)-0+", text)


# --- requests ------------------------------------------------------------------------------------------

_VERBS: Final = ("create", "animate", "encrypt_text", "encrypt_image", "button")
_NAMES: Final = (
    "prompt", "image", "message", "font", "jobid", "button", "channel", "discord", "max_jobs", "reply_url",
    "reply_ref", "\x1b[2J", "verb", "\ud800",
)  # fmt: skip


def fuzz_request(data: bytes) -> None:
    """Make a request of the data, one argument per line; its encoding must hold the same values."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    verb = _VERBS[len(lines[0]) % len(_VERBS)]
    values: dict[str, Any] = {}
    for line in lines:
        values[_NAMES[len(values) % len(_NAMES) if not line else ord(line[0]) % len(_NAMES)]] = _value(line)
    request = value_or_error(requests.submit, verb, values)
    if isinstance(request, Request):
        _check_form(request)
    for text in lines[:4]:
        for asked in (
            value_or_error(requests.get_job, text),
            value_or_error(requests.set_account, text, Secret(text), len(text)),
        ):
            if isinstance(asked, Request):
                assert asked.path.isascii()
                assert asked.path.isprintable()
        url = requests.base_url(text)
        assert url is None or (url.isascii() and url.isprintable())


def _value(line: str) -> Any:
    kind, text = line[:2][-1:], line[2:]
    if kind == "u":
        made = value_or_error(Upload, text[:9], text.encode("utf-8", "surrogateescape"), text[9:30])
        return made if isinstance(made, Upload) else None
    if kind == "s":
        return Secret(text)
    return len(text) if kind == "n" else text


def _check_form(request: Request[Any]) -> None:
    assert request.path.removeprefix("/") in _VERBS
    encoded = request.encode("boundary")
    assert encoded is not None
    kind, body = encoded
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
        b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body
    )
    parts = list(message.iter_parts())
    assert len(parts) == len(request.fields)
    for part, (name, value) in zip(parts, request.fields, strict=True):
        assert part.get_param("name", header="content-disposition") == name
        content = value.content if isinstance(value, Upload) else _sent(value)
        assert body.count(b"\r\n\r\n" + content + b"\r\n--")
        names = [header.lower() for header in part]
        wanted = (
            ["content-disposition", "content-type"] if isinstance(value, Upload) else ["content-disposition"]
        )
        assert names == wanted


def _sent(value: object) -> bytes:
    return (value.reveal() if isinstance(value, Secret) else str(value)).encode()


# --- callbacks -----------------------------------------------------------------------------------------

_ADDRESS: Final = "canary-address-canary"
_LIMIT: Final = 2**16


@functools.cache
def _request() -> web.Request:
    """Return the request, made once since that is slow; only its body changes."""
    return make_mocked_request("POST", "/x", match_info={"secret": _ADDRESS})


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def fuzz_callbacks(body: bytes) -> None:
    """Post the body as a callback: a job is passed on, anything else refused with a reason."""
    _loop().run_until_complete(_call_back(body))


async def _call_back(body: bytes) -> None:
    receiver = Webhook("http://localhost:1", secret=_ADDRESS, body_limit=_LIMIT)
    told: list[Job] = []

    def take(job: Job) -> bool:
        told.append(job)
        return True

    receiver.subscribe(take)
    stream = StreamReader(BaseProtocol(loop=_loop()), 2**30, loop=_loop())
    half = len(body) // 2
    for chunk in (body[:half], body[half:]):
        if chunk:
            stream.feed_data(chunk)
    stream.feed_eof()
    request = _request()
    request._payload = stream
    request._read_bytes = None
    refusal: web.HTTPException | None = None
    try:
        [route] = receiver.app().router.routes()
        status = (await route.handler(request)).status
    except web.HTTPException as error:
        refusal, status = error, error.status
    seen = receiver.statistics()
    if refusal is None:
        assert status == 200
        [job] = told
        check_job(job)
        assert (seen.broken, seen.matched) == (0, 1)
    else:
        assert 400 <= status < 500
        assert refusal.reason.isprintable()
        assert _ADDRESS not in refusal.reason
        assert len(refusal.reason) < 2000
        assert not told
        assert (seen.broken, seen.matched) == (1, 0)


# --- files ---------------------------------------------------------------------------------------------


@functools.cache
def _directory() -> Path:
    made = tempfile.TemporaryDirectory(prefix="pika-fuzz-")
    _kept.enter_context(made)
    return Path(made.name)


_kept = contextlib.ExitStack()


def fuzz_trace(content: bytes) -> None:
    """Read the content as a log of jobs, CSV or Parquet."""
    path = _directory() / "trace.csv"
    path.write_bytes(content)
    for arrival, duration in ((None, None), ("ts", "took")):
        found = value_or_error(read_trace, path, arrival=arrival, duration=duration)
        if isinstance(found, Recording):
            jobs = len(found.arrivals)
            assert jobs
            assert found.durations is None or len(found.durations.values) == jobs
            assert all(note.isprintable() and len(note) < 500 for note in found.notes)


def fuzz_jobfile(content: bytes) -> None:
    """Read the content as a job file; each job can be encoded."""
    for name in ("jobs.csv", "jobs.jsonl"):
        source = Source(_directory() / name, content)
        found = value_or_error(read_lines, source)
        if isinstance(found, BadJobFile):
            assert found.faults
            assert all(str(fault).isprintable() and len(str(fault)) < 2000 for fault in found.faults)
        elif isinstance(found, list):
            assert found == read_lines(source)
            assert len({line.key for line in found}) == len(found)
            for line in found:
                _check_line(line)


def _check_line(line: JobLine) -> None:
    assert line.number >= 1
    json.dumps([line.key, line.id, line.channel]).encode()
    values = {
        name: Upload("file", b"-") if isinstance(value, Path) else value
        for name, value in line.values.items()
    }
    _check_form(requests.submit(line.verb, {**values, "channel": line.channel}))


def fuzz_journal(content: bytes) -> None:
    """Read the content as a journal; its entries have the right types and stay after another line."""
    path = _directory() / "journal.jsonl"
    path.write_bytes(content)
    opened = value_or_error(Journal, path, file="jobs.csv", digest="d")
    if not isinstance(opened, Journal):
        assert path.read_bytes() in (content, content[: content.rfind(b"\n") + 1])
        return
    with opened as journal:
        keys = _keys(content)
        assert len(journal) == len(keys)
        entries = {key: journal[key] for key in keys}
        for entry in entries.values():
            json.dumps([entry.record, entry.urls, entry.files])
            assert isinstance(entry.is_over, bool)
            checked = value_or_error(read_records, [entry.record])
            assert isinstance(checked, list | InvalidArgument)
        journal.note("one\nmore", "accepted", jobid="job:\x1b", channel="5")
    with Journal(path, file="jobs.csv", digest="d") as again:
        assert again["one\nmore"].jobid == "job:\x1b"
        assert {key: again[key] for key in keys if key != "one\nmore"} == {
            key: entry for key, entry in entries.items() if key != "one\nmore"
        }


def _keys(journal: bytes) -> set[str]:
    """Return the jobs in the complete lines of a good journal."""
    lines = [json.loads(line) for line in journal[: journal.rfind(b"\n") + 1].split(b"\n")[:-1]]
    return {line["job"] for line in lines[1:] if "journal" not in line}


def fuzz_records(content: bytes) -> None:
    """Read the content as records of a dispatcher."""
    try:
        records = json.loads(content)
    except (ValueError, RecursionError):
        return
    checked = value_or_error(read_records, records)
    for record in checked if isinstance(checked, list) else ():
        assert type(record["version"]) is int
        for name in ("verb", "reply_ref", "channel", "jobid"):
            assert record[name] is None or record[name].encode()
            assert record[name] or name == "jobid"


# --- texts ---------------------------------------------------------------------------------------------

_FORMS: Final[Mapping[str, tuple[Callable[..., Any], Callable[[Any], str]]]] = {
    "accounts": (notation.parse_accounts, notation.format_accounts),
    "arrivals": (notation.parse_arrivals, notation.format_arrivals),
    "failures": (notation.parse_failures, notation.format_failures),
    "faults": (notation.parse_faults, notation.format_faults),
    "distribution": (parse_distribution, format_distribution),
    "slowdown": (notation.parse_slowdown, notation.format_slowdown),
    "target": (notation.parse_target, notation.format_target),
    "when_full": (notation.parse_when_full, notation.format_when_full),
}
_UNITS: Final[Mapping[str, tuple[Callable[..., Any], Callable[[Any], str]]]] = {
    "duration": (units.parse_duration, units.format_duration),
    "rate": (units.parse_rate, units.format_rate),
    "share": (units.parse_share, units.format_share),
    "number": (units.parse_number, units.format_number),
    "count": (units.parse_count, str),
}
_SERVER: Final = (parse_fault, parse_accounts)


def fuzz_forms(data: bytes) -> None:
    """Read the text as every part of a scenario and every option of the server."""
    text = data.decode("utf-8", "surrogateescape")
    _read_and_write(text, _FORMS)
    for parse_it in _SERVER:
        value_or_error(parse_it, text)


def fuzz_units(data: bytes) -> None:
    """Read the text as every kind of number with a unit."""
    _read_and_write(data.decode("utf-8", "surrogateescape"), _UNITS)


def _read_and_write(text: str, pairs: Mapping[str, tuple[Callable[..., Any], Callable[[Any], str]]]) -> None:
    for field, (read, write) in pairs.items():
        value = value_or_error(read, text, field=field)
        if isinstance(value, InvalidArgument):
            assert value.field == field
        else:
            written = write(value)
            assert read(written, field=field) == value, f"{text!r} was written as {written!r}"


TARGETS: Final[Mapping[str, Target]] = {
    "parse": fuzz_parse,
    "wire": fuzz_wire,
    "request": fuzz_request,
    "callbacks": fuzz_callbacks,
    "trace": fuzz_trace,
    "jobfile": fuzz_jobfile,
    "journal": fuzz_journal,
    "records": fuzz_records,
    "forms": fuzz_forms,
    "units": fuzz_units,
}
"""The targets by name."""
