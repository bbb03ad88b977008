"""Good input for each target, the bad input made from it, and cases that failed once."""

import importlib
import io
import json
import random
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tests.fuzz.corpus import MEGABYTE, NAUGHTY, bad_texts, bad_trees, samples, sprinkled

_FORMS: Final = (
    "5x6", "6,6,4", "3x6,4@0.5", "poisson:500/h", "regular:8/min", "bursty:500/h,cv=3",
    "onoff:busy_rate=900/h,busy=10min,quiet=30min,quiet_rate=1/h", "daily:" + ",".join(["5"] * 24),
    "exp:180s", "fixed:500ms", "lognormal:mean=180s,cv=0.7", "gamma:mean=180s,cv=0.7",
    "weibull:mean=180s,shape=0.8", "loss", "queue", "queue:limit=50,patience=gamma:mean=9s,cv=2",
    "retry:15s,80,jitter=20%,exponential", "refused<1%", "wait.p95<120s", "p95 wait < 2min",
    "utilisation<85%", "above=3,each=20%", "rate_limited=1%,accepted=0.5%,retry_after=15s",
    "mean_up=20h,mean_down=30min",
    "uniform:10s,60s", "429:0.1:15s", "drop-accepted:0.02",
)  # fmt: skip
_UNITS: Final = (
    "180s",
    "500 ms",
    "1.5h",
    "8/min",
    "0.14 per s",
    "1%",
    "0.01",
    "1e6",
    "100_000",
    "1,000",
    "80k",
)
_RECORD: Final[dict[str, Any]] = {
    "version": 1, "verb": "create", "reply_ref": "worker-1.7", "jobid": "job:1", "channel": "55",
    "status": "progress",
}  # fmt: skip
_JOB_LINES: Final = (
    b'{"prompt": "a dog", "id": "dog", "channel": "55"}\n'
    b'{"verb": "encrypt_text", "message": "hi", "prompt": "x", "font": "RETRO"}\n'
    b'\n{"verb": "button", "jobid": "job:1", "id": 7}\n'
)
_JOB_CSV: Final = b'id,prompt,verb,jobid,channel\nfox,"a fox, in\nthe snow",,,55\n,,button,job:1,\n'
_JOURNAL: Final = (
    b'{"journal": 1, "file": "jobs.csv", "digest": "d"}\n'
    b'{"job": "k.1", "state": "sending", "line": 2, "id": "fox", "verb": "create", "ref": "r"}\n'
    b'{"job": "k.1", "state": "saved", "jobid": "j", "status": "completed", "urls": ["u"], "files": ["f"]}\n'
)
_TRACES: Final = (
    b"submitted_at,took_ms,who\n2024-01-15T02:14:40.711Z,180000,a\n2024-01-15T02:14:41Z,1,b\n",
    b"0.5\n1.5\n2.25\n",
    b"ts;took\n1705284900123;3\n1705284900999;4\n",
    b'"Created At"|"duration (min)"\n10|2\n3|0.5\n',
)
_REQUEST: Final = (
    b"ss prompt\n\xf0\x9f\xa6\x8a channel\nau file bytes image/png and so on\nns 777\n",
    b"\n\n\n\n",
    b"a cat\nhttp://127.0.0.1:8080/v1/pika\n../..\n",
)


def _parquet() -> list[bytes]:
    """Return a Parquet table of jobs for each layout; none without pyarrow."""
    try:
        pa, pq = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
    except ImportError:
        return []
    written: list[bytes] = []
    for kind, large in (
        (pa.float64(), 1),
        (pa.timestamp("ns", "UTC"), 1),
        (pa.timestamp("s"), 2**50),
        (pa.duration("s"), 2**60),
    ):
        column = pa.array([1, large], pa.int64()).cast(kind)
        names = ["took", "created_at"] if pa.types.is_duration(kind) else ["created_at", "took"]
        out = io.BytesIO()
        pq.write_table(pa.table([column, pa.array([1.0, 2.5])], names=names), out)
        written.append(out.getvalue())
    return written


