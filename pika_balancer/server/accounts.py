"""Accounts of the local server: their values, made-up ones for demos, and the file of real ones."""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import attrs

from pika_balancer.errors import InvalidArgument
from pika_balancer.secret import Secret

CHANNEL_ID: Final = re.compile(r"[0-9]{17,20}")
"""A Discord channel id: a decimal snowflake."""

MAX_JOBS_LIMIT: Final = 10
"""The service's own limit of `maxJobs`."""

_MOST_ACCOUNTS: Final = 10_000
_FIRST_CHANNEL: Final = 1_100_000_000_000_000_001
_HINT_FROM_LENGTH: Final = 12
_LONGEST_SHOWN: Final = 24


def _hidden(value: str | Secret) -> Secret:
    return Secret(value) if isinstance(value, str) else value


@attrs.frozen
class ServerAccount:
    """An account of the local server."""

    channel: str
    """Discord channel id, 17 to 20 digits."""
    max_jobs: int
    """How many jobs may run on the channel at once, 1 to 10."""
    discord: Secret = attrs.field(converter=_hidden)
    """Discord token, a full credential of a real account; a string becomes a `Secret`."""

    def as_wire(self) -> dict[str, Any]:
        """Return the account as the API shows it, the Discord token in full."""
        return {"channel": self.channel, "discord": self.discord.reveal(), "maxJobs": self.max_jobs}


def discord_hint(discord: Secret) -> str:
    """Return what jobs show of a Discord token: its first and last 3 characters, or none of a short one."""
    return _hint(discord.reveal())


def _hint(text: str) -> str:
    return f"{text[:3]}…{text[-3:]}" if len(text) >= _HINT_FROM_LENGTH else "…"


def made_up(channel: str, max_jobs: int) -> ServerAccount:
    """Return an account with a Discord token that plainly is none."""
    return ServerAccount(channel, max_jobs, f"made-up-discord-token-{channel}")


def parse_accounts(text: str) -> tuple[ServerAccount, ...]:
    """Return made-up accounts with the caps that `text` lists; the same text always gives the same accounts.

    `"2,1"` is two accounts with caps 2 and 1; `"5x6"` five with cap 6; `"2x6,4"` three with caps 6, 6 and 4.

    Raises:
        InvalidArgument: `text` is no such list, or a cap is not 1 to 10; names the field `accounts`.
    """
    caps: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(?:([0-9]{1,6})\s*x\s*)?([0-9]{1,6})\s*", part)
        if match is None:
            raise InvalidArgument(
                f"accounts: {text!r:.60} is no list of caps; write 2,1 or 5x6 (five accounts with cap 6)",
                field="accounts",
            )
        count, cap = int(match[1] or 1), int(match[2])
        if not (1 <= cap <= MAX_JOBS_LIMIT and 1 <= count <= _MOST_ACCOUNTS - len(caps)):
            raise InvalidArgument(
                f"accounts: {part.strip()!r:.60}: caps go from 1 to {MAX_JOBS_LIMIT}, "
                f"for 1 to {_MOST_ACCOUNTS} accounts",
                field="accounts",
            )
        caps += [cap] * count
    return tuple(made_up(str(_FIRST_CHANNEL + index), cap) for index, cap in enumerate(caps))


def check_accounts(
    accounts: Mapping[str, int] | Iterable[ServerAccount | tuple[str, int]],
) -> dict[str, ServerAccount]:
    """Return the accounts by channel, in their order; `(channel, max_jobs)` pairs get made-up tokens.

    Raises:
        InvalidArgument: A channel id is wrong or duplicate, or a cap is not 1 to 10; names `accounts`.
    """
    items: Iterable[ServerAccount | tuple[str, int]] = (
        cast("Mapping[str, int]", accounts).items() if isinstance(accounts, Mapping) else accounts
    )
    result: dict[str, ServerAccount] = {}
    for item in items:
        account = item if isinstance(item, ServerAccount) else made_up(*item)
        problem = _problem(account)
        if account.channel in result:
            problem = "is there twice"
        if problem:
            # A text too long for an id may be a token in the wrong place.
            shown = account.channel if len(str(account.channel)) <= _LONGEST_SHOWN else _hint(account.channel)
            raise InvalidArgument(f"accounts: channel {shown!r} {problem}", field="accounts")
        result[account.channel] = account
    return result


def _problem(account: ServerAccount) -> str:
    # Values also come from files and untyped callers.
    channel: Any = account.channel
    max_jobs: Any = account.max_jobs
    discord: Any = account.discord
    if not (isinstance(channel, str) and CHANNEL_ID.fullmatch(channel)):
        return "is no Discord channel id: a string of 17 to 20 digits"
    if type(max_jobs) is not int or not 1 <= max_jobs <= MAX_JOBS_LIMIT:
        return f"needs a whole number of jobs from 1 to {MAX_JOBS_LIMIT}"
    if not (isinstance(discord, Secret) and discord.reveal()):
        return "has no Discord token"
    return ""


@attrs.frozen
class AccountsFile:
    """A JSON file of accounts in the shape of `GET /account`, readable by its owner only."""

    path: Path

    def read(self) -> dict[str, ServerAccount] | None:
        """Return the accounts of the file; None if there is no file yet.

        Raises:
            InvalidArgument: The file cannot be read or holds something else; names `accounts_file`.
        """
        try:
            return self._parse()
        except FileNotFoundError:
            return None
        except OSError as error:
            problem = error.strerror or "it cannot be read"
        except InvalidArgument as error:
            problem = str(error)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            problem = 'expected {"<channel>": {"channel": …, "discord": …, "maxJobs": …}}'
        # Raised outside the handlers: a parser's error holds the whole text, and its frames the tokens.
        raise InvalidArgument(f"accounts file {str(self.path)!r:.300}: {problem}", field="accounts_file")

    def write(self, accounts: Iterable[ServerAccount]) -> None:
        """Replace the file by these accounts, atomically.

        The new file has mode 0600 whatever the old one had; a symbolic link is replaced, not followed.

        Raises:
            OSError: The file cannot be written; the old one is unchanged.
        """
        # mkstemp makes the file with mode 0600 before the first byte is in it.
        try:
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        except OSError as error:
            # The original error names the temporary file.
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                # Not bound to a name: the traceback of an error, such as a full disk, has this frame.
                file.write(
                    json.dumps({account.channel: account.as_wire() for account in accounts}, indent=2) + "\n"
                )
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _parse(self) -> dict[str, ServerAccount]:
        data: Any = json.loads(self.path.read_text(encoding="utf-8"))
        accounts = [
            ServerAccount(channel, entry["maxJobs"], entry["discord"]) for channel, entry in data.items()
        ]
        return check_accounts(accounts)
