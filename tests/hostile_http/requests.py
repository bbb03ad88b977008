"""Malformed HTTP requests: a list by name, and any number of random ones."""

import gzip
import random
from collections.abc import Iterator
from typing import Final

import attrs

from tests.hostile_http.answers import CHUNKED, CHUNKS, ENCODINGS, HEADERS, LAST, LENGTHS, bomb, chunk, spoilt

INJECTED: Final = b"X-Injected: yes"
"""A header that no answer may have."""


@attrs.frozen
class Raw:
    """What a client sends on one connection."""

    start: bytes = attrs.field(repr=lambda data: repr(data[:200]))
    """Sent first."""
    more: bytes = b""
    """Sent repeatedly after that, for as long as the server reads."""
    drip: bool = False
    """Whether `more` comes byte by byte."""
    reset: bool = False
    """Whether the connection is cut without waiting for an answer."""


@attrs.frozen
class Ask:
    """A well-formed request, from which malformed ones are made."""

    method: bytes
    path: bytes
    headers: tuple[bytes, ...] = ()
    body: bytes = b""
    host: bytes = b"localhost"

    def raw(
        self,
        *headers: bytes,
        line: bytes | None = None,
        host: bytes | None = b"",
        length: bytes | None = b"",
        line_end: bytes = b"\r\n",
    ) -> bytes:
        """Return the request with more headers; empty, `length` and `host` are the true ones, None: none."""
        lines = [line or self.method + b" " + self.path + b" HTTP/1.1"]
        if host is not None:
            lines.append(b"Host: " + (host or self.host))
        lines += [*self.headers, *headers]
        if length is not None:
            lines.append(b"Content-Length: " + (length or b"%d" % len(self.body)))
        return line_end.join([*lines, b"", b""]) + self.body

    def with_body(self, body: bytes) -> "Ask":
        """Return the same with another body."""
        return attrs.evolve(self, body=body)


