"""Parameters of the job calls: what is taken, what is refused and in which words."""

import asyncio
import contextlib
import json
from collections.abc import Mapping

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pika_balancer.server.answers import Refusal
from pika_balancer.server.form import ReceivedFile, parse_multipart
from tests.depth import examples
from tests.server.conftest import FIRST, PNG, Rig, Upload, form, running

GOOD: Mapping[str, Mapping[str, str | Upload]] = {
    "create": {"prompt": "a cat"},
    "animate": {"image": Upload()},
    "encrypt_text": {"message": "hello", "prompt": "a cat"},
    "encrypt_image": {"message": Upload(), "prompt": "a cat"},
}


@pytest.mark.parametrize("verb", GOOD)
async def test_a_call_with_what_it_requires_is_accepted(rig: Rig, verb: str) -> None:
    answer = await rig.submit(verb, GOOD[verb])
    assert (answer.status, answer.body["verb"]) == (200, f"pika-{verb}")


@pytest.mark.parametrize(
    ("verb", "missing"),
    [(verb, param) for verb, fields in GOOD.items() for param in fields]
    + [("button", "jobid"), ("button", "button")],
)
async def test_a_missing_or_empty_required_param_is_named(rig: Rig, verb: str, missing: str) -> None:
    fields = dict(GOOD.get(verb, {"jobid": "job:1", "button": "retry"}))
    was_file = isinstance(fields.pop(missing), Upload)
    expected = (400, {"error": f"Required param {missing} is missing or empty", "code": 400})
    absent = await rig.call("POST", f"/{verb}", data=form(x="y", **fields))
    fields[missing] = Upload(data=b"") if was_file else ""
    empty = await rig.call("POST", f"/{verb}", data=form(**fields))
    assert (absent.status, absent.body) == (empty.status, empty.body) == expected
    assert rig.server.statistics().jobs == 0


@pytest.mark.parametrize(
    ("verb", "fields", "error"),
    [
        ("create", {"prompt": "x" * 1501}, "Param prompt is longer than 1500 characters"),
        ("animate", {"prompt": "x" * 1501}, "Param prompt is longer than 1500 characters"),
        ("encrypt_text", {"message": "x" * 21}, "Param message is longer than 20 characters"),
        (
            "encrypt_text",
            {"font": "COMIC"},
            "Param font must be one of MODERN, COMICS, SANS SERIF, BAUHAUS, RETRO",
        ),
        ("create", {"replyRef": "x" * 1025}, "Param replyRef is longer than 1024 characters"),
        (
            "create",
            {"replyUrl": "http://127.0.0.1/" + "x" * 1008},
            "Param replyUrl is longer than 1024 characters",
        ),
        ("create", {"maxJobs": "0"}, "Param maxJobs must be a whole number from 1 to 10"),
        ("create", {"maxJobs": "11"}, "Param maxJobs must be a whole number from 1 to 10"),
        ("create", {"maxJobs": "many"}, "Param maxJobs must be a whole number from 1 to 10"),
        ("create", {"discord": "some-token"}, "Required param channel is missing or empty"),
        ("create", {"channel": "12x"}, "Required param channel (12x) is not valid Discord channel id"),
        ("button", {"jobid": "job:1", "button": "upscale"}, "Param button must be retry"),
    ],
)
async def test_a_bad_param_is_named(rig: Rig, verb: str, fields: dict[str, str], error: str) -> None:
    answer = await rig.submit(verb, {**GOOD.get(verb, {}), **fields})
    assert (answer.status, answer.body) == (400, {"error": error, "code": 400})


async def test_params_at_their_limits_are_taken(rig: Rig) -> None:
    reply = "http://127.0.0.1/" + "x" * 1007
    longest = await rig.submit(prompt="ü" * 1500, replyRef="r" * 1024, replyUrl=reply)
    assert (longest.status, longest.body["prompt"], longest.body["replyUrl"]) == (200, "ü" * 1500, reply)
    fonts = await rig.submit("encrypt_text", message="m" * 20, prompt="p", font="SANS SERIF")
    assert fonts.status == 200


