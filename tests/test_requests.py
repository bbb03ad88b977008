"""Requests and answers without I/O: what is sent, what each answer means, and that no secret shows."""

import base64
import email.parser
import email.policy
import functools
import json
import operator
import pickle
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pika_balancer.client import requests
from pika_balancer.client.error_map import Answer
from pika_balancer.client.requests import Upload
from pika_balancer.client.responses import read_job, read_nothing
from pika_balancer.errors import (
    AccountSuspended,
    ApiError,
    BadRequest,
    ChannelFull,
    InvalidArgument,
    InvalidResponse,
    LostTrack,
    NotFound,
    PikaError,
    PromptRejected,
    RateLimited,
    ServiceError,
    SubscriptionRequired,
    Unauthorized,
    UnexpectedStatus,
)
from pika_balancer.models import Secret

SAMPLES = Path(__file__).parent / "samples"
API_TOKEN = "user:1234-canary/api+token"
TOKEN = "MTAw.canary.discord-token_000"
NOW = 1_705_284_900.0  # 2024-01-15T02:15:00Z


def sample(name: str) -> bytes:
    return (SAMPLES / f"{name}.json").read_bytes()


# --- answers -------------------------------------------------------------------------------------------

CREATE = requests.submit("create", {"prompt": "a cat", "channel": "55", "discord": Secret(TOKEN)})


def failure(
    status: int,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    request: requests.Request[Any] = CREATE,
) -> ApiError:
    answer = Answer(status, headers or {}, body)
    error = requests.outcome(request, answer, now=NOW, secrets=(Secret(API_TOKEN),))
    assert isinstance(error, ApiError)
    assert error.status == status
    assert error.__context__ is None
    return error


@pytest.mark.parametrize(
    ("status", "name", "cls", "words"),
    [
        (400, "error-400", BadRequest, "Required param prompt is missing or empty"),
        (400, "error-400-cap", BadRequest, "Required param maxJobs 11 can't be more that 10"),
        (401, "error-401", Unauthorized, "Unauthorized"),
        (402, "error-402", SubscriptionRequired, "Account has no subscription or subscription expired"),
        (404, "error-404", NotFound, "Configuration not found"),
        (422, "error-422", PromptRejected, "The prompt was moderated: banned word"),
        (429, "error-429-full", ChannelFull, "All slots of the channel are taken"),
        (429, "error-429-rate", RateLimited, "Discord rate limit"),
        (500, "error-500", ServiceError, "Internal error"),
        (504, "error-504", LostTrack, "The job was queued but could not be found: maxJobs may be too high"),
        (596, "error-596", AccountSuspended, "The Discord account has a pending moderation message"),
    ],
)
def test_each_documented_error_becomes_its_own_class(
    status: int, name: str, cls: type[ApiError], words: str
) -> None:
    error = failure(status, sample(name))
    assert type(error) is cls
    assert error.code == status
    assert error.channel == "55"
    assert error.message.endswith(f"(HTTP {status}); the service says: {words}")


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (400, BadRequest),
        (429, RateLimited),
        (500, ServiceError),
        (502, ServiceError),
        (503, ServiceError),
        (505, ServiceError),
        (599, ServiceError),
        (596, AccountSuspended),
        (504, LostTrack),
        (300, UnexpectedStatus),
        (301, UnexpectedStatus),
        (307, UnexpectedStatus),
        (403, UnexpectedStatus),
        (418, UnexpectedStatus),
        (101, UnexpectedStatus),
        (600, UnexpectedStatus),
        (999, UnexpectedStatus),
        (0, UnexpectedStatus),
    ],
)
@pytest.mark.parametrize(
    "body",
    [b"", b"Bad Gateway", b"<html>\x1b[2J</html>", b'{"error": ', b"[1]", b'{"error": {"a": 1}}', b"\xff"],
)
def test_without_a_usable_body_the_status_decides(status: int, cls: type[ApiError], body: bytes) -> None:
    error = failure(status, body)
    assert type(error) is cls
    assert error.message.endswith(f"(HTTP {status})")
    assert (error.code, error.retry_after, error.executing_jobs) == (None, None, ())


