"""Good bodies are read whole; every other one is refused with the path of its faults and shows no token."""

import contextlib
import copy
import functools
import json
import logging
import pickle
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pika_balancer.client import responses
from pika_balancer.client.responses import read_account, read_accounts, read_job, read_jobs, read_nothing
from pika_balancer.errors import InvalidResponse
from pika_balancer.models import Account, Job, JobStatus, Secret
from tests.depth import examples

SAMPLES = Path(__file__).parent / "samples"
API_TOKEN = "user:1234-canary/api+token"
TOKEN = "MTAw.canary.discord-token_000"
NOW = 1_705_284_900.0  # 2024-01-15T02:15:00Z


def sample(name: str) -> bytes:
    return (SAMPLES / f"{name}.json").read_bytes()


def paths(read: Any, body: bytes | str, **options: Any) -> list[str]:
    """Return the faults of a body that must be refused, as text."""
    with pytest.raises(InvalidResponse) as caught:
        read(body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass"), **options)
    assert caught.value.faults
    assert str(caught.value.faults[0]) in caught.value.message
    more = len(caught.value.faults) - 1
    assert caught.value.message.endswith(
        f" (and {more} more, see `faults`)" if more else str(caught.value.faults[0])
    )
    return [str(fault) for fault in caught.value.faults]


# --- the account map -----------------------------------------------------------------------------------


def test_the_account_map_keeps_the_servers_order_and_every_value() -> None:
    accounts = read_accounts(sample("accounts-200"))
    assert list(accounts) == ["1193054500145942538", "1187062548362145800", "98765432109876543"]
    first, second, third = accounts.values()
    assert (first.max_jobs, second.max_jobs, third.max_jobs) == (3, 10, 10)
    assert first.discord is not None
    assert first.discord.reveal().endswith("number-one-000000000000000000")
    assert third.discord is None
    assert third == Account("98765432109876543")


def test_an_account_that_is_read_is_like_a_constructed_one() -> None:
    body = json.dumps({"1": {"channel": "1", "discord": TOKEN, "maxJobs": 4}}).encode()
    account = read_accounts(body)["1"]
    made = Account("1", 4, TOKEN)
    assert account == made
    assert hash(account) == hash(made)
    assert repr(account) == repr(made)
    assert attrs.evolve(account, max_jobs=5) == Account("1", 5, TOKEN)
    assert copy.deepcopy(account) == made
    assert pickle.loads(pickle.dumps(account)).channel == "1"
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        account.max_jobs = 9  # type: ignore[misc]  # that it is refused is the point


@pytest.mark.parametrize(
    ("body", "account"),
    [
        ({}, Account("7")),
        ({"maxJobs": 1}, Account("7", 1)),
        ({"maxJobs": 10, "channel": "7"}, Account("7", 10)),
        ({"discord": ""}, Account("7")),
        ({"discord": 'quo"te\\'}, Account("7", 10, 'quo"te\\')),
        ({"other": [1.5, {"deep": None}], "discord": "d"}, Account("7", 10, "d")),
        ({"other": "text", "flag": True, "none": None, "maxJobs": 2}, Account("7", 2)),
    ],
)
def test_every_field_of_an_account_is_optional_and_unknown_ones_are_ignored(
    body: dict[str, Any], account: Account
) -> None:
    assert read_accounts(json.dumps({"7": body}).encode()) == {"7": account}
    assert read_account(json.dumps(body).encode(), "7") == account


def test_an_empty_object_means_no_accounts() -> None:
    assert read_accounts(sample("accounts-200-empty")) == {}


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('{"7": {"maxJobs": true}}', "$['7'].maxJobs: must be a whole number, not true or false"),
        (
            '{"7": {"channel": "7", "discord": "d", "maxJobs": true}}',
            "$['7'].maxJobs: must be a whole number, not true or false",
        ),
        ('{"7": {"maxJobs": "7"}}', "$['7'].maxJobs: must be a whole number, not a string"),
        ('{"7": {"maxJobs": 7.0}}', "$['7'].maxJobs: must be a whole number, not a number with a point"),
        ('{"7": {"maxJobs": 1e1}}', "$['7'].maxJobs: must be a whole number, not a number with a point"),
        ('{"7": {"maxJobs": null}}', "$['7'].maxJobs: must be a whole number, not null"),
        ('{"7": {"maxJobs": 0}}', "$['7'].maxJobs: must be from 1 to 10"),
        ('{"7": {"maxJobs": 11}}', "$['7'].maxJobs: must be from 1 to 10"),
        ('{"7": {"maxJobs": -1}}', "$['7'].maxJobs: must be from 1 to 10"),
        ('{"7": {"maxJobs": 18446744073709551616}}', "$['7'].maxJobs: must be from 1 to 10"),
        ('{"7": {"channel": null}}', "$['7'].channel: must be a string, not null"),
        ('{"7": {"channel": 7}}', "$['7'].channel: must be a string, not a whole number"),
        ('{"7": {"channel": "8"}}', "$['7'].channel: differs from the channel that it stands for"),
        ('{"7": {"channel": ""}}', "$['7'].channel: differs from the channel that it stands for"),
        ('{"7": {"discord": null}}', "$['7'].discord: must be a string, not null"),
        ('{"7": {"discord": ["x"]}}', "$['7'].discord: must be a string, not a list"),
        ('{"7": {"discord": "\\ud800"}}', "$: is not JSON: Input data was truncated"),
        ('{"\\udc00": {}}', "$: is not JSON: invalid utf-16 surrogate pair (byte 8)"),
        ('{"": {}}', "$['']: has an empty key, which no channel can have"),
        ('{"7": {"x": Infinity}}', "$: is not JSON: invalid character (byte 12)"),
        ('{"7": []}', "$['7']: must be an object, not a list"),
        ('{"7": null}', "$['7']: must be an object, not null"),
        ("[]", "$: must be an object, not a list"),
        ("null", "$: must be an object, not null"),
        ('"x"', "$: must be an object, not a string"),
        ("3", "$: must be an object, not a whole number"),
        ("true", "$: must be an object, not true or false"),
        ("NaN", "$: is not JSON: invalid character (byte 0)"),
        ("", "$: is empty"),
        (" \r\n", "$: is empty"),
        ("<html>", "$: is HTML or XML instead of JSON; check the base URL"),
        ('{"7": {"maxJobs": 3', "$: is not JSON: Input data was truncated"),
        ('\ufeff{"1": {}}', "$: is not JSON: invalid character (byte 0)"),
        ("{} {}", "$: is not JSON: trailing characters (byte 4)"),
        ("{'7': {}}", "$: is not JSON: object keys must be strings (byte 1)"),
        ('{"7": {"maxJobs": ' + "9" * 5000 + "}}", "$['7'].maxJobs: is wrong: Integer value out of range"),
        ('{"7": {"x": ' + "[" * 100_000, "$: is nested too deep"),
    ],
)
def test_a_map_that_breaks_the_contract_is_refused_by_path(body: str, fault: str) -> None:
    assert paths(read_accounts, body) == [fault]


