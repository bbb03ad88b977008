"""Malformed HTTP answers: a list by name, and any number of random ones.

Each is well-formed but for the fault in its name. It repeats tokens wherever a server could.
"""

import functools
import gzip
import json
import random
import zlib
from collections.abc import Callable, Iterator
from typing import Final, Literal

import attrs

from tests.leaks import STORED, TOKEN

When = Literal["at once", "after the head", "after the request"]
End = Literal["keep", "close", "reset"]

ECHO: Final = f"Bearer {TOKEN}".encode()
ROGUE: Final = b'{"jobid": "job:rogue", "status": "started", "rogue": {"maxJobs": 1}}'
"""The body of an unsolicited answer, which must never be accepted."""
REPEATS: Final = json.dumps(
    {
        "error": f"refused {TOKEN} and {STORED}",
        "errorDetails": TOKEN,
        "discord": STORED,
        "channel": TOKEN,
        "jobid": TOKEN,
        "status": f"as {TOKEN} says",
        "executingJobs": [TOKEN, STORED],
        "retryAfter": TOKEN,
        "code": TOKEN,
        TOKEN: {STORED: [TOKEN]},
    }
).encode()
"""A body that repeats tokens wherever it can."""


@attrs.frozen
class Bad:
    """A way to answer one request."""

    start: bytes = attrs.field(repr=lambda data: repr(data[:200]))
    """Sent first."""
    more: bytes = b""
    """Sent repeatedly after that, for as long as the client reads."""
    drip: bool = False
    """Whether `more` comes byte by byte."""
    late: bytes = b""
    """Sent on the same connection once the client has its answer."""
    when: When = "after the request"
    """When it begins."""
    end: End = "keep"
    """How the connection goes on: with `keep` the next request gets a good answer."""


def answer(
    body: bytes,
    *headers: bytes,
    status: bytes = b"HTTP/1.1 200 " + ECHO,
    length: bytes | None = b"",
    line_end: bytes = b"\r\n",
) -> bytes:
    """Return an answer; `length` stands for the true one, None leaves it out."""
    lines = [status, b"Content-Type: application/json", b"X-Echo: " + ECHO, *headers]
    if length is not None:
        lines.append(b"Content-Length: " + (length or b"%d" % len(body)))
    return line_end.join([*lines, b"", b""]) + body


def chunk(data: bytes, size: bytes | None = None, extension: bytes = b"", end: bytes = b"\r\n") -> bytes:
    """Return a chunk; `size` lies about its length."""
    return (b"%x" % len(data) if size is None else size) + extension + b"\r\n" + data + end


LAST: Final = b"0\r\n\r\n"
CHUNKED: Final = b"Transfer-Encoding: chunked"

STATUS_LINES: Final = {
    "no version": b"200 OK",
    "no version but a slash": b"HTTP/ 200 OK",
    "HTTP/0.9": b"HTTP/0.9 200 OK",
    "HTTP/1.0": b"HTTP/1.0 200 OK",
    "HTTP/9.9": b"HTTP/9.9 200 OK",
    "HTTP/2": b"HTTP/2 200 OK",
    "HTTP/1.10": b"HTTP/1.10 200 OK",
    "version of letters": b"HTTP/a.b 200 OK",
    "another protocol": b"ICY 200 OK",
    "lower case": b"http/1.1 200 OK",
    "no space": b"HTTP/1.1200 OK",
    "two spaces": b"HTTP/1.1  200 OK",
    "a tab": b"HTTP/1.1\t200\tOK",
    "leading space": b" HTTP/1.1 200 OK",
    "leading empty lines": b"\r\n\r\nHTTP/1.1 200 OK",
    "byte order mark": b"\xef\xbb\xbfHTTP/1.1 200 OK",
    "code 000": b"HTTP/1.1 000 " + ECHO,
    "code 0": b"HTTP/1.1 0 OK",
    "code 20": b"HTTP/1.1 20 OK",
    "code 99": b"HTTP/1.1 99 OK",
    "code 1000": b"HTTP/1.1 1000 OK",
    "code 2000": b"HTTP/1.1 2000 OK",
    "code -1": b"HTTP/1.1 -1 OK",
    "code +200": b"HTTP/1.1 +200 OK",
    "code 200.0": b"HTTP/1.1 200.0 OK",
    "code 0x0C8": b"HTTP/1.1 0xC8 OK",
    "code of letters": b"HTTP/1.1 abc OK",
    "code of Arabic digits": "HTTP/1.1 ٢٠٠ OK".encode(),
    "code missing": b"HTTP/1.1",
    "code missing after a space": b"HTTP/1.1 ",
    "code huge": b"HTTP/1.1 " + b"2" * 5000 + b" OK",
    "code 299": b"HTTP/1.1 299 OK",
    "code 600": b"HTTP/1.1 600 OK",
    "code 999": b"HTTP/1.1 999 " + ECHO,
    "reason missing": b"HTTP/1.1 200",
    "reason missing after a space": b"HTTP/1.1 200 ",
    "reason with control characters": b"HTTP/1.1 200 \x1b[31m\x07\x08",
    "reason with NUL": b"HTTP/1.1 200 O\0K",
    "reason with a bare CR": b"HTTP/1.1 200 O\rK",
    "reason with bytes": b"HTTP/1.1 200 \xff\xfe\x80",
    "reason of 100 kB": b"HTTP/1.1 200 " + b"y" * 100_000,
    "reason in an error with bytes": b"HTTP/1.1 500 \xff\x1b[2J",
}