@pytest.mark.parametrize(
    ("upload", "kind"),
    [
        (Upload(name="image.png"), "image/png"),
        (Upload(name="blob", type="application/octet-stream"), "image/png"),
        (Upload(name="/private/var/folders/T/x1y2z3", type="application/octet-stream"), "image/png"),
        (Upload(name='a/b\\c"; name="prompt.png'), "image/png"),
        (Upload(name="ünïcode ☃.png"), "image/png"),
        (Upload(data=b"\xff\xd8\xff\xe0" + bytes(104), name="x.jpg", type=None), "image/jpeg"),
        (Upload(data=b"RIFFxxxxWEBP" + bytes(96), name="x.webp", type="image/webp"), "image/webp"),
        (Upload(data=b"GIF89a" + bytes(102), name="x.gif", type="text/plain"), "image/gif"),
        (Upload(data=b"-" * 108, name="x", type="image/x-odd; a=b"), "image/x-odd"),
    ],
)
async def test_files_come_under_odd_names_and_types(rig: Rig, upload: Upload, kind: str) -> None:
    answer = await rig.submit(image=upload, channel=FIRST)
    assert (answer.status, answer.body["image"]) == (200, {"size": 108, "type": kind})


def multipart(*parts: bytes, boundary: bytes = b"XX", end: bytes = b"--XX--\r\n") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + end


MULTIPART = {"Content-Type": "multipart/form-data; boundary=XX"}
PROMPT = b'Content-Disposition: form-data; name="prompt"\r\n\r\na cat'


@pytest.mark.parametrize(
    "body",
    [
        multipart(PROMPT),
        multipart(b"Content-Disposition: form-data; name=prompt\r\n\r\na cat"),
        multipart(b'content-disposition: FORM-DATA; NAME="prompt"\r\n\r\na cat'),
        multipart(PROMPT + b"\r\n--XX\r\n" + PROMPT),
        multipart(b'Content-Disposition: form-data; name="image"; filename="x"\r\n\r\n' + PNG, PROMPT),
        multipart(b"X-Nameless: 1\r\n\r\nwho am I", PROMPT),
        multipart(b'Content-Type: text/plain; name="x"\r\n' + PROMPT),
        multipart(b'Content-Disposition: form-data; name="x"\r\n\r\n\r\n--XXL', PROMPT),
        b"--XX \t" + multipart(PROMPT).removeprefix(b"--XX"),
        b"a preamble\r\n" + multipart(PROMPT),
        multipart(PROMPT, end=b"--XX--"),
        multipart(PROMPT, end=b"--XX--\r\nan epilogue"),
    ],
)
async def test_unusual_but_readable_multipart_is_read(rig: Rig, body: bytes) -> None:
    answer = await rig.call("POST", "/create", data=body, headers=MULTIPART)
    assert (answer.status, answer.body.get("prompt")) == (200, "a cat")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data; boundary=XX", b""),
        ("multipart/form-data; boundary=XX", b"no boundary at all"),
        ("multipart/form-data; boundary=XX", b"--XX\r\nno headers end"),
        ("multipart/form-data; boundary=XX", b"--XX\r\nbad header\r\n\r\nx\r\n--XX--\r\n"),
        ("multipart/form-data; boundary=XX", multipart(PROMPT, end=b"")),
        ("multipart/form-data; boundary=XX", multipart(PROMPT, PROMPT.replace(b"prompt", b"font"), end=b"")),
        ("multipart/form-data; boundary=XX", b"--XX\r\n" * 3),
        (
            "multipart/form-data; boundary=XX",
            multipart(b"Content-Type: multipart/mixed; boundary=YY\r\n\r\n--YY\r\n\r\nx\r\n--YY--"),
        ),
        ("multipart/form-data; boundary=XX", multipart(PROMPT + b"\xff\xfe")),
        ("multipart/form-data; boundary=XX", multipart(*[PROMPT] * 201)),
        ("multipart/form-data", multipart(PROMPT)),
        ("multipart/form-data; boundary=XX", multipart(b"X: " + b"x" * 10_000 + b"\r\n" + PROMPT)),
        ("multipart/form-data; boundary=" + "X" * 71, multipart(PROMPT)),
        ("application/json", b'{"prompt": "a cat"}'),
        ("text/plain", b"a cat"),
        ("application/x-www-form-urlencoded", b"prompt=%ff"),
        ("application/x-www-form-urlencoded", b"\xff"),
        ("application/x-www-form-urlencoded", b"a=1&" * 300),
    ],
)
async def test_a_body_that_cannot_be_read_is_400_and_takes_nothing(
    rig: Rig, content_type: str, body: bytes
) -> None:
    answer = await rig.call("POST", "/create", data=body, headers={"Content-Type": content_type})
    assert (answer.status, answer.body["code"]) == (400, 400)
    assert rig.server.statistics().jobs == 0


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (b"Transfer-Encoding: chunked", b"5\r\nhello\r\nnonsense\r\n"),
        (b"Content-Encoding: gzip\r\nContent-Length: 8", b"nonsense"),
    ],
)
async def test_a_body_that_cannot_be_unpacked_is_400_and_not_an_error_here(
    rig: Rig, caplog: pytest.LogCaptureFixture, header: bytes, body: bytes
) -> None:
    raw = await rig.raw(
        b"POST /v1/pika/create HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer any\r\n"
        b"Content-Type: multipart/form-data; boundary=XX\r\n" + header + b"\r\n\r\n" + body
    )
    assert raw.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert json.loads(raw.partition(b"\r\n\r\n")[2])["code"] == 400
    assert caplog.records == []