@pytest.mark.parametrize(
    "body",
    [
        b'{"7": {"discord": "\xff"}}',
        '{"7": {"discord": "\ud800"}}'.encode("utf-8", "surrogatepass"),
        '{"7": {}}'.encode("utf-16"),
        '{"7": {}}'.encode("utf-32-le"),
    ],
)
def test_only_utf_8_is_read(body: bytes) -> None:
    (fault,) = paths(read_accounts, body)
    assert ": is not JSON: " in fault


def test_one_fault_is_listed_for_each_wrong_account_in_the_order_of_the_body() -> None:
    body = (
        '{"1": {"maxJobs": 11, "x": null}, "2": 5, "": {}, "3": {},'
        ' "4": {"channel": "5", "maxJobs": 0}, "5": {"discord": 0, "maxJobs": "x"}}'
    )
    assert paths(read_accounts, body) == [
        "$['1'].maxJobs: must be from 1 to 10",
        "$['2']: must be an object, not a whole number",
        "$['']: has an empty key, which no channel can have",
        "$['4'].channel: differs from the channel that it stands for",
        "$['5'].discord: must be a string, not a whole number",
    ]


def test_of_a_repeated_key_the_last_one_counts() -> None:
    body = b'{"7": {"maxJobs": 1}, "8": {}, "7": {"maxJobs": 2, "maxJobs": 3}}'
    assert {key: account.max_jobs for key, account in read_accounts(body).items()} == {"7": 3, "8": 10}