HEADERS: Final = {
    "no colon": b"nonsense",
    "no name": b": x",
    "no value": b"X:",
    "name with a space": b"X Y: z",
    "name with a space before the colon": b"X : y",
    "name of bytes": b"\xff\xfe: y",
    "name with NUL": b"X\0Y: z",
    "name with a control character": b"X\x1bY: z",
    "value with NUL": b"X: a\0b",
    "value with ESC": b"X: \x1b[31mred",
    "value with a bare CR": b"X: a\rY: b",
    "value with a bare LF": b"X: a\nY: b",
    "value of bytes": b"X: \xff\xfe\x80",
    "value of UTF-8": "X: ü€🐈".encode(),
    "folded": b"X: a\r\n b",
    "folded with a tab": b"X: a\r\n\tb",
    "folded at the start": b" X: a",
    "folded length": b"Content-Type:\r\n application/json",
    "line of 100 kB": b"X: " + b"y" * 100_000,
    "name of 100 kB": b"X" * 100_000 + b": y",
    "1000 headers": b"\r\n".join(b"X-%d: y" % n for n in range(1000)),
    "two content types": b"Content-Type: text/html",
    "content type of nonsense": b"Content-Type: \xff;;==,",
    "content type with a charset of nonsense": b"Content-Type: application/json; charset=\xff\x00nonsense",
    "charset of UTF-7": b"Content-Type: application/json; charset=utf-7",
    "cookie": b"Set-Cookie: a=" + ECHO + b"; Domain=.; Path=/",
    "cookie of nonsense": b"Set-Cookie: \xff=;=;=\x80",
    "upgrade": b"Upgrade: h2c\r\nConnection: upgrade",
    "connection close": b"Connection: close",
    "connection of nonsense": b"Connection: \xff, , keep-alive, close, x",
    "keep-alive of nonsense": b"Keep-Alive: timeout=-1, max=abc",
    "location": b"Location: http://127.0.0.1:9/" + ECHO.replace(b" ", b"%20"),
    "location of nonsense": b"Location: http://[::1:x/\xff",
    "retry-after of nonsense": b"Retry-After: " + b"9" * 400,
    "retry-after, negative": b"Retry-After: -1",
    "retry-after as a date of nonsense": b"Retry-After: Mon, 99 Foo 99999 99:99:99 +9999",
    "link": b"Link: <" + ECHO + b">; rel=next; =; <",
    "authentication": b"WWW-Authenticate: Digest realm=" + ECHO,
    "trailer": b"Trailer: Content-Length",
    "transfer-encoding of nonsense": b"Transfer-Encoding: nonsense",
    "transfer-encoding identity": b"Transfer-Encoding: identity",
    "transfer-encoding gzip": b"Transfer-Encoding: gzip",
}

LENGTHS: Final = {
    "negative": b"-1",
    "minus zero": b"-0",
    "plus": b"+5",
    "hexadecimal": b"0x26",
    "of letters": b"abc",
    "with a point": b"38.0",
    "with an exponent": b"4e1",
    "with an underscore": b"3_8",
    "of Arabic digits": "٣٨".encode(),
    "with spaces": b"  38  ",
    "with a space within": b"3 8",
    "with a comma": b"38, 38",
    "with another behind a comma": b"38, 39",
    "empty": b" ",
    "with NUL": b"38\0",
    "2**31": b"2147483648",
    "2**63": b"9223372036854775808",
    "2**64 and a little": b"18446744073709551654",
    "of 100 digits": b"9" * 100,
    "of 5000 digits": b"9" * 5000,
    "with zeros in front": b"0" * 100 + b"38",
}