def test_a_redirect_is_not_followed_and_its_target_not_quoted() -> None:
    error = failure(307, b"", {"Location": "https://evil.example/"})
    assert "a redirect, which is not followed" in error.message
    assert "evil" not in error.message


def test_a_full_channel_lists_its_executing_jobs() -> None:
    error = failure(429, sample("error-429-full"))
    assert len(error.executing_jobs) == 3
    assert error.executing_jobs[0].startswith("job:20240115021402111")


@pytest.mark.parametrize("executing", [[], None, "job:1", {}, {"job:1": 1}])
def test_without_executing_jobs_429_is_a_rate_limit(executing: Any) -> None:
    error = failure(429, json.dumps({"executingJobs": executing}).encode())
    assert type(error) is RateLimited


def test_executing_jobs_that_are_no_strings_still_mean_a_full_channel() -> None:
    error = failure(429, b'{"executingJobs": [7, null, "job:1"]}')
    assert type(error) is ChannelFull
    assert error.executing_jobs == ("job:1",)


def test_a_lost_job_keeps_the_id_in_the_body() -> None:
    assert failure(504, sample("error-504")).jobid == json.loads(sample("error-504"))["jobid"]
    assert failure(404, b"", request=requests.get_job("job:9")).jobid == "job:9"


@pytest.mark.parametrize(
    ("code", "known"), [(429, 429), (True, None), ("429", None), (1.5, None), (None, None)]
)
def test_a_code_is_a_whole_number_or_nothing(code: Any, known: int | None) -> None:
    assert failure(400, json.dumps({"code": code}).encode()).code == known


def test_the_channel_comes_from_the_body_if_the_call_named_none() -> None:
    request = requests.submit("create", {"prompt": "x"})
    assert failure(596, sample("error-596"), request=request).channel == "1193054500145942538"
    assert failure(596, b'{"channel": 5}', request=request).channel is None


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"Retry-After": "7"}, {}, 7.0),
        ({"retry-after": " 7.5 "}, {}, 7.5),
        ({"Retry-After": "0"}, {}, 0.0),
        ({"Retry-After": "99999"}, {}, 3600.0),
        ({"Retry-After": "9" * 500}, {}, 3600.0),
        ({"Retry-After": "-5"}, {}, None),
        ({"Retry-After": "nan"}, {}, None),
        ({"Retry-After": "inf"}, {}, None),
        ({"Retry-After": "1e3"}, {}, None),
        ({"Retry-After": "٧"}, {}, None),
        ({"Retry-After": "soon"}, {}, None),
        ({"Retry-After": ""}, {}, None),
        ({"Retry-After": "Mon, 15 Jan 2024 02:15:30 GMT"}, {}, 30.0),
        ({"Retry-After": "Mon, 15 Jan 2024 02:14:30 GMT"}, {}, 0.0),
        ({"Retry-After": "Mon, 15 Jan 2024 02:15:30 GMT", "Date": "Mon, 15 Jan 2024 02:15:20 GMT"}, {}, 10.0),
        ({"Retry-After": "Mon, 15 Jan 2024 02:15:30 GMT", "Date": "yesterday"}, {}, 30.0),
        ({"Retry-After": "Mon, 15 Jan 9999 02:15:30 GMT"}, {}, 3600.0),
        ({"Retry-After": "Mon, 99 Jan 2024 99:99:99 GMT"}, {}, None),
        ({}, {"retryAfter": "2024-01-15T02:15:10.000Z"}, 10.0),
        ({}, {"retryAfter": "2024-01-15T02:15:10"}, 10.0),
        ({}, {"retryAfter": "2024-01-15T04:15:10+02:00"}, 10.0),
        ({"Date": "Mon, 15 Jan 2024 02:15:08 GMT"}, {"retryAfter": "2024-01-15T02:15:10Z"}, 2.0),
        ({"Retry-After": "3"}, {"retryAfter": "2024-01-15T02:15:10Z"}, 3.0),
        ({"Retry-After": "soon"}, {"retryAfter": "2024-01-15T02:15:10Z"}, 10.0),
        ({}, {"retryAfter": "0001-01-01T00:00:00+23:59"}, 0.0),
        ({}, {"retryAfter": "later"}, None),
        ({}, {"retryAfter": 30}, None),
        ({}, {"retryAfter": None}, None),
    ],
)
def test_the_time_to_wait_is_read_from_header_or_body(
    headers: dict[str, str], body: dict[str, Any], seconds: float | None
) -> None:
    assert failure(429, json.dumps(body).encode(), headers).retry_after == seconds


