"""The account calls, each with its documented answers."""

import json
import os
import stat
import traceback
from pathlib import Path
from typing import Any

import pytest

from pika_balancer.errors import InvalidArgument
from pika_balancer.server import LocalServer, ServerAccount
from pika_balancer.server.accounts import AccountsFile
from tests.server.conftest import FIRST, SECOND, STRANGER, Rig, running

NEW = "12345678901234567"


def body(**changes: Any) -> dict[str, Any]:
    return {"discord": "some-discord-token", "channel": NEW, "maxJobs": 3} | changes


def names_in(folder: Path) -> list[str]:
    return [item.name for item in folder.iterdir()]


async def test_the_account_map_is_keyed_by_channel_with_full_tokens_in_order(rig: Rig) -> None:
    answer = await rig.call("GET", "/account")
    assert answer.status == 200
    assert answer.body == {
        FIRST: {"channel": FIRST, "discord": f"made-up-discord-token-{FIRST}", "maxJobs": 2},
        SECOND: {"channel": SECOND, "discord": f"made-up-discord-token-{SECOND}", "maxJobs": 1},
    }
    assert list(answer.body) == [FIRST, SECOND]


async def test_no_accounts_is_404() -> None:
    async with running(()) as rig:
        answer = await rig.call("GET", "/account")
        assert (answer.status, answer.body["code"]) == (404, 404)


async def test_one_account_is_told_and_an_unknown_one_is_404(rig: Rig) -> None:
    answer = await rig.call("GET", f"/account/{SECOND}")
    assert (answer.status, answer.body["maxJobs"]) == (200, 1)
    for method in ("GET", "DELETE"):
        answer = await rig.call(method, f"/account/{STRANGER}")
        assert (answer.status, answer.body) == (
            404,
            {"error": f"Channel {STRANGER} is not configured", "code": 404},
        )


async def test_a_posted_account_is_there_and_takes_jobs_and_a_deleted_one_is_gone() -> None:
    async with running(()) as rig:
        assert (await rig.call("POST", f"/account/{NEW}", json=body())).status == 204
        assert (await rig.call("GET", f"/account/{NEW}")).body == body()
        assert (await rig.submit()).body["channel"] == NEW
        assert (await rig.call("DELETE", f"/account/{NEW}")).status == 204
        assert (await rig.call("GET", "/account")).status == 404
        assert (await rig.submit()).status == 404


async def test_a_cap_lowered_below_the_running_jobs_drains_and_one_raised_opens(rig: Rig) -> None:
    for _ in range(2):
        assert (await rig.submit(channel=FIRST)).status == 200
    change = {"discord": "x", "channel": FIRST, "maxJobs": 1}
    assert (await rig.call("POST", f"/account/{FIRST}", json=change)).status == 204
    assert (await rig.submit(channel=FIRST)).status == 429
    assert (await rig.call("POST", f"/account/{FIRST}", json=change | {"maxJobs": 3})).status == 204
    assert (await rig.submit(channel=FIRST)).status == 200
    assert rig.server.statistics().channels[FIRST].peak_in_flight == 3


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"discord": ""}, "Required param discord is missing or empty"),
        ({"discord": None, "channel": "", "maxJobs": None}, "Required param discord is missing or empty"),
        ({"channel": ""}, "Required param channel is missing or empty"),
        ({"channel": int(NEW)}, "Required param channel is missing or empty"),
        ({"channel": "1234"}, "Required param channel (1234) is not valid Discord channel id"),
        ({"channel": "1" * 21}, f"Required param channel ({'1' * 21}) is not valid Discord channel id"),
        ({"channel": STRANGER}, f"Required param channel ({STRANGER}) not matching to /pika/account/{NEW}"),
        ({"maxJobs": None}, "Required param maxJobs is missing or empty"),
        ({"maxJobs": ""}, "Required param maxJobs is missing or empty"),
        ({"maxJobs": 0}, "Required param maxJobs is missing or empty"),
        ({"maxJobs": 11}, "Required param maxJobs 11 can't be more that 10"),
        ({"maxJobs": "11"}, "Required param maxJobs 11 can't be more that 10"),
        ({"maxJobs": -1}, "Required param maxJobs must be a whole number from 1 to 10"),
        ({"maxJobs": True}, "Required param maxJobs must be a whole number from 1 to 10"),
        ({"maxJobs": 1.5}, "Required param maxJobs must be a whole number from 1 to 10"),
        (
            {"discord": f"made-up-discord-token-{SECOND}"},
            f"Channel {SECOND} configuration has same discord value",
        ),
    ],
)
async def test_a_bad_account_is_refused_in_the_documented_words(
    rig: Rig, changes: dict[str, Any], error: str
) -> None:
    answer = await rig.call("POST", f"/account/{NEW}", json=body(**changes))
    assert (answer.status, answer.body) == (400, {"error": error, "code": 400})
    assert (await rig.call("GET", f"/account/{NEW}")).status == 404