METHODS: Final = (
    b"HEAD", b"OPTIONS", b"TRACE", b"CONNECT", b"PUT", b"PATCH", b"DELETE", b"GET", b"POST", b"BREW",
    b"PROPFIND", b"get", b"G\xffT", b"G T", b"GET\t", b"", b"X" * 20_000, b"\x00", b"GET\x1b[2J",
)  # fmt: skip
VERSIONS: Final = (
    b"", b" HTTP/0.9", b" HTTP/1.0", b" HTTP/1.2", b" HTTP/2.0", b" HTTP/9.9", b" HTTP/1", b" HTTP/1.1.1",
    b" http/1.1", b" HTTP/-1.1", b" HTTPS/1.1", b" RTSP/1.0", b"  HTTP/1.1", b" HTTP/1.1 HTTP/1.1",
    b" HTTP/\xff.1",
)  # fmt: skip
TARGETS: Final = (
    b"", b"*", b"/", b"//", b"///evil.example/", b"/..", b"/../../../../etc/passwd", b"/./././",
    b"\\..\\..\\", b"/%2e%2e%2f%2e%2e%2fetc%2fpasswd", b"/%252e%252e/", b"/%00", b"/a%00b",
    b"/%0d%0aX-Injected:%20yes", b"/%", b"/%zz", b"/%e2%82", b"/%ff%fe", b"/%ed%a0%80", b"/%u0041",
    b"/\xff\xfe", "/ü€🐈".encode(), b"/\x7f", b"/\x1b[31m", b"/a b", b"/a\tb", b"/a\0b", b"/#fragment",
    b"/?", b"/??&&==", b"/?a" * 500, b"/;a=b;c", b"/" + b"x" * 100_000, b"http://evil.example/",
    b"http://localhost/", b"http://user:pw@localhost:1/", b"http://[::1/", b"http://\xff/",
    b"https://localhost", b"ftp://localhost/", b"file:///etc/passwd", b"javascript:alert(1)",
    b"localhost:80", b":", b"http://", b"http://:99999/", b"http://localhost:abc/",
    b"//localhost:99999999999/", b"/" * 5000, b"/%2f" * 900,
)  # fmt: skip
HOSTS: Final = (
    b" ", b"evil.example", b"localhost.evil.example", b"localhost@evil.example", b"evil.example#localhost",
    b"localhost:", b"localhost:abc", b"localhost:99999999", b"localhost:-1", b"localhost, evil.example",
    b"[::1", b"[::1]evil.example", b"[::ffff:127.0.0.1]", b"::1", b"127.0.0.1.", b"127.1", b"0x7f.0.0.1",
    b"2130706433", b"0", b"0.0.0.0", b"LOCALHOST", b"localhost\x00", b"\xff\xfe", b"..", b"-",
    b"x" * 50_000, b"[" * 500, b"%6cocalhost", "ｌocalhost".encode(), b"localhost/../", b"http://localhost",
    b"localhost localhost", b"\t", b"*",
)  # fmt: skip
EXPECTATIONS: Final = (
    b"", b"100-continue, 100-continue", b"200-ok", b"100-CONTINUE", b"\xff", b"x" * 5000,
)  # fmt: skip
TYPES: Final = (
    b"", b"text/html", b"application/xml", b"\xff", b"multipart/form-data",
    b"multipart/form-data; boundary=", b'multipart/form-data; boundary=""',
    b"multipart/form-data; boundary=" + b"x" * 5000, b"multipart/mixed; boundary=XX",
    b'multipart/form-data; boundary="X', b"multipart/form-data; boundary=(.*)+$",
    b"multipart/form-data; boundary=\xff\xfe", b"multipart/form-data; boundary=XX; boundary=YY",
    b"application/x-www-form-urlencoded; charset=utf-16", b"application/json; charset=nonsense",
    b"application/json; charset=utf-16", b"a" * 5000, b";;;=", b"*/*",
)  # fmt: skip
PREFACES: Final = {
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "TLS": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(64),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "SOCKS 4": b"\x04\x01\0\x50\x7f\0\0\x01\0",
    "SOCKS 5": b"\x05\x01\0",
    "PROXY": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
    "PROXY 2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12),
    "SMTP": b"EHLO x\r\nMAIL FROM:<a@b>\r\n",
    "Redis": b"*1\r\n$4\r\nPING\r\n",
    "FastCGI": b"\x01\x01\0\x01\0\x08\0\0\0\x01\0\0\0\0\0\0",
    "NULs": bytes(5000),
    "0xff": b"\xff" * 5000,
    "empty lines": b"\r\n" * 5000,
    "line feeds": b"\n" * 5000,
    "a line without an end": b"x" * 200_000,
    "spaces": b" " * 20_000,
    "nothing": b"",
    "a byte": b"G",
    "HTTP/0.9": b"GET /\r\n",
    "an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
}


def broken(ask: Ask) -> Iterator[tuple[str, Raw]]:
    """Yield the requests by name; each would be good if it had not the fault in its name."""
    yield "nothing wrong", Raw(ask.raw())
    for name, data in PREFACES.items():
        yield f"no request but {name}", Raw(data)
        yield f"{name} before a request", Raw(data + ask.raw())
    yield from _odd_lines(ask)
    yield from _odd_heads(ask)
    for name, length in LENGTHS.items():
        yield f"length {name}", Raw(ask.raw(length=length.replace(b"38", b"%d" % len(ask.body))))
    for name, chunks in CHUNKS.items():
        yield f"chunks: {name}", Raw(ask.with_body(chunks(ask.body)).raw(CHUNKED, length=None))
    for name, (encoding, encode) in ENCODINGS.items():
        yield f"encoding: {name}", Raw(ask.with_body(encode(ask.body)).raw(b"Content-Encoding: " + encoding))
    yield from _odd_bodies(ask)
    yield from _several(ask)
    yield from _slow(ask)


def _odd_lines(ask: Ask) -> Iterator[tuple[str, Raw]]:
    for method in METHODS:
        yield f"method {method!r:.40}", Raw(ask.raw(line=method + b" " + ask.path + b" HTTP/1.1"))
    for version in VERSIONS:
        yield f"version {version!r}", Raw(ask.raw(line=ask.method + b" " + ask.path + version))
    base = ask.path.rpartition(b"/")[0]
    for target in TARGETS:
        yield f"target {target!r:.60}", Raw(ask.raw(line=ask.method + b" " + target + b" HTTP/1.1"))
        below = ask.method + b" " + base + b"/" + target.lstrip(b"/") + b" HTTP/1.1"
        yield f"target below the base {target!r:.60}", Raw(ask.raw(line=below))