@pytest.mark.parametrize("secret", [API_TOKEN, TOKEN, "token-of-the-body"])
@pytest.mark.parametrize(
    "look",
    [
        str,
        functools.partial(quote, safe=""),
        lambda text: quote(text, safe="").lower() if "%" in quote(text, safe="") else text,
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
        lambda text: json.dumps(text)[1:-1],
    ],
)
def test_the_services_words_are_shown_without_any_token(secret: str, look: Any) -> None:
    shown = look(secret)
    if shown != secret and shown == quote(secret, safe="").lower():
        shown = quote(secret, safe="").replace("%2F", "%2f").replace("%2B", "%2b").replace("%3A", "%3a")
    body = {
        "error": f"bad token {shown}!",
        "discord": "token-of-the-body",
        "channel": secret,
        "jobid": secret,
    }
    error = failure(
        400,
        json.dumps(body).encode(),
        request=requests.submit("create", {"prompt": "x", "discord": Secret(TOKEN)}),
    )
    assert "bad token ***" in error.message
    assert shown not in error.message
    assert secret not in repr(vars(error))
    assert (error.channel, error.jobid) == (None, None)


SHAPE = "MTAwMDAwMDAwMDAwMDAwMDAw.GsAmPl.canary-of-a-token-that-no-field-names"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"cannot log in with {SHAPE}.", "cannot log in with ***."),
        (f"token={SHAPE},{SHAPE}", "token=***,***"),
        (f'"{SHAPE.lower()}"', '"***"'),
        (f"x{SHAPE}x/y", "***/y"),
        ("see https://api.useapi.net/v1/pika/create.", "see https://api.useapi.net/v1/pika/create."),
        (SHAPE[:-20], SHAPE[:-20]),
    ],
)
def test_what_has_the_shape_of_a_discord_token_is_hidden(said: str, shown: str) -> None:
    error = failure(400, json.dumps({"error": said, "jobid": said, "channel": said}).encode())
    assert error.message.endswith(f"the service says: {shown}")
    assert error.jobid == (said if shown == said else None)
    job = read_job(json.dumps({"jobid": "j", "error": said, "errorDetails": said}).encode())
    assert (job.error, job.error_details) == (shown, shown)
    long = json.dumps({"jobid": "j", "error": "a-" * 500_000 + ".b" * 500_000}).encode()
    assert len(read_job(long).error or "") == 2_000_000


def test_the_services_words_are_escaped_and_cut() -> None:
    words = failure(400, json.dumps({"error": "\x1b[31mred\r\n\u202e" + "x" * 1000}).encode()).message
    assert words.isprintable()
    assert "\\x1b[31mred\\r\\n\\u202exxx" in words
    assert words.endswith("x…")
    assert len(words) < 400


def test_a_long_fact_is_left_out_if_there_are_many_tokens() -> None:
    tree = {"jobid": "j" * 2000, "channel": "short", "a": [{"discord": f"t{i}"} for i in range(100)]}
    error = failure(504, json.dumps(tree).encode(), request=requests.submit("create", {"prompt": "x"}))
    assert (error.jobid, error.channel) == (None, "short")