def test_the_range_of_caps_is_the_callers() -> None:
    body = b'{"a@example.com": {"maxJobs": 100}}'
    assert read_accounts(body, cap_range=(1, 100))["a@example.com"].max_jobs == 100
    assert paths(read_accounts, body, cap_range=(1, 99)) == [
        "$['a@example.com'].maxJobs: must be from 1 to 99"
    ]


def test_a_fault_shows_no_token_and_no_control_character() -> None:
    body = json.dumps(
        {
            TOKEN: {"maxJobs": 0},
            f"a{TOKEN}b": 1,
            API_TOKEN: 1,
            "1": {"discord": TOKEN, "maxJobs": TOKEN},
            "2": {"discord": [TOKEN + "2"]},
            TOKEN + "2": 3,
            "\x1b]0;evil\x07": 1,
            "\u202egnp": 1,
            "quo'te\\": 1,
            "long" * 1000: 1,
        }
    )
    faults = paths(read_accounts, body, secrets=(Secret(API_TOKEN),))
    text = "\n".join(faults)
    assert TOKEN not in text
    assert API_TOKEN not in text
    assert text.replace("\n", "").isprintable()
    assert text.count("['***']") == 4
    assert "$['\\x1b]0;evil\\x07']: must be an object, not a whole number" in faults
    assert "$['\\u202egnp']: must be an object, not a whole number" in faults
    assert "$['quo\\'te\\\\']: must be an object, not a whole number" in faults
    assert max(map(len, faults)) < 400


def test_a_token_shape_is_hidden_where_no_field_names_the_token() -> None:
    token = "MTAwMDAwMDAwMDAwMDAwMDAw.GsAmPl.canary-token-number-one-000000000000"
    body = f'{{"1": {{"discord": "{token}", "discord": "other"}}, "a {token} b": 1}}'
    assert paths(read_accounts, body) == ["$['***']: must be an object, not a whole number"]


def test_thousands_of_tokens_and_faulty_keys_are_masked_in_linear_time() -> None:
    entries: dict[str, Any] = {}
    for i in range(5000):
        entries[f"{i}"] = {"discord": f"{TOKEN}{i:06d}"}
        entries[f"x{TOKEN}{i:06d}"] = 0
    faults = paths(read_accounts, json.dumps(entries))
    assert len(faults) == 1000
    assert set(faults) == {"$['***']: must be an object, not a whole number"}


channels = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
entries = st.fixed_dictionaries(
    {},
    optional={
        "maxJobs": st.integers(1, 10),
        "discord": st.text(st.characters(codec="utf-8"), min_size=1),
        "note": st.one_of(st.none(), st.booleans(), st.text(st.characters(codec="utf-8")), st.integers()),
    },
)


@st.composite
def good_maps(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    found = draw(st.dictionaries(channels, entries, max_size=6))
    return {key: entry | ({"channel": key} if draw(st.booleans()) else {}) for key, entry in found.items()}


@pytest.mark.deep
@examples(40, 100)
@given(good_maps(), st.booleans())
def test_a_good_map_comes_through_with_its_order_and_values(tree: dict[str, Any], ascii_only: bool) -> None:  # noqa: FBT001 - drawn
    accounts = read_accounts(json.dumps(tree, ensure_ascii=ascii_only).encode())
    assert list(accounts) == list(tree)
    for key, entry in tree.items():
        account = accounts[key]
        assert account == Account(key, entry.get("maxJobs", 10), entry.get("discord"))


def outcome_of(read: Any, body: bytes, *args: Any) -> Any:
    """Return the value or the error; anything but `InvalidResponse` escapes and fails the test."""
    try:
        return read(body, *args)
    except InvalidResponse as error:
        return error


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 15), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)


