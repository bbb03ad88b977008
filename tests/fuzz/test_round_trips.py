"""Written values are read back unchanged: requests, records, journals, numbers with units."""

import email.parser
import email.policy
import json
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pika_balancer._util import units
from pika_balancer.cli.submit_journal import Journal
from pika_balancer.client import requests
from pika_balancer.client.requests import Upload
from pika_balancer.dispatch.handle import JobHandle, read_records
from pika_balancer.models import Secret
from tests.depth import examples
from tests.fuzz.corpus import ESCAPES, NAUGHTY

SENDABLE = [text for text in NAUGHTY if text and not any("\ud800" <= char <= "\udfff" for char in text)]
TEXT = st.one_of(st.sampled_from(SENDABLE), st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
PROMPT = TEXT.filter(lambda text: len(text) <= 1500)
SHORT = TEXT.filter(lambda text: len(text) <= 20)
FILE = st.builds(
    Upload,
    TEXT.filter(lambda text: len(text) <= 300),
    st.binary(min_size=1, max_size=60),
    st.sampled_from(["image/png", "application/octet-stream"]),
)
ANY = {
    "channel": TEXT,
    "discord": TEXT.map(Secret),
    "max_jobs": st.integers(1, 10),
    "reply_url": PROMPT.filter(lambda text: len(text) <= 1024),
    "reply_ref": PROMPT.filter(lambda text: len(text) <= 1024),
}
ORDERS = st.one_of(
    st.tuples(st.just("create"), st.fixed_dictionaries({"prompt": PROMPT}, optional={"image": FILE, **ANY})),
    st.tuples(st.just("animate"), st.fixed_dictionaries({"image": FILE}, optional={"prompt": PROMPT, **ANY})),
    st.tuples(
        st.just("encrypt_text"),
        st.fixed_dictionaries(
            {"message": SHORT, "prompt": PROMPT},
            optional={"font": st.sampled_from(requests.FONTS), "image": FILE, **ANY},
        ),
    ),
    st.tuples(
        st.just("encrypt_image"),
        st.fixed_dictionaries({"message": FILE, "prompt": PROMPT}, optional={"image": FILE, **ANY}),
    ),
    st.tuples(st.just("button"), st.fixed_dictionaries({"jobid": TEXT}, optional={"button": TEXT, **ANY})),
)


@pytest.mark.deep
@pytest.mark.no_cover  # other tests run every line of it
@examples(30, 1000)
@given(ORDERS)
def test_a_submit_arrives_unchanged(order: tuple[Any, dict[str, Any]]) -> None:
    verb, values = order
    request = requests.submit(verb, values)
    encoded = request.encode("boundary")
    assert encoded is not None
    kind, body = encoded
    head = b"Content-Type: " + kind.encode() + b"\r\n\r\n"
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    arrived = {
        str(part.get_param("name", header="content-disposition")): part for part in message.iter_parts()
    }
    named = {"max_jobs": "maxJobs", "reply_url": "replyUrl", "reply_ref": "replyRef"}
    sent = {named.get(name, name): value for name, value in values.items()}
    if verb == "button":
        sent.setdefault("button", "retry")
    assert arrived.keys() == sent.keys()
    for name, part in arrived.items():
        more = ["content-type"] if isinstance(sent[name], Upload) else []
        assert [header.lower() for header in part] == ["content-disposition", *more]
    # The e-mail parser reads a lone CR as a line break, so the raw bytes are compared.
    for name, value in sent.items():
        plain = (
            value.content
            if isinstance(value, Upload)
            else (value.reveal() if isinstance(value, Secret) else str(value)).encode()
        )
        start = body.index(f'form-data; name="{name}"'.encode())
        assert body[body.index(b"\r\n\r\n", start) + 4 :].startswith(plain + b"\r\n--boundary")
    assert not any(escape.encode() in kind.encode() for escape in ESCAPES)


@pytest.mark.deep
@examples(30, 1000)
@given(TEXT.filter(lambda text: text not in (".", "..")))
def test_names_in_a_url_arrive_unchanged(name: str) -> None:
    assert parse_qs(urlsplit(requests.get_job(name).path).query, keep_blank_values=True) == {"jobid": [name]}
    path = requests.remove_account(name).path
    assert unquote(path.removeprefix("/account/")) == name
    assert path.count("/") == 2


@pytest.mark.deep
@examples(30, 1000)
@given(TEXT, TEXT, st.one_of(st.none(), TEXT))
async def test_a_record_is_restored_unchanged(ref: str, channel: str, jobid: str | None) -> None:
    handle = JobHandle("create", ref)
    handle.channel = channel
    handle.jobid = jobid
    record = json.loads(json.dumps(handle.record()))
    assert read_records([record]) == [handle.record()]


FACTS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ("id", "verb", "ref", "channel", "jobid", "status", "error"), st.sampled_from(NAUGHTY)
        ),
        "line": st.integers(0, 2**70),
        "urls": st.lists(st.sampled_from(NAUGHTY), max_size=3).map(tuple),
    },
)


@pytest.mark.deep
@examples(15, 500)
@given(st.dictionaries(st.sampled_from(NAUGHTY), FACTS, max_size=4))
def test_a_journal_restores_odd_names_and_escapes_them_for_a_terminal(jobs: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "journal"
        with Journal(path, file="\x1b[2J.csv", digest="d") as journal:
            for key, facts in jobs.items():
                journal.note(key, "accepted", **facts)
            written = {key: journal[key] for key in jobs}
        assert all(32 <= byte < 127 for line in path.read_bytes().splitlines() for byte in line)
        with Journal(path, file="\x1b[2J.csv", digest="d") as again:
            assert {key: again[key] for key in jobs} == written


@pytest.mark.deep
@examples(100, 5000)
@given(st.floats(0, 1e308))
def test_written_numbers_are_read_as_the_same(value: float) -> None:
    assert units.parse_duration(units.format_duration(value), field="x") == value
    assert units.parse_rate(units.format_rate(value), field="x") == value
    assert units.parse_number(units.format_number(value), field="x") == value
    share = value / 1e308
    assert units.parse_share(units.format_share(share), field="x") == share