def _odd_heads(ask: Ask) -> Iterator[tuple[str, Raw]]:
    for host in HOSTS:
        yield f"host {host!r:.40}", Raw(ask.raw(host=host))
    yield "no host", Raw(ask.raw(host=None))
    yield "two hosts", Raw(ask.raw(b"Host: localhost"))
    yield "two hosts, differing", Raw(ask.raw(b"Host: evil.example"))
    nowhere = attrs.evolve(ask, path=b"/no/where")
    for expectation in EXPECTATIONS:
        yield f"expectation {expectation!r:.40}", Raw(ask.raw(b"Expect: " + expectation))
        yield f"expectation nowhere {expectation!r:.40}", Raw(nowhere.raw(b"Expect: " + expectation))
    bare = attrs.evolve(ask, headers=tuple(h for h in ask.headers if not h.startswith(b"Content-Type")))
    for kind in TYPES:
        yield f"type {kind!r:.60}", Raw(bare.raw(b"Content-Type: " + kind))
        yield f"another type {kind!r:.60}", Raw(ask.raw(b"Content-Type: " + kind))
    for name, header in HEADERS.items():
        yield f"header: {name}", Raw(ask.raw(header))


def _odd_bodies(ask: Ask) -> Iterator[tuple[str, Raw]]:
    true = b"Content-Length: %d" % len(ask.body)
    chunked = ask.with_body(chunk(ask.body) + LAST)
    for difference in (-1, 1, 1000):
        yield f"length off by {difference}", Raw(ask.raw(length=b"%d" % (len(ask.body) + difference)))
    yield "length twice", Raw(ask.raw(true))
    yield "length twice, differing", Raw(ask.raw(b"Content-Length: 5"))
    yield "length and chunks", Raw(chunked.raw(CHUNKED))
    yield "length behind chunks", Raw(chunked.raw(CHUNKED, true, length=None))
    yield "length with chunks that are none", Raw(ask.raw(CHUNKED))
    yield "chunked twice", Raw(chunked.raw(CHUNKED, CHUNKED, length=None))
    yield "chunked, identity", Raw(chunked.raw(b"Transfer-Encoding: chunked, identity", length=None))
    yield "gzip, chunked", Raw(chunked.raw(b"Transfer-Encoding: gzip, chunked", length=None))
    yield "xchunked", Raw(chunked.raw(b"Transfer-Encoding: xchunked", length=None))
    yield "chunked behind a vertical tab", Raw(chunked.raw(b"Transfer-Encoding: \x0bchunked", length=None))
    yield "no length", Raw(ask.raw(length=None))
    yield "bare line feeds", Raw(ask.raw(line_end=b"\n"))
    yield "bare carriage returns", Raw(ask.raw(line_end=b"\r"))
    for size in (99_999, 100_001, 1_000_000):
        yield f"{size} spaces", Raw(ask.with_body(b" " * size).raw())
        yield f"{size} more", Raw(ask.with_body(ask.body + b"x" * size).raw())
        yield f"{size} announced alone", Raw(ask.with_body(b"").raw(length=b"%d" % size))
        yield f"{size} in chunks", Raw(ask.with_body(chunk(b"x" * size) + LAST).raw(CHUNKED, length=None))
    for name, wbits in {"gzip": 31, "deflate": 15}.items():
        yield f"bomb of {name}", Raw(ask.with_body(bomb(wbits)).raw(b"Content-Encoding: " + name.encode()))
    yield "bomb within a bomb", Raw(ask.with_body(gzip.compress(bomb())).raw(b"Content-Encoding: gzip, gzip"))
    yield "100,000 bytes, one a chunk", Raw(ask.with_body(chunk(b"x") * 100_000).raw(CHUNKED, length=None))