CHUNKS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "size of letters": lambda body: chunk(body, b"zz") + LAST,
    "size negative": lambda body: chunk(body, b"-5") + LAST,
    "size with a plus": lambda body: chunk(body, b"+26") + LAST,
    "size with 0x": lambda body: chunk(body, b"0x26") + LAST,
    "size with a space": lambda body: chunk(body, b"%x " % len(body)) + LAST,
    "size with a space in front": lambda body: chunk(body, b" %x" % len(body)) + LAST,
    "size empty": lambda body: chunk(body, b"") + LAST,
    "size with an underscore": lambda body: chunk(body, b"2_6") + LAST,
    "size of 2**64": lambda body: chunk(body, b"10000000000000000") + LAST,
    "size of 2**63": lambda body: chunk(body, b"8000000000000000") + LAST,
    "size of 2**64 and a little": lambda body: chunk(body, b"1%016x" % len(body)) + LAST,
    "size of 10,000 digits": lambda body: chunk(body, b"f" * 10_000) + LAST,
    "size of 100 zeros": lambda body: chunk(body, b"0" * 100 + b"%x" % len(body)) + LAST,
    "size too small": lambda body: chunk(body, b"5") + LAST,
    "size too large": lambda body: chunk(body, b"%x" % (len(body) + 7)) + LAST,
    "a chunk's end missing": lambda body: chunk(body, end=b"") + LAST,
    "a chunk's end a bare LF": lambda body: chunk(body, end=b"\n") + LAST,
    "a chunk's end something else": lambda body: chunk(body, end=b"xx") + LAST,
    "sizes ended by a bare LF": lambda body: b"%x\n" % len(body) + body + b"\n0\n\n",
    "an extension": lambda body: chunk(body, extension=b";a=b;c") + LAST,
    "an extension with quotes": lambda body: chunk(body, extension=b';a="b;\\"c') + LAST,
    "an extension of 100 kB": lambda body: chunk(body, extension=b";" + b"x" * 100_000) + LAST,
    "an extension with a bare LF": lambda body: chunk(body, extension=b";a\nb") + LAST,
    "trailers": lambda body: chunk(body) + b"0\r\nX-A: b\r\n\r\n",
    "a trailer that is a length": lambda body: chunk(body) + b"0\r\nContent-Length: 5\r\n\r\n",
    "a trailer without a colon": lambda body: chunk(body) + b"0\r\nnonsense\r\n\r\n",
    "trailers of 200 kB": lambda body: chunk(body) + b"0\r\n" + b"X: yyyyyyyy\r\n" * 15_000 + b"\r\n",
    "no last chunk": chunk,
    "only the last chunk": lambda body: LAST,
    "a byte each": lambda body: b"".join(chunk(bytes([byte])) for byte in body) + LAST,
    "two last chunks": lambda body: chunk(body) + LAST + LAST,
    "something after the last": lambda body: chunk(body) + LAST + body,
    "no chunks at all": lambda body: body,
}


def _deflated(data: bytes, wbits: int) -> bytes:
    packer = zlib.compressobj(9, wbits=wbits)
    return packer.compress(data) + packer.flush()


@functools.cache
def bomb(wbits: int = 31, megabytes: int = 8) -> bytes:
    """Return a list's begin and so many megabytes of spaces, compressed."""
    packer = zlib.compressobj(9, wbits=wbits)
    pieces = [packer.compress(b"[")] + [packer.compress(b" " * 2**20) for _ in range(megabytes)]
    return b"".join(pieces) + packer.flush()