@st.composite
def mutated_maps(draw: st.DrawFn) -> bytes:
    """A good map with a value, a key or a stretch of bytes replaced."""
    tree: dict[str, dict[str, Any]] = draw(good_maps())
    if draw(st.booleans()) and tree:
        entry = tree[draw(st.sampled_from(list(tree)))]
        entry[draw(st.sampled_from(["channel", "discord", "maxJobs", "x"]))] = draw(json_values)
    body = json.dumps(tree).encode()
    if draw(st.booleans()):
        start = draw(st.integers(0, len(body)))
        end = draw(st.integers(start, min(len(body), start + 8)))
        patch = draw(
            st.one_of(st.binary(max_size=4), st.just(body[start:end] * 2), st.just(b'"7":{},"7":{}'))
        )
        body = body[:start] + patch + body[end:]
    return body


@pytest.mark.deep
@examples(120, 400)
@given(mutated_maps())
def test_a_map_is_accepted_if_each_of_its_accounts_is(body: bytes) -> None:
    result = outcome_of(read_accounts, body)
    entries: dict[str, msgspec.Raw] = {}
    with contextlib.suppress(msgspec.MsgspecError):
        entries = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    if not entries:
        assert result == {} or isinstance(result, InvalidResponse)
        return
    each = {key: outcome_of(read_account, bytes(entry), key) for key, entry in entries.items()}
    if "" in each or any(isinstance(one, InvalidResponse) for one in each.values()):
        assert isinstance(result, InvalidResponse)
    else:
        assert list(result.items()) == list(each.items())


READERS: list[tuple[Any, tuple[Any, ...], tuple[type, ...]]] = [
    (read_accounts, (), (dict,)),
    (read_account, ("7",), (Account,)),
    (read_job, (), (Job,)),
    (read_jobs, (), (list,)),
    (read_nothing, (), (type(None),)),
]


@pytest.mark.parametrize(("read", "args", "kinds"), READERS)
@pytest.mark.deep
@examples(40, 100)
@given(body=st.one_of(st.binary(max_size=60), json_values.map(lambda tree: json.dumps(tree).encode())))
def test_any_bytes_give_a_value_or_invalid_response(
    read: Any, args: tuple[Any, ...], kinds: tuple[type, ...], body: bytes
) -> None:
    assert isinstance(outcome_of(read, body, *args), (*kinds, InvalidResponse))


# --- one account, jobs, nothing ------------------------------------------------------------------------


def test_a_single_account_is_read_against_the_channel_that_was_asked_for() -> None:
    account = read_account(sample("account-200"), "1193054500145942538")
    assert account.max_jobs == 3
    assert paths(functools.partial(read_account, channel="2"), sample("account-200")) == [
        "$.channel: differs from the channel that it stands for"
    ]
    assert paths(functools.partial(read_account, channel="2"), b'{"maxJobs": 0}') == [
        "$.maxJobs: must be from 1 to 10"
    ]


@pytest.mark.parametrize("word", list(JobStatus))
def test_a_job_in_every_status_is_read(word: JobStatus) -> None:
    job = read_job(sample(f"job-200-{word}"))
    assert job.status is word
    assert job.ended == (word not in {"created", "started", "progress"})
    assert job.jobid == "job:20240115021440711-user:1234-channel:1193054500145942538"


def test_every_field_of_a_job_is_read_by_its_name_on_the_wire() -> None:
    tree = json.loads(sample("job-200-completed"))
    job = read_job(sample("job-200-completed"))
    assert (job.max_jobs, job.message_id, job.reply_url, job.reply_ref) == (
        tree["maxJobs"],
        tree["messageId"],
        tree["replyUrl"],
        tree["replyRef"],
    )
    for name in (
        "verb",
        "created",
        "updated",
        "prompt",
        "channel",
        "discord",
        "content",
        "timestamp",
        "code",
    ):
        assert getattr(job, name) == tree[name]
    assert job.buttons == ("retry",)
    assert job.embeds == (tree["embeds"][0],)
    assert job.image == {"size": 184203, "type": "image/png"}
    (attachment,) = job.attachments
    assert attachment.filename == "a_cat_on_a_surfboard.mp4"
    assert attachment.size == 1204817
    failed = read_job(sample("job-200-failed"))
    assert (failed.error, failed.error_details) == ("Generation failed", "The bot did not answer")