def _several(ask: Ask) -> Iterator[tuple[str, Raw]]:
    good, head = ask.raw(), b"GET / HTTP/1.1\r\nHost: localhost\r\n"
    yield "two at once", Raw(good * 2)
    yield "fifty at once", Raw(good * 50)
    yield "one and rubbish", Raw(good + b"rubbish\r\n\r\n")
    yield "rubbish and one", Raw(b"rubbish\r\n\r\n" + good)
    yield "one and half of one", Raw(good + good[: len(good) // 2])
    yield "closed, and one more", Raw(ask.raw(b"Connection: close") + good)
    yield (
        "an upgrade to a websocket",
        Raw(head + b"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Key: x\r\n\r\n" + bytes(99)),
    )
    yield (
        "an upgrade to HTTP/2",
        Raw(ask.raw(b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AA") + good),
    )
    yield "an upgrade and rubbish", Raw(ask.raw(b"Upgrade: x", b"Connection: upgrade") + b"\xff" * 200_000)
    yield "one hidden in a body", Raw(ask.with_body(good).raw())
    yield "one hidden behind a length of zero", Raw(ask.with_body(good).raw(length=b"0"))
    for place in range(0, len(good), 5):
        yield f"cut at {place}", Raw(good[:place])
        yield f"reset at {place}", Raw(good[:place], reset=True)


def _slow(ask: Ask) -> Iterator[tuple[str, Raw]]:
    line = ask.method + b" " + ask.path
    head = line + b" HTTP/1.1\r\nHost: localhost\r\n"
    started = ask.with_body(b"")
    for drip in (False, True):
        how = "dripping" if drip else "endless"
        yield f"{how} method", Raw(b"", b"X" * 999, drip=drip)
        yield f"{how} target", Raw(line, b"x" * 999, drip=drip)
        yield f"{how} header", Raw(head + b"X: ", b"y" * 999, drip=drip)
        yield f"{how} headers", Raw(head, b"X: yyyyyyyyyyyyyyy\r\n" * 99, drip=drip)
        yield f"{how} body", Raw(started.raw(length=b"99999"), b" ", drip=drip)
        yield f"{how} body of a huge length", Raw(started.raw(length=b"9" * 12), b" " * 9999, drip=drip)
        yield f"{how} chunks", Raw(started.raw(CHUNKED, length=None), b"1\r\n \r\n" * 99, drip=drip)
        yield f"{how} chunk size", Raw(started.raw(CHUNKED, length=None), b"0" * 99, drip=drip)
        yield (
            f"{how} trailers",
            Raw(ask.with_body(b"0\r\n").raw(CHUNKED, length=None), b"X: y\r\n" * 99, drip=drip),
        )
        yield f"{how} requests", Raw(b"", ask.raw(), drip=drip)
        yield f"{how} empty lines", Raw(b"", b"\r\n" * 99, drip=drip)


def by_chance(rng: random.Random, ask: Ask) -> Raw:
    """Return a request in which several things are odd at once."""
    if rng.random() < 0.2:
        named = rng.choice([raw for _, raw in broken(ask) if not raw.more and len(raw.start) < 50_000])
        return Raw(spoilt(rng, named.start), reset=rng.random() < 0.1)
    headers = rng.choices(list(HEADERS.values()), k=rng.choice((0, 0, 1, 2, 5)))
    length: bytes | None = b""
    if rng.random() < 0.2:
        encoding, encode = rng.choice(list(ENCODINGS.values()))
        ask = ask.with_body(encode(ask.body))
        headers.append(b"Content-Encoding: " + encoding)
    framing = rng.random()
    if framing < 0.3:
        ask, length = ask.with_body(rng.choice(list(CHUNKS.values()))(ask.body)), None
        headers.append(CHUNKED)
    elif framing < 0.4:
        length = rng.choice([None, b"5", b"999", *LENGTHS.values()])
    if rng.random() < 0.2:
        headers.append(b"Content-Type: " + rng.choice(TYPES))
    if rng.random() < 0.1:
        headers.append(b"Expect: " + rng.choice(EXPECTATIONS))
    line = None
    if rng.random() < 0.2:
        method = rng.choice([ask.method] * 9 + list(METHODS))
        line = (
            method
            + b" "
            + rng.choice([ask.path, *TARGETS])
            + rng.choice([b" HTTP/1.1"] * 30 + list(VERSIONS))
        )
    host = rng.choice(HOSTS) if rng.random() < 0.1 else b""
    rng.shuffle(headers)
    start = ask.raw(
        *headers, line=line, host=host, length=length, line_end=rng.choice([b"\r\n"] * 9 + [b"\n"])
    )
    if rng.random() < 0.5:
        start = spoilt(rng, start)
    if rng.random() < 0.2:
        start = start[: rng.randrange(len(start))]
    return Raw(start * rng.choice([1, 1, 1, 1, 2, 5]), reset=rng.random() < 0.05)
