"""Where the token comes from."""

import io
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import CANARY, Run, Serve


def test_token_from_a_file_wins_over_the_environment(
    cli: Run, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve()
    monkeypatch.setenv("USEAPI_TOKEN", "wrong-token")
    file = tmp_path / "token"
    file.write_text(f"{CANARY}\n")
    assert cli("accounts").code == 4
    assert cli("accounts", "--token-file", str(file)).code == 0


def test_token_from_stdin(cli: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    serve()
    monkeypatch.delenv("USEAPI_TOKEN")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"  {CANARY}\r\n"))
    assert cli("accounts", "--token-file", "-").code == 0


def test_token_typed_at_a_terminal_is_not_echoed(
    cli: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve()
    monkeypatch.delenv("USEAPI_TOKEN")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda prompt, stream: CANARY if prompt and stream else "")
    assert cli("accounts", "--token-file", "-").code == 0


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "must hold one token and nothing else"),
        (b"\n \n", "must hold one token and nothing else"),
        (b"canary0 canary0", "must hold one token and nothing else"),
        (b"canary0\ncanary0", "must hold one token and nothing else"),
        (b"x" * 5000, "must hold one token and nothing else"),
        (b"\xff\xfe", "holds no UTF-8 text"),
        ("canary0…".encode(), "token must be printable ASCII"),
    ],
)
def test_file_without_a_usable_token_is_refused_unquoted(
    cli: Run, tmp_path: Path, content: bytes, sentence: str
) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    ran = cli("jobs", "--token-file", str(file))
    assert ran.code == 2
    assert sentence in ran.err


def test_missing_file_is_refused_without_its_name(cli: Run, tmp_path: Path) -> None:
    ran = cli("jobs", "--token-file", str(tmp_path / "canary0"))
    assert ran.code == 2
    assert "that file cannot be read: No such file or directory" in ran.err


def test_base_url_option_wins_over_the_environment(
    cli: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serve()
    monkeypatch.setenv("PIKA_BASE_URL", "http://127.0.0.1:1/nowhere")
    ran = cli("accounts")
    assert ran.code == 5
    assert "no connection to 127.0.0.1:1: Connection refused; check --base-url or PIKA_BASE_URL" in ran.err
    assert cli("accounts", "--base-url", service.url).code == 0