def test_null_counts_as_absent_in_a_job_and_its_attachments() -> None:
    body = {"jobid": "j", "content": None, "buttons": None, "attachments": [{"url": "u", "size": None}]}
    job = read_job(json.dumps(body).encode())
    assert (job.content, job.buttons, job.attachments[0].size) == (None, (), None)


def test_an_unknown_status_counts_as_running_and_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    responses._warn_of_status.cache_clear()
    with caplog.at_level(logging.WARNING, "pika_balancer.client.requests"):
        jobs = [read_job(b'{"jobid": "j", "status": "\\u001b[2Jpondering"}') for _ in range(3)]
    assert jobs[0].status == "\x1b[2Jpondering"
    assert not jobs[0].ended
    assert [record.getMessage() for record in caplog.records] == [
        "unknown job status '\\x1b[2Jpondering': the job counts as running"
    ]


def test_an_unknown_status_that_repeats_a_token_is_reported_without_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    responses._warn_of_status.cache_clear()
    with caplog.at_level(logging.WARNING, "pika_balancer.client.requests"):
        read_job(
            b'{"jobid": "j", "status": "refused user:1234-canary"}', secrets=(Secret("user:1234-canary"),)
        )
    assert [record.getMessage() for record in caplog.records] == [
        "unknown job status 'refused ***': the job counts as running"
    ]


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("status", 5, "$.status: must be a string, not a whole number"),
        ("maxJobs", True, "$.maxJobs: must be a whole number, not true or false"),
        ("attachments", [{"url": 1}], "$.attachments[0].url: must be a string, not a whole number"),
        ("attachments", [{"url": ""}, {}], "$.attachments[1].url: is missing"),
        ("attachments", [3], "$.attachments[0]: must be an object, not a whole number"),
        ("buttons", "retry", "$.buttons: must be a list, not a string"),
        ("buttons", ["x"] * 1001, "$.buttons: is wrong: Expected `array` of length <= 1000"),
        ("embeds", [[]], "$.embeds[0]: must be an object, not a list"),
        ("image", [], "$.image: must be an object, not a list"),
        ("code", "200", "$.code: must be a whole number, not a string"),
        ("messageId", 7, "$.messageId: must be a string, not a whole number"),
    ],
)
def test_a_job_with_a_wrong_field_is_refused_and_its_id_is_told(
    field: str, value: object, fault: str
) -> None:
    with pytest.raises(InvalidResponse) as caught:
        read_job(json.dumps({"jobid": "job:1", field: value}).encode())
    assert caught.value.jobid == "job:1"
    assert [str(each) for each in caught.value.faults] == [fault]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("{}", "$.jobid: is missing"),
        ('{"jobid": null}', "$.jobid: must be a string, not null"),
        ('{"jobid": ""}', "$.jobid: must not be empty"),
        ('{"jobid": 5}', "$.jobid: must be a string, not a whole number"),
        ("[]", "$: must be an object, not a list"),
    ],
)
def test_a_job_without_an_id_is_refused(body: str, fault: str) -> None:
    assert paths(read_job, body) == [fault]


@pytest.mark.parametrize(
    ("body", "jobid"),
    [
        (b'{"jobid": "job:1", "verb": "pika-cr', "job:1"),
        (b'{"verb": "x", "jobid" : "job:\\u0031", "n": NaN}', "job:1"),
        (b'{"jobid": "job:1", "jobid": "job:1"', "job:1"),
        (b'{"jobid": "job:1", "jobid": "job:2"', None),
        (b'{"prompt": "\\"jobid\\": \\"job:1\\"", "jobid', None),
        (b'{"jobid": "job:1', None),
        (b'{"jobid": "\\ud800", ', None),
        (b'{"jobid": "\\x", ', None),
        (b"\xff\xfe", None),
    ],
)
def test_the_id_of_an_accepted_job_is_found_in_a_broken_body(body: bytes, jobid: str | None) -> None:
    with pytest.raises(InvalidResponse) as caught:
        read_job(body)
    assert caught.value.jobid == jobid