CONTENT = st.binary(max_size=40) | st.sampled_from([b"\r\n", b"\r\n--", b"--", b"\r\n\r\n", b"-"])


@pytest.mark.deep
@examples(40, 200)
@given(
    files=st.dictionaries(st.sampled_from(["image", "message"]), CONTENT),
    file_name=st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20),
    texts=st.dictionaries(st.sampled_from(["prompt", "font", "name", "filename"]), st.text(max_size=30)),
)
def test_what_aiohttp_writes_is_read_as_it_was_meant(
    files: dict[str, bytes], file_name: str, texts: dict[str, str]
) -> None:
    data = form(**texts, **{name: Upload(content, file_name, None) for name, content in files.items()})
    payload = data()
    assert isinstance(payload, aiohttp.MultipartWriter)
    body = asyncio.run(payload.as_bytes())
    read = parse_multipart(body, payload.boundary, files)
    sizes = {name: value.size for name, value in read.items() if isinstance(value, ReceivedFile)}
    assert sizes == {name: len(content) for name, content in files.items() if content}
    assert {name: read[name] for name in read.keys() - sizes} == {
        n: text for n, text in texts.items() if text
    }


@pytest.mark.deep
@examples(40, 200)
@given(
    noise=st.binary(max_size=200),
    start=st.sampled_from([b"", b"--XX\r\n", b"--XX\r\n\r\n"]),
    end=st.sampled_from([b"", b"\r\n--XX--"]),
)
def test_any_body_is_either_read_or_refused(noise: bytes, start: bytes, end: bytes) -> None:
    with contextlib.suppress(Refusal):
        parse_multipart(start + noise + end, "XX", ["image"])


async def test_a_urlencoded_body_without_files_is_taken(rig: Rig) -> None:
    fields = {"prompt": "a cat & a dog", "channel": "", "maxJobs": "2"}
    answer = await rig.call("POST", "/create", data=fields)
    assert (answer.status, answer.body["prompt"]) == (200, "a cat & a dog")
    answer = await rig.call("POST", "/animate", data={"image": "not a file"})
    assert answer.body["error"] == "Required param image is missing or empty"


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("http://127.0.0.1:9", True),
        ("http://localhost:9?x=1", True),
        ("https://[::1]:9/hook#f", True),
        ("HTTP://LOCALHOST:9/", True),
        ("http://127.8.9.1/", True),
        ("http://example.com/", False),
        ("http://10.0.0.1:9/", False),
        ("http://169.254.169.254/latest", False),
        ("http://localhost.example.com/", False),
        ("http://127.0.0.1.example.com/", False),
        ("http://127.0.0.1@example.com/", False),
        ("http://example.com#@127.0.0.1/", False),
        ("http://127.0.0.1\\@example.com/", False),
        ("http://127.0.0.1\t.example.com/", False),
        ("http://0.0.0.0:9/", False),
        ("http://127.0.0.1.evil/", False),
        ("http://user:password@127.0.0.1/", False),
        ("http://[::ffff:10.0.0.1]/", False),
        ("http://[::ffff:127.0.0.1]/", False),
        ("http://0x7f000001/", False),
        ("http://0177.0.0.1/", False),
        ("http://017700000001/", False),
        ("http://127.0.0.1:0/", False),
        ("http://127.0.0.1:65536/", False),
        ("http://2130706433/", False),
        ("http://127.1/", False),
        ("//127.0.0.1/", False),
        ("ftp://127.0.0.1/", False),
        ("file:///etc/passwd", False),
        ("javascript:alert(1)", False),
        ("http://", False),
        ("http://[", False),
        ("nonsense", False),
    ],
)
async def test_a_reply_url_must_lead_to_this_machine(rig: Rig, url: str, *, good: bool) -> None:
    answer = await rig.submit(replyUrl=url)
    assert answer.status == (200 if good else 400)
    assert good or answer.body["error"].startswith("Param replyUrl must ")


async def test_remote_reply_urls_are_taken_where_that_is_asked_for() -> None:
    async with running(allow_remote_callbacks=True) as rig:
        assert (await rig.submit(replyUrl="https://example.com")).status == 200
        assert (await rig.submit(replyUrl="ftp://example.com/")).status == 400