ENCODINGS: Final[dict[str, tuple[bytes, Callable[[bytes], bytes]]]] = {
    "gzip of nothing": (b"gzip", lambda body: b""),
    "gzip of garbage": (b"gzip", lambda body: body),
    "gzip, cut": (b"gzip", lambda body: gzip.compress(body)[:-9]),
    "gzip, only its head": (b"gzip", lambda body: gzip.compress(body)[:10]),
    "gzip with a bad checksum": (b"gzip", lambda body: gzip.compress(body)[:-8] + b"\xff" * 8),
    "gzip and garbage behind it": (b"gzip", lambda body: gzip.compress(body) + b"garbage" * 10),
    "two gzips": (b"gzip", lambda body: gzip.compress(body[:5]) + gzip.compress(body[5:])),
    "gzip called x-gzip": (b"x-gzip", gzip.compress),
    "gzip in capitals": (b"GZIP", gzip.compress),
    "gzip called deflate": (b"deflate", gzip.compress),
    "deflate": (b"deflate", zlib.compress),
    "deflate without a head": (b"deflate", lambda body: _deflated(body, -15)),
    "deflate of garbage": (b"deflate", lambda body: b"\xff" * 50),
    "deflate, cut": (b"deflate", lambda body: zlib.compress(body)[:-7]),
    "brotli of garbage": (b"br", lambda body: body),
    "zstd of garbage": (b"zstd", lambda body: body),
    "zstd, its magic alone": (b"zstd", lambda body: b"\x28\xb5\x2f\xfd"),
    "an unknown encoding": (b"nonsense", lambda body: body),
    "an encoding of bytes": (b"\xff\xfe", lambda body: body),
    "an empty encoding": (b"", lambda body: body),
    "identity": (b"identity", lambda body: body),
    "gzip twice": (b"gzip, gzip", lambda body: gzip.compress(gzip.compress(body))),
    "gzip within deflate": (b"gzip, deflate", lambda body: zlib.compress(gzip.compress(body))),
    "gzip a hundred times": (b", ".join([b"gzip"] * 100), gzip.compress),
}

INTERIM: Final = b"HTTP/1.1 %d " + ECHO + b"\r\n\r\n"


def broken(body: bytes) -> Iterator[tuple[str, Bad]]:
    """Yield the answers by name; each would be good with this body if it had not the fault in its name."""
    yield "nothing wrong", Bad(answer(body))
    for name, line in STATUS_LINES.items():
        yield f"status line: {name}", Bad(answer(body, status=line))
    for name, header in HEADERS.items():
        yield f"header: {name}", Bad(answer(body, header))
    for name, length in LENGTHS.items():
        yield f"length {name}", Bad(answer(body, length=length.replace(b"38", b"%d" % len(body))))
    for name, chunks in CHUNKS.items():
        yield f"chunks: {name}", Bad(answer(chunks(body), CHUNKED, length=None))
    for name, (encoding, encode) in ENCODINGS.items():
        yield f"encoding: {name}", Bad(answer(encode(body), b"Content-Encoding: " + encoding))
    yield from _about_lengths(body)
    yield from _about_statuses(body)
    yield from _about_interim_answers(body)
    yield from _about_leftovers(body)
    yield from _endless(body)


def _about_lengths(body: bytes) -> Iterator[tuple[str, Bad]]:
    true = b"Content-Length: %d" % len(body)
    yield "length one too short", Bad(answer(body, length=b"%d" % (len(body) - 1)))
    yield "length one too long", Bad(answer(body, length=b"%d" % (len(body) + 1)))
    yield "length one too long, closed", Bad(answer(body, length=b"%d" % (len(body) + 1)), end="close")
    yield "length one too long, reset", Bad(answer(body, length=b"%d" % (len(body) + 1)), end="reset")
    yield "length one too long, silent", Bad(answer(body, length=b"%d" % (len(body) + 1)))
    yield "length of zero", Bad(answer(body, length=b"0"))
    yield "length twice", Bad(answer(body, true))
    yield "length twice, differing", Bad(answer(body, b"Content-Length: 5"))
    yield "length and chunks", Bad(answer(chunk(body) + LAST, CHUNKED))
    yield "length behind chunks", Bad(answer(chunk(body) + LAST, CHUNKED, true, length=None))
    yield "length with chunks that are none", Bad(answer(body, CHUNKED))
    yield "length and chunks of identity", Bad(answer(body, b"Transfer-Encoding: chunked, identity"))
    yield "chunked twice", Bad(answer(chunk(body) + LAST, CHUNKED, CHUNKED, length=None))
    yield "chunked, gzip", Bad(answer(chunk(body), b"Transfer-Encoding: gzip, chunked", length=None))
    yield (
        "chunked spelt oddly",
        Bad(answer(chunk(body) + LAST, b"Transfer-Encoding: \tchUNked,", length=None)),
    )
    yield "no length", Bad(answer(body, length=None), end="close")
    yield "no length, reset", Bad(answer(body, length=None), end="reset")
    yield "no length, silent", Bad(answer(body, length=None))
    yield "no chunk, silent", Bad(answer(b"", CHUNKED, length=None))
    yield "no last chunk, closed", Bad(answer(chunk(body), CHUNKED, length=None), end="close")
    yield "bare line feeds", Bad(answer(body, line_end=b"\n"))
    yield "bare carriage returns", Bad(answer(body, line_end=b"\r"), end="close")
    yield "no headers", Bad(b"HTTP/1.1 200 OK\r\n\r\n" + body, end="close")
    yield "no head", Bad(body, end="close")
    yield "nothing", Bad(b"", end="close")
    yield "nothing, reset", Bad(b"", end="reset")
    yield "nothing, silent", Bad(b"")
    yield "TLS", Bad(b"\x16\x03\x03\x00\x02\x02\x28", end="close")
    yield "SMTP", Bad(b"220 mail.example ESMTP\r\n")
    yield "HTTP/2", Bad(b"\0\0\x12\x04\0\0\0\0\0" + b"\0\x03\0\0\0\x64" * 3)