def test_a_whole_discord_token_in_a_job_is_cut_to_its_ends() -> None:
    job = read_job(json.dumps({"jobid": "j", "discord": TOKEN}).encode())
    assert job.discord == "MTA…000"
    shown = {
        hint: read_job(json.dumps({"jobid": "j", "discord": hint}).encode()).discord
        for hint in ("x" * 9, "x" * 10)
    }
    assert shown == {"x" * 9: "x" * 9, "x" * 10: "xxx…xxx"}


def test_the_list_of_jobs_is_read() -> None:
    assert read_jobs(sample("jobs-200-empty")) == []
    assert len(read_jobs(sample("jobs-200"))) == 2
    for entry, fault in (
        (b'""', "$[1]: must not be empty"),
        (b"null", "$[1]: must be a string, not null"),
        (b"7", "$[1]: must be a string, not a whole number"),
        (b'"\\ud800"', "$: is not JSON: Input data was truncated"),
    ):
        assert paths(read_jobs, b'["a", %s]' % entry) == [fault]
    assert paths(read_jobs, b"{}") == ["$: must be a list, not an object"]


def test_an_answer_without_content_may_be_empty_or_an_object_but_no_page() -> None:
    read_nothing(b"")
    read_nothing(b'{"channel": "1"}')
    assert paths(read_nothing, b'{"a": NaN}') == ["$: is not JSON: invalid character (byte 6)"]
    assert paths(read_nothing, b"<html>login</html>") == [
        "$: is HTML or XML instead of JSON; check the base URL"
    ]


def test_what_an_error_raises_from_holds_no_body() -> None:
    body = json.dumps({"1": {"discord": TOKEN, "maxJobs": 0}}).encode()
    holder = [body]
    del body
    with pytest.raises(InvalidResponse) as caught:
        read_accounts(holder.pop())
    for frame, _ in list(traceback.walk_tb(caught.value.__traceback__))[1:]:
        assert TOKEN not in repr(frame.f_locals)


def test_a_large_answer_costs_little_more_than_its_own_size() -> None:
    tokens = {str(i): {"discord": "x" * (20 + i % 800), "note": [None]} for i in range(2000)}
    hostile: list[tuple[Callable[[bytes], object], bytes]] = [
        (
            read_job,
            b'{"jobid":"j","status":"started","x":' + b"[" * 58 + b"0," * 100_000 + b"0" + b"]" * 58 + b"}",
        ),
        (read_job, b'{"jobid":"j","status":"x","buttons":[' + b",".join([b"1"] * 50_000) + b"]}"),
        (read_accounts, json.dumps({str(i): 0 for i in range(100_000)}).encode()),
        (read_accounts, json.dumps({"k" * 900 + key: entry for key, entry in tokens.items()}).encode()),
    ]
    plain = cost = 0.0
    for read, body in hostile:
        begin = time.process_time()
        json.loads(body)
        plain += time.process_time() - begin
        begin = time.process_time()
        with contextlib.suppress(InvalidResponse):
            read(body)
        cost += time.process_time() - begin
    # A reader whose cost grows faster than the body takes hundreds of times as long as the parser.
    assert cost < 60 * plain


def test_a_default_cap_is_outside_no_range() -> None:
    assert read_account(b"{}", "5", cap_range=(1, 5)).max_jobs == 10
    assert read_accounts(b'{"5": {}}', cap_range=(1, 5))["5"].max_jobs == 10
    with pytest.raises(InvalidResponse) as caught:
        read_accounts(b'{"5": {}, "6": {"maxJobs": 6}}', cap_range=(1, 5))
    assert [fault.path for fault in caught.value.faults] == ["$['6'].maxJobs"]