SEEDS: Final[Mapping[str, list[bytes]]] = {
    "parse": list(samples().values()),
    "wire": [
        bytes([status]) + b"Retry-After: 7\nDate: Mon, 15 Jan 2024 02:15:00 GMT\n\n" + body
        for status, body in enumerate(samples().values())
    ],
    "request": list(_REQUEST),
    "callbacks": [body for name, body in samples().items() if name.startswith("job-")],
    "trace": [*_TRACES, *_parquet()],
    "jobfile": [_JOB_LINES, _JOB_CSV],
    "journal": [_JOURNAL],
    "records": [json.dumps([_RECORD, {**_RECORD, "jobid": None}]).encode()],
    "forms": [text.encode() for text in _FORMS],
    "units": [text.encode() for text in _UNITS],
}
"""Good input of each target."""

FOUND: Final[Mapping[str, tuple[bytes, ...]]] = {
    "trace": (b"ts,\x1b[2J\nx,1\n", b"\x1b[2J,b,c\n1,2,3\n", b"ts,took_h\n0,1e306\n"),
    "records": (
        b"null",
        b"5",
        b'[{"version": true, "verb": "create", "reply_ref": "r", "channel": "5"}]',
        b'[{"version": 1, "verb": "create", "reply_ref": "r", "channel": "5", "jobid": "\\ud800"}]',
    ),
    "forms": (
        b"above=3,each=2\x10%",
        b"above=\xb0",
        b"9" * 5003,
        b"exp:1e200",
        b"fixed:1e308",
        b"lognormal:mean=1s,cv=1e200",
        b"gamma:mean=1s,cv=1e-200",
        b"poisson:1e-300/h",
    ),
    "units": (b"1\x1d", b"1" * 300, b"1e308", b"1e308/s", b"1%" + b"9" * 5000),
}
"""Cases that failed once, of each target."""


def cases(name: str) -> Iterator[bytes]:
    """Yield the fixed cases of a target: good, failed once, and broken."""
    rng = random.Random(f"cases {name}")
    yield from FOUND.get(name, ())
    for seed in SEEDS[name]:
        yield seed
        head, body = (
            (seed[: seed.index(b"\n\n") + 2], seed.partition(b"\n\n")[2]) if name == "wire" else (b"", seed)
        )
        if name in ("parse", "wire", "callbacks", "records"):
            for bad in bad_trees(body):
                yield head + bad
        for line in seed.splitlines() if name in ("jobfile", "journal") else ():
            if line.startswith(b"{"):
                for bad in bad_trees(line):
                    yield seed.replace(line, bad)
        if not seed.startswith(b"PAR1"):
            yield from bad_texts(seed, rng)
        yield from sprinkled(seed, rng)
    yield from (text.encode("utf-8", "surrogatepass") for text in NAUGHTY)
    yield from (MEGABYTE.encode(), b"9" * 1_000_000, b" " * 1_000_000 + b"x")


def mutated(name: str, rng: random.Random) -> bytes:
    """Return a good input of the target with a few random changes."""
    data = bytearray(rng.choice([*SEEDS[name], *FOUND.get(name, ())]))
    for _ in range(rng.randint(1, 5)):
        place = rng.randrange(len(data) + 1)
        end = min(len(data), place + rng.randint(0, 12))
        match rng.randrange(6):
            case 0:
                data[place:end] = b""
            case 1:
                data[place:place] = rng.choice(NAUGHTY).encode("utf-8", "surrogatepass")
            case 2:
                data[place:end] = rng.randbytes(rng.randint(1, 4))
            case 3:
                data[place:place] = data[place:end] * rng.randint(1, 5)
            case 4:
                data[place:end] = rng.choice((b"0", b"-1", b"1e999", b"null", b"[", b'"', b"{", b",", b"\n"))
            case _:
                other = rng.choice(SEEDS[name])
                cut = rng.randrange(len(other) + 1)
                data[place:] = other[cut:]
    return bytes(data)
