"""A running local server, and a caller that speaks to it over real sockets."""

import asyncio
import contextlib
import datetime as dt
import io
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import attrs
import pytest

from pika_balancer.server import LocalServer, parse_accounts
from pika_balancer.testing import ManualClock

EPOCH = dt.datetime(2024, 1, 15, 2, 14, 40, 711_000, tzinfo=dt.UTC)
FIRST, SECOND, THIRD = (account.channel for account in parse_accounts("1,1,1"))
ANY = "any"
STRANGER = "99999999999999999"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


@attrs.frozen
class Answer:
    """What came back."""

    status: int
    body: Any
    headers: Mapping[str, str]


@attrs.frozen
class Upload:
    """A file to send."""

    data: bytes = PNG
    name: str | None = "image.png"
    type: str | None = "image/png"


@attrs.frozen
class Rig:
    """A running server and a session to call it with."""

    server: LocalServer
    clock: ManualClock
    base: str
    session: aiohttp.ClientSession

    @property
    def port(self) -> int:
        return urlsplit(self.base).port or 0

    async def call(self, method: str, path: str, *, token: str | None = ANY, **options: Any) -> Answer:
        """Call a path below the base; the answer must have a JSON body, or none with 204."""
        headers = dict(options.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        async with self.session.request(method, self.base + path, headers=headers, **options) as response:
            body = await response.read()
            if response.status == 204:
                assert body == b""
                return Answer(204, None, response.headers)
            assert response.content_type == "application/json"
            return Answer(response.status, json.loads(body), response.headers)

    async def submit(
        self,
        verb: str = "create",
        fields: Mapping[str, str | Upload] | None = None,
        /,
        *,
        token: str | None = ANY,
        **more: str | Upload,
    ) -> Answer:
        """Submit a job as multipart; a `create` has a prompt unless one is given."""
        prompt = {"prompt": "a cat"} if verb == "create" else {}
        return await self.call(
            "POST", f"/{verb}", token=token, data=form(**{**prompt, **(fields or {}), **more})
        )

    async def job(self, jobid: str) -> Any:
        """Return the job object."""
        answer = await self.call("GET", "/jobs/", params={"jobid": jobid})
        assert answer.status == 200
        return answer.body

    async def executing(self) -> list[str]:
        """Return the job list."""
        answer = await self.call("GET", "/jobs")
        assert answer.status == 200
        return list(answer.body)

    async def raw(self, request: bytes) -> bytes:
        """Send bytes as they are, and return the answer; nothing where the connection closes without one."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            async with asyncio.timeout(10):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                return head + await reader.readexactly(length)
        except asyncio.IncompleteReadError as cut:
            return cut.partial
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def form(**fields: str | Upload) -> aiohttp.FormData:
    """Return the fields as multipart/form-data."""
    data = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        if isinstance(value, Upload):
            # A file object, because aiohttp warns of large bytes.
            data.add_field(name, io.BytesIO(value.data), filename=value.name, content_type=value.type)
        else:
            data.add_field(name, value)
    return data


@contextlib.asynccontextmanager
async def running(accounts: Any = "2,1", **settings: Any) -> AsyncGenerator[Rig, None]:
    """Run a server with a clock that stands still, seeded chance and a known epoch."""
    clock = settings.setdefault("clock", ManualClock())
    settings.setdefault("service", "fixed:10s")
    settings.setdefault("rng", random.Random(1))
    settings.setdefault("epoch", EPOCH)
    server = LocalServer(parse_accounts(accounts) if isinstance(accounts, str) else accounts, **settings)
    async with server.run() as base, aiohttp.ClientSession() as session:
        yield Rig(server, clock, base, session)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """Two accounts with caps 2 and 1, jobs of 10 s."""
    async with running() as made:
        yield made