def _about_statuses(body: bytes) -> Iterator[tuple[str, Bad]]:
    for code in (301, 302, 303, 305, 307, 308):
        status = b"HTTP/1.1 %d " % code + ECHO
        yield f"redirect {code}", Bad(answer(body, b"Location: /elsewhere", status=status))
        yield f"redirect {code} to nowhere", Bad(answer(body, status=status))
    for code in (200, 307, 400, 401, 402, 404, 418, 422, 429, 500, 504, 596):
        status = b"HTTP/1.1 %d X" % code
        yield f"{code} that repeats tokens", Bad(answer(REPEATS, status=status))
        yield f"{code} that repeats tokens, cut", Bad(answer(REPEATS[:-9], status=status))
    for code in (204, 205, 304):
        status = b"HTTP/1.1 %d X" % code
        yield f"{code} with a body", Bad(answer(body, status=status))
        yield f"{code} with chunks", Bad(answer(chunk(body) + LAST, CHUNKED, status=status, length=None))
        yield f"{code} with a length alone", Bad(answer(b"", status=status, length=b"50"))
    for code in (201, 202, 206, 226):
        yield f"{code}", Bad(answer(body, b"Content-Range: bytes 0-1/9", status=b"HTTP/1.1 %d X" % code))
    for code in (408, 417, 421, 425, 431, 511, 599):
        yield f"{code}, closed", Bad(answer(body, status=b"HTTP/1.1 %d X" % code), end="close")
    for code in (401, 429, 500, 504):
        status = b"HTTP/1.1 %d X" % code
        yield f"{code} with a body that is cut", Bad(answer(body, status=status, length=b"999"), end="close")
        yield f"{code} with a body that stalls", Bad(answer(body, status=status, length=b"999"))
        yield f"{code} at once", Bad(answer(body, status=status), when="at once", end="close")
        yield f"{code} in the request", Bad(answer(body, status=status), when="after the head", end="close")
    yield "200 at once", Bad(answer(body), when="at once")
    yield "200 in the request", Bad(answer(body), when="after the head")
    yield "closed at once", Bad(b"", when="at once", end="close")
    yield "reset at once", Bad(b"", when="at once", end="reset")
    yield "closed in the request", Bad(b"", when="after the head", end="close")
    yield "reset in the request", Bad(b"", when="after the head", end="reset")


def _about_interim_answers(body: bytes) -> Iterator[tuple[str, Bad]]:
    good = answer(body)
    for code in (100, 102, 103, 199):
        yield f"{code} first", Bad(INTERIM % code + good)
        yield f"{code} twenty times", Bad(INTERIM % code * 20 + good)
        yield f"{code} alone", Bad(INTERIM % code)
        yield f"{code} and the end", Bad(INTERIM % code, end="close")
        yield f"{code} with a length", Bad(answer(body, status=b"HTTP/1.1 %d X" % code) + good)
    yield "100 before the request", Bad(INTERIM % 100 + good, when="at once")
    yield "103 with headers", Bad(b"HTTP/1.1 103 X\r\nLink: </a>\r\nX: " + ECHO + b"\r\n\r\n" + good)
    yield "101 without an upgrade", Bad(answer(body, status=b"HTTP/1.1 101 X"))
    for end in ("keep", "close"):
        head = b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
        yield f"101, then {end}", Bad(head + good, end=end)