def test_words_are_left_out_if_there_are_too_many_tokens() -> None:
    body = {"error": "x", "a": [{"discord": f"t{i}"} for i in range(100)]}
    assert failure(400, json.dumps(body).encode()).message.endswith("(HTTP 400)")


@settings(deadline=None)
@given(
    status=st.integers(100, 999), body=st.binary(max_size=80), headers=st.dictionaries(st.text(), st.text())
)
def test_any_answer_gives_a_value_or_a_pika_error(status: int, body: bytes, headers: dict[str, str]) -> None:
    result = requests.outcome(requests.get_accounts(), Answer(status, headers, body), now=NOW)
    if isinstance(result, PikaError):
        assert result.status == status
        assert result.message.isprintable()
    else:
        assert 200 <= status < 300


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_any_2xx_status_is_a_success(status: int) -> None:
    assert requests.outcome(requests.get_jobs(), Answer(status, {}, b'["j"]'), now=NOW) == ["j"]


def test_an_unreadable_success_has_status_channel_and_job() -> None:
    error = requests.outcome(CREATE, Answer(200, {}, b'{"jobid": "job:1", "status"'), now=NOW)
    assert isinstance(error, InvalidResponse)
    assert (error.status, error.channel, error.jobid) == (200, "55", "job:1")
    error = requests.outcome(CREATE, Answer(200, {}, b"<html>"), now=NOW)
    assert isinstance(error, InvalidResponse)
    assert error.__traceback__ is None
    assert error.__context__ is None


# --- requests ------------------------------------------------------------------------------------------


def parts_of(request: requests.Request[Any], boundary: str = "B") -> dict[str, Any]:
    """Return the parts of the form, as the standard library reads them."""
    encoded = request.encode(boundary)
    assert encoded is not None
    head = f"Content-Type: {encoded[0]}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + encoded[1])
    assert message.get_content_type() == "multipart/form-data"
    assert not message.defects
    found: dict[str, Any] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        found[str(name)] = (
            (part.get_filename(), part.get_content_type(), payload) if part.get_filename() else payload
        )
    return found


def test_a_submit_is_a_form_with_the_services_names() -> None:
    request = requests.submit(
        "create",
        {
            "prompt": "ein Käse\r\n--B",
            "image": Upload('a "b"\\c\x01.png', b"\x89PNG\r\n", "image/png"),
            "channel": "5",
            "discord": Secret(TOKEN),
            "max_jobs": 3,
            "reply_url": "https://example.com",
            "reply_ref": None,
        },
    )
    assert (request.method, request.path, request.idempotent) == ("POST", "/create", False)
    assert parts_of(request, "B") == {
        "prompt": "ein Käse\r\n--B".encode(),
        "image": ("a %22b%22%5Cc%01.png", "image/png", b"\x89PNG\r\n"),
        "channel": b"5",
        "discord": TOKEN.encode(),
        "maxJobs": b"3",
        "replyUrl": b"https://example.com",
    }
    assert request.secrets == (Secret(TOKEN),)
    assert TOKEN not in repr(request)


def test_the_boundary_never_occurs_in_a_part() -> None:
    encoded = requests.submit("create", {"prompt": "BB0B00"}).encode("B")
    assert encoded is not None
    assert encoded[0] == "multipart/form-data; boundary=B000"


