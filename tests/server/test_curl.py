"""The documented calls, made by curl."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pika_balancer.testing import ManualClock
from tests.server.conftest import FIRST, PNG, running

CURL = shutil.which("curl")
pytestmark = pytest.mark.skipif(CURL is None, reason="curl is not installed")


async def curl(*arguments: str) -> tuple[int, bytes]:
    """Run curl, and return the status and the body."""
    process = await asyncio.create_subprocess_exec(
        CURL or "",
        *("--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_code}"),
        *("-H", "Authorization: Bearer any", *arguments),
        stdout=asyncio.subprocess.PIPE,
        env={"no_proxy": "*"},
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    body, _, status = output.rpartition(b"\n")
    return int(status), body


async def curl_json(*arguments: str) -> tuple[int, Any]:
    status, body = await curl(*arguments)
    return status, json.loads(body)


async def test_curl_can_do_the_documented_calls(tmp_path: Path) -> None:
    small, big = tmp_path / "small.png", tmp_path / "big.png"
    small.write_bytes(PNG)
    big.write_bytes(PNG + bytes(2_000_000))
    channel = "12345678901234567"
    account = json.dumps({"discord": "some-token", "channel": channel, "maxJobs": 3})
    async with running("10", clock=ManualClock()) as rig:
        base = rig.base
        status, accounts = await curl_json(f"{base}/account")
        assert (status, list(accounts)) == (200, [FIRST])
        put = ("-H", "Content-Type: application/json", "-d", account, f"{base}/account/{channel}")
        assert await curl(*put) == (204, b"")
        assert (await curl_json(f"{base}/account/{channel}"))[1]["maxJobs"] == 3
        assert await curl("-X", "DELETE", f"{base}/account/{channel}") == (204, b"")
        status, job = await curl_json("-F", "prompt=a cat", "-F", f"image=@{small}", f"{base}/create")
        assert (status, job["image"]) == (200, {"size": len(PNG), "type": "image/png"})
        # Above a megabyte curl waits for "100 Continue".
        status, animated = await curl_json("-F", f"image=@{big}", f"{base}/animate")
        assert (status, animated["image"]["size"]) == (200, len(PNG) + 2_000_000)
        fields = (
            "-F",
            "message=hello",
            "-F",
            "prompt=x",
            "-F",
            "font=SANS SERIF",
            "-F",
            "discord=",
            "-F",
            "channel=",
        )
        assert (await curl_json(*fields, f"{base}/encrypt_text"))[0] == 200
        assert (await curl_json("-F", f"message=@{small}", "-F", "prompt=x", f"{base}/encrypt_image"))[
            0
        ] == 200
        assert (await curl_json("-d", "prompt=urlencoded", f"{base}/create"))[0] == 200
        status, listed = await curl_json(f"{base}/jobs")
        assert (status, len(listed)) == (200, 5)
        await rig.clock.advance(10)
        status, ended = await curl_json(f"{base}/jobs/?jobid={job['jobid']}")
        assert (status, ended["status"]) == (200, "completed")
        status, video = await curl(ended["attachments"][0]["url"])
        assert (status, len(video)) == (200, ended["attachments"][0]["size"])
        button = ("-F", f"jobid={job['jobid']}", "-F", "button=retry", f"{base}/button")
        assert (await curl_json(*button))[1]["verb"] == "pika-button"