def _about_leftovers(body: bytes) -> Iterator[tuple[str, Bad]]:
    rogue = answer(ROGUE)
    for name, extra in {
        "an answer": rogue,
        "ten answers": rogue * 10,
        "half an answer": rogue[:-20],
        "half a head": rogue[:30],
        "a byte": b"H",
        "an interim answer": INTERIM % 100,
        "an empty line": b"\r\n",
        "NULs": bytes(100),
        "rubbish": b"rubbish\r\n\r\n",
        "an answer in chunks": answer(chunk(ROGUE) + LAST, CHUNKED, length=None),
        "an answer without a length": answer(ROGUE, length=None),
        "an upgrade": b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + rogue,
    }.items():
        yield f"{name} behind the answer", Bad(answer(body) + extra)
        yield f"{name} some time after the answer", Bad(answer(body), late=extra)
    yield "an answer behind chunks", Bad(answer(chunk(body) + LAST, CHUNKED, length=None) + rogue)
    yield "an answer behind a 204", Bad(answer(b"", status=b"HTTP/1.1 204 X", length=None) + rogue)
    yield "an answer in a header", Bad(answer(body, b"X: y\r\n\r\n" + rogue))


def _endless(body: bytes) -> Iterator[tuple[str, Bad]]:
    head = b"HTTP/1.1 200 OK\r\n"
    for drip in (False, True):
        how = "dripping" if drip else "endless"
        yield f"{how} body", Bad(answer(body, length=None), b" " * 10_000, drip=drip)
        yield f"{how} body of a large length", Bad(answer(body, length=b"60000"), b" " * 100, drip=drip)
        yield f"{how} chunks", Bad(answer(chunk(body), CHUNKED, length=None), b"1\r\n \r\n" * 999, drip=drip)
        yield f"{how} chunk size", Bad(answer(b"", CHUNKED, length=None), b"0" * 1000, drip=drip)
        yield f"{how} trailers", Bad(answer(b"0\r\n", CHUNKED, length=None), b"X: y\r\n" * 999, drip=drip)
        yield f"{how} headers", Bad(head, b"X: yyyyyyyyyyyyyy\r\n" * 999, drip=drip)
        yield f"{how} header", Bad(head + b"X: ", b"y" * 9999, drip=drip)
        yield f"{how} reason", Bad(b"HTTP/1.1 200 ", b"y" * 9999, drip=drip)
        yield f"{how} interim answers", Bad(b"", (INTERIM % 100) * 99, drip=drip)
        yield (
            f"{how} interim answers with headers",
            Bad(b"", answer(b"", status=b"HTTP/1.1 103 X"), drip=drip),
        )
        yield f"{how} empty lines", Bad(b"", b"\r\n" * 999, drip=drip)
        yield (
            f"{how} upgrade",
            Bad(b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", bytes(9999), drip=drip),
        )
        yield f"{how} answers", Bad(answer(body), answer(ROGUE), drip=drip)
        yield (
            f"{how} body of an error",
            Bad(answer(body, status=b"HTTP/1.1 500 X", length=None), b" " * 9999, drip=drip),
        )
        yield (
            f"{how} body of a redirect",
            Bad(answer(body, status=b"HTTP/1.1 307 X", length=None), b" " * 9999, drip=drip),
        )
    packer = zlib.compressobj(9, wbits=31)
    start = packer.compress(b"[") + packer.flush(zlib.Z_FULL_FLUSH)
    more = packer.compress(b" " * 2**20) + packer.flush(zlib.Z_FULL_FLUSH)
    yield "endless gzip", Bad(answer(start, b"Content-Encoding: gzip", length=None), more)
    for name, wbits in {"gzip": 31, "deflate": 15}.items():
        field = b"Content-Encoding: " + name.encode()
        yield f"bomb of {name}", Bad(answer(bomb(wbits), field))
        yield f"bomb of {name} in chunks", Bad(answer(chunk(bomb(wbits)) + LAST, CHUNKED, field, length=None))
        yield f"bomb of {name} in an error", Bad(answer(bomb(wbits), field, status=b"HTTP/1.1 500 X"))
    twice = _deflated(bomb(), 31)
    yield "bomb within a bomb", Bad(answer(twice, b"Content-Encoding: gzip, gzip"))
    yield "many bombs", Bad(answer(bomb(megabytes=1) * 20, b"Content-Encoding: gzip"))


def cuts(body: bytes) -> Iterator[tuple[str, Bad]]:
    """Yield a good answer that is cut short behind every byte, by an end and by a reset."""
    whole = answer(body, status=b"HTTP/1.1 200 OK")
    whole = whole.replace(b"X-Echo: " + ECHO + b"\r\n", b"")
    for place in range(len(whole)):
        yield f"cut at {place}", Bad(whole[:place], end="close")
        yield f"reset at {place}", Bad(whole[:place], end="reset")
    packed = answer(gzip.compress(body), b"Content-Encoding: gzip")
    for place in range(len(packed) - len(gzip.compress(body)), len(packed)):
        yield f"gzip cut at {place}", Bad(packed[:place], end="close")
    parts = answer(chunk(body[:9]) + chunk(body[9:]) + LAST, CHUNKED, length=None)
    for place in range(parts.index(b"\r\n\r\n"), len(parts)):
        yield f"chunks cut at {place}", Bad(parts[:place], end="close")


# --- by chance -----------------------------------------------------------------------------------------

_SPICE: Final = (
    b"\r\n", b"\n", b"\r", b"\0", b"\xff", b":", b'"', b" ", b"\t", b";", b",", b"-", b"\x1b[31m",
    b"chunked", b"9" * 30, b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"{", b"[", b"\\", b"0\r\n\r\n",
)  # fmt: skip
_CODES: Final = (
    100, 101, 103, 200, 200, 200, 200, 201, 204, 302, 304, 307, 400, 401, 404, 422, 429, 500, 504, 596,
)  # fmt: skip


def by_chance(rng: random.Random, body: bytes) -> Bad:
    """Return an answer in which several things are odd at once."""
    if rng.random() < 0.2:
        return Bad(
            spoilt(rng, rng.choice([bad for _, bad in broken(body) if not bad.more]).start), end=_end(rng)
        )
    headers: list[bytes] = rng.choices(list(HEADERS.values()), k=rng.choice((0, 0, 1, 1, 2, 5)))
    length: bytes | None = b""
    if rng.random() < 0.3:
        encoding, encode = rng.choice(list(ENCODINGS.values()))
        body = encode(body)
        headers.append(b"Content-Encoding: " + encoding)
    framing = rng.random()
    if framing < 0.25:
        body, length = rng.choice(list(CHUNKS.values()))(body), None
        headers.append(CHUNKED)
    elif framing < 0.4:
        length = rng.choice([None, b"5", b"99", *LENGTHS.values()])
    status = b"HTTP/1.1 %d " % rng.choice(_CODES) + ECHO
    if rng.random() < 0.1:
        status = rng.choice(list(STATUS_LINES.values()))
    rng.shuffle(headers)
    start = answer(body, *headers, status=status, length=length, line_end=rng.choice([b"\r\n"] * 9 + [b"\n"]))
    if rng.random() < 0.1:
        start = INTERIM % rng.choice([100, 102, 103]) * rng.randint(1, 3) + start
    if rng.random() < 0.4:
        start = spoilt(rng, start)
    if rng.random() < 0.2:
        start = start[: rng.randrange(len(start))]
    if rng.random() < 0.1:
        start += rng.choice([answer(ROGUE), rng.randbytes(20), b"\r\n"])
    late = rng.choice([answer(ROGUE), answer(ROGUE)[:50], b"x"]) if rng.random() < 0.1 else b""
    when: When = rng.choices(("after the request", "after the head", "at once"), (18, 1, 1))[0]
    return Bad(start, late=late, when=when, end=_end(rng))


def _end(rng: random.Random) -> End:
    ends: tuple[End, ...] = ("keep", "close", "reset")
    return rng.choices(ends, (6, 3, 1))[0]


def spoilt(rng: random.Random, data: bytes) -> bytes:
    """Return bytes of which a few are others, more, or gone."""
    spoilt = bytearray(data)
    for _ in range(rng.randint(1, 5)):
        place = rng.randrange(len(spoilt) + 1)
        spoilt[place : place + rng.randint(0, 4)] = rng.choice([b"", rng.randbytes(3), rng.choice(_SPICE)])
    return bytes(spoilt)