@pytest.mark.parametrize(
    ("verb", "values", "field"),
    [
        ("create", {"prompt": ""}, "prompt"),
        ("create", {"prompt": None}, "prompt"),
        ("create", {"prompt": 5}, "prompt"),
        ("create", {"prompt": b"x"}, "prompt"),
        ("create", {"prompt": "x" * 1501}, "prompt"),
        ("create", {"prompt": "\ud800"}, "prompt"),
        ("create", {"prompt": "x", "image": "cat.png"}, "image"),
        ("create", {"prompt": "x", "channel": ""}, "channel"),
        ("create", {"prompt": "x", "channel": 5}, "channel"),
        ("create", {"prompt": "x", "discord": Secret("")}, "discord"),
        ("create", {"prompt": "x", "discord": 5}, "discord"),
        ("create", {"prompt": "x", "discord": pickle.loads(pickle.dumps(Secret("x")))}, "discord"),
        ("create", {"prompt": "x", "max_jobs": 0}, "max_jobs"),
        ("create", {"prompt": "x", "max_jobs": 11}, "max_jobs"),
        ("create", {"prompt": "x", "max_jobs": True}, "max_jobs"),
        ("create", {"prompt": "x", "max_jobs": "3"}, "max_jobs"),
        ("create", {"prompt": "x", "reply_url": "x" * 1025}, "reply_url"),
        ("create", {"prompt": "x", "reply_ref": "x" * 1025}, "reply_ref"),
        ("animate", {"image": None}, "image"),
        ("animate", {"image": Upload("a", b"a"), "prompt": "x" * 1501}, "prompt"),
        ("encrypt_text", {"message": None, "prompt": "x"}, "message"),
        ("encrypt_text", {"message": "x" * 21, "prompt": "x"}, "message"),
        ("encrypt_text", {"message": Upload("a", b"a"), "prompt": "x"}, "message"),
        ("encrypt_text", {"message": "x", "prompt": "x", "font": "modern"}, "font"),
        ("encrypt_image", {"message": "x", "prompt": "x"}, "message"),
        ("button", {"jobid": "", "button": "retry"}, "jobid"),
        ("button", {"jobid": "j", "button": ""}, "button"),
    ],
)
def test_a_submit_outside_the_documented_limits_names_the_field(
    verb: requests.Verb, values: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        requests.submit(verb, values)
    assert caught.value.field == field
    assert field in caught.value.message


@pytest.mark.parametrize(
    ("verb", "values", "field"),
    [
        ("create", {}, "prompt"),
        ("create", {"promt": "a dog"}, "promt"),
        ("create", {"prompt": "a cat", "message": "hi"}, "message"),
        ("animate", {"image": Upload("a.png", b"x"), "font": "RETRO"}, "font"),
        ("button", {}, "jobid"),
        ("paint", {"prompt": "a cat"}, "verb"),
    ],
)
def test_a_submit_takes_only_the_arguments_of_its_verb(verb: Any, values: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        requests.submit(verb, values)
    assert caught.value.field == field


def test_the_default_button_is_retry() -> None:
    assert dict(requests.submit("button", {"jobid": "job:1"}).fields)["button"] == "retry"
    assert dict(requests.submit("button", {"jobid": "job:1", "button": "more"}).fields)["button"] == "more"


def test_values_of_a_prepared_submit_can_be_replaced_and_are_checked() -> None:
    prepared = requests.submit("create", {"prompt": "a cat", "channel": "1", "reply_ref": "old"})
    amended = requests.with_values(prepared, {"channel": "2", "reply_ref": "new", "reply_url": "http://h/"})
    assert (amended.method, amended.path, amended.channel) == ("POST", "/create", "2")
    assert dict(amended.fields) == {
        "prompt": "a cat",
        "channel": "2",
        "replyRef": "new",
        "replyUrl": Secret("http://h/"),
    }
    assert dict(prepared.fields)["channel"] == "1"
    assert requests.with_values(prepared, {"reply_ref": "new"}).channel == "1"
    secret = requests.submit("encrypt_image", {"message": Upload("m.png", b"m"), "prompt": "x"})
    for submit, field, value in (
        (prepared, "reply_ref", ""),
        (prepared, "reply_url", "x" * 1025),
        (secret, "message", "text"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            requests.with_values(submit, {field: value})
        assert caught.value.field == field


def test_the_documented_limits_themselves_are_allowed() -> None:
    for font in requests.FONTS:
        requests.submit("encrypt_text", {"message": "ü" * 20, "prompt": "x" * 1500, "font": font})
    requests.submit(
        "create", {"prompt": "x", "reply_url": "x" * 1024, "reply_ref": "x" * 1024, "max_jobs": 10}
    )
    requests.submit(
        "encrypt_image", {"message": Upload("m.png", b"m"), "prompt": "x", "image": Upload("i", b"i")}
    )


def test_an_account_is_set_with_json() -> None:
    request = requests.set_account("5", Secret(TOKEN), 3)
    assert (request.method, request.path) == ("POST", "/account/5")
    encoded = request.encode("B")
    assert encoded is not None
    assert encoded[0] == "application/json"
    assert json.loads(encoded[1]) == {"channel": "5", "discord": TOKEN, "maxJobs": 3}
    for token, cap, field in ((None, 3, "discord"), (Secret(TOKEN), None, "max_jobs")):
        with pytest.raises(InvalidArgument, match=field) as caught:
            requests.set_account("5", token, cap)
        assert caught.value.field == field
    with pytest.raises(InvalidArgument, match="jobid") as caught:
        requests.get_job("")
    assert caught.value.field == "jobid"


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: text not in {".", ".."}))
def test_a_channel_stays_one_segment_of_the_path(channel: str) -> None:
    for request in (requests.get_account(channel), requests.remove_account(channel)):
        url = urlsplit("https://host/v1/pika" + request.path)
        assert url.path.startswith("/v1/pika/account/")
        assert (url.query, url.fragment) == ("", "")
        assert url.path.count("/") == 4
        assert unquote(url.path.rsplit("/", 1)[1]) == channel


@pytest.mark.parametrize("channel", ["", ".", "..", None, 5, "\ud800"])
def test_a_channel_that_cannot_be_a_path_segment_is_refused(channel: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        requests.get_account(channel)
    assert caught.value.field == "channel"


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_a_jobid_stays_one_value_of_the_query(jobid: str) -> None:
    url = urlsplit("https://host/v1/pika" + requests.get_job(jobid).path)
    assert url.path == "/v1/pika/jobs/"
    assert url.fragment == ""
    assert parse_qs(url.query, keep_blank_values=True, strict_parsing=True) == {"jobid": [jobid]}


def test_only_a_get_may_be_repeated() -> None:
    sent = [
        requests.get_accounts(),
        requests.get_account("1"),
        requests.get_jobs(),
        requests.get_job("1"),
        requests.set_account("1", Secret("x"), 1),
        requests.remove_account("1"),
        CREATE,
    ]
    assert [operator.attrgetter("idempotent")(request) for request in sent] == [True] * 4 + [False] * 3


@pytest.mark.parametrize(
    ("filename", "content", "content_type", "field"),
    [
        ("", b"x", "image/png", "filename"),
        ("a", b"", "image/png", "content"),
        ("a", "text", "image/png", "content"),
        ("a", b"x", "image/png\r\nX: y", "content_type"),
        ("a", b"x", "png", "content_type"),
        ("a", b"x", "", "content_type"),
        ("a", b"x", "im\u00e4ge/png", "content_type"),
    ],
)
def test_an_upload_that_cannot_be_sent_is_refused(
    filename: Any, content: Any, content_type: Any, field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Upload(filename, content, content_type)
    assert caught.value.field == field


def test_each_call_has_its_method_path_channel_and_job() -> None:
    asked = [
        requests.get_accounts(),
        requests.get_account("5"),
        requests.set_account("5", Secret("x"), 1),
        requests.remove_account("5"),
        requests.get_jobs(),
        requests.get_job("job:1"),
        requests.submit("animate", {"image": Upload("a", b"a"), "channel": "5"}),
        requests.submit("button", {"jobid": "job:1"}),
    ]
    facts = operator.attrgetter("method", "path", "channel", "jobid", "json")
    assert [facts(request) for request in asked] == [
        ("GET", "/account", None, None, False),
        ("GET", "/account/5", "5", None, False),
        ("POST", "/account/5", "5", None, True),
        ("DELETE", "/account/5", "5", None, False),
        ("GET", "/jobs", None, None, False),
        ("GET", "/jobs/?jobid=job%3A1", None, "job:1", False),
        ("POST", "/animate", "5", None, False),
        ("POST", "/button", None, None, False),
    ]
    assert [request.encode("B") is None for request in asked] == [
        True,
        True,
        False,
        True,
        True,
        True,
        False,
        False,
    ]
    assert asked[2].secrets == (Secret("x"),)
    assert [request.read for request in asked[2:4]] == [read_nothing] * 2
    assert [request.read for request in asked[5:]] == [read_job] * 3
    assert requests.get_account("a/b").path == "/account/a%2Fb"


def test_the_callers_range_of_caps_applies_to_requests_and_answers() -> None:
    all_of_them, one = b'{"5": {"maxJobs": 11}}', b'{"maxJobs": 11}'
    assert requests.get_accounts((1, 11)).read(all_of_them)["5"].max_jobs == 11
    assert requests.get_account("5", (1, 11)).read(one).max_jobs == 11
    assert dict(requests.set_account("5", Secret("x"), 11, (1, 11)).fields)["maxJobs"] == 11
    assert dict(requests.submit("create", {"prompt": "x", "max_jobs": 11}, (1, 11)).fields)["maxJobs"] == 11
    answers: list[tuple[requests.Request[Any], bytes]] = [
        (requests.get_accounts((1, 10)), all_of_them),
        (requests.get_account("5", (1, 10)), one),
    ]
    for request, body in answers:
        with pytest.raises(InvalidResponse):
            request.read(body)
    for low, high, words in ((1, 10, "from 1 to 10"), (12, None, "of at least 12")):
        with pytest.raises(InvalidArgument, match=words) as caught:
            requests.check_int("max_jobs", 11, low, high)
        assert caught.value.field == "max_jobs"
    assert [requests.check_int("n", n, 3, 5) for n in (3, 5)] == [3, 5]
    assert requests.check_int("n", 3, 3) == 3


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("https://host", "https://host"),
        ("HTTP://host:8080/v1/", "HTTP://host:8080/v1"),
        ("http://[::1]:80/", "http://[::1]:80"),
        ("http://host/a/b//", "http://host/a/b"),
        ("ftp://host", None),
        ("http://", None),
        ("http:///path", None),
        ("http://host:0", None),
        ("http://host:99999", None),
        ("http://a..b", None),
        ("http://" + "a" * 64, None),
        ("http://user@host", None),
        ("http://host?q", None),
        ("http://host#f", None),
        ("http://host\\path", None),
        ("http://host ", None),
        ("http://h\u00f6st", None),
        (" http://host", None),
        (b"http://host", None),
        (None, None),
    ],
)
def test_a_base_url_is_accepted_if_a_path_can_follow(text: Any, base: str | None) -> None:
    assert requests.base_url(text) == base


def test_the_callers_token_is_not_shown_in_the_faults_of_an_answer() -> None:
    def broken(request: requests.Request[Any], tree: object) -> InvalidResponse:
        answer = Answer(200, {}, json.dumps(tree).encode())
        error = requests.outcome(request, answer, now=NOW, secrets=(Secret(API_TOKEN),))
        assert isinstance(error, InvalidResponse)
        return error

    asked = requests.get_job("job:2")
    assert broken(asked, {"jobid": "job:1", API_TOKEN: {}, "status": 5}).jobid == "job:1"
    assert broken(asked, []).jobid == "job:2"
    assert broken(CREATE, {"jobid": TOKEN, "status": 5}).jobid is None
    assert broken(CREATE, {"jobid": API_TOKEN, "status": 5}).jobid is None
    assert "['***']" in broken(requests.get_accounts(), {API_TOKEN: 5}).message