@pytest.mark.parametrize("missing", ["discord", "channel", "maxJobs"])
async def test_a_missing_param_is_refused_in_the_documented_words(rig: Rig, missing: str) -> None:
    sent = body()
    del sent[missing]
    answer = await rig.call("POST", f"/account/{NEW}", json=sent)
    assert answer.body["error"] == f"Required param {missing} is missing or empty"


@pytest.mark.parametrize("sent", [b"", b"{", b"[]", b"null", b'"x"', b"[" * 100_000, b"\xff"])
async def test_a_body_that_is_no_json_object_is_400(rig: Rig, sent: bytes) -> None:
    answer = await rig.call("POST", f"/account/{NEW}", data=sent)
    assert answer.status == 400
    assert answer.body["error"].startswith("Request body ")


async def test_the_same_channel_may_be_posted_again_with_its_own_token(rig: Rig) -> None:
    assert (await rig.call("POST", f"/account/{NEW}", json=body())).status == 204
    assert (await rig.call("POST", f"/account/{NEW}", json=body(maxJobs="7"))).status == 204
    assert (await rig.call("GET", f"/account/{NEW}")).body["maxJobs"] == 7


async def test_the_accounts_file_is_for_its_owner_only_and_follows_no_link(tmp_path: Path) -> None:
    path, target = tmp_path / "accounts.json", tmp_path / "target"
    target.write_text("{}")
    path.symlink_to(target)
    old = os.umask(0)
    try:
        async with running((), accounts_file=path) as rig:
            await rig.call("POST", f"/account/{NEW}", json=body())
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(old)
    assert not path.is_symlink()
    assert target.read_text() == "{}"
    assert sorted(names_in(tmp_path)) == ["accounts.json", "target"]


async def test_the_accounts_file_survives_the_server(tmp_path: Path) -> None:
    path = tmp_path / "accounts.json"
    async with running("2,1", accounts_file=path) as rig:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o644)
        await rig.call("POST", f"/account/{NEW}", json=body())
        await rig.call("DELETE", f"/account/{FIRST}")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        before = (await rig.call("GET", "/account")).body
    async with running("5x6", accounts_file=path) as rig:
        after = (await rig.call("GET", "/account")).body
    assert list(before) == [SECOND, NEW]
    assert json.loads(path.read_text()) == before == after
    assert names_in(tmp_path) == ["accounts.json"]


async def test_a_change_that_cannot_be_kept_is_not_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    async with running("2,1", accounts_file=folder / "accounts.json") as rig:
        (folder / "accounts.json").unlink()
        folder.rmdir()
        answer = await rig.call("POST", f"/account/{NEW}", json=body())
        assert (answer.status, answer.body) == (500, {"error": "Internal Server Error", "code": 500})
        assert NEW not in (await rig.call("GET", "/account")).body
    assert "FileNotFoundError in a handler" in caplog.text
    assert "some-discord-token" not in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"a": 1}',
        f'{{"{FIRST}": {{"discord": "secret-in-file"}}}}',
        f'{{"{FIRST}": {{"discord": "secret-in-file", "maxJobs": 11}}}}',
        f'{{"{FIRST}": {{"discord": "secret-in-file", "maxJobs": "2"}}}}',
        '{"123": {"discord": "secret-in-file", "maxJobs": 1}}',
        f'{{"{FIRST}": {{"discord": "", "maxJobs": 1}}}}',
        '{"secret-in-file',
    ],
)
def test_an_unusable_accounts_file_is_named_but_not_quoted(tmp_path: Path, content: str) -> None:
    path = tmp_path / "accounts.json"
    path.write_text(content)
    with pytest.raises(InvalidArgument, match=r"accounts\.json") as caught:
        LocalServer(accounts_file=path)
    assert caught.value.field == "accounts_file"
    assert "secret-in-file" not in str(caught.value)
    assert "secret-in-file" not in repr(
        [frame.f_locals for frame, _ in list(traceback.walk_tb(caught.tb))[1:]]
    )
    assert path.read_text() == content


def test_an_accounts_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="Is a directory") as caught:
        LocalServer(accounts_file=tmp_path)
    assert caught.value.field == "accounts_file"


def test_a_failed_write_leaves_what_was_there_and_no_scraps(tmp_path: Path) -> None:
    path = tmp_path / "accounts.json"
    path.mkdir()
    with pytest.raises(OSError, match=r"accounts\.json"):
        AccountsFile(path).write([ServerAccount(NEW, 1, "x")])
    assert path.is_dir()
    assert names_in(tmp_path) == ["accounts.json"]


def test_an_accounts_file_that_cannot_be_made_is_named_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "accounts.json"
    with pytest.raises(OSError, match="No such file") as caught:
        LocalServer(accounts_file=path)
    assert caught.value.filename == str(path)
