"""Options that several commands share, how to read their values, and the client or store that they open."""

import argparse
import asyncio
import contextlib
import getpass
import os
import sys
import textwrap
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias, TypeVar

from pika_balancer._util.text import printable
from pika_balancer._util.units import parse_count, parse_duration, parse_number, parse_rate, parse_share
from pika_balancer._util.validators import checked
from pika_balancer.cli.exit_codes import Interrupted, Usage
from pika_balancer.errors import InvalidArgument
from pika_balancer.models import Secret

if TYPE_CHECKING:
    from pika_balancer.client.client import PikaClient
    from pika_balancer.store.redis.store import RedisStore

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - has no public name

T = TypeVar("T")

_WIDTH: Final = 79
_LONGEST_MESSAGE: Final = 500
_LONGEST_TOKEN: Final = 4096
_MOST: Final = 1_000_000
_HIGHEST_SEED: Final = 10**12
_LARGEST: Final = 1e9
"""The largest number, duration and rate that an option accepts, and the inverse of the least."""


class Parser(argparse.ArgumentParser):
    """A parser that raises `Usage` for a wrong command line, and accepts no abbreviated option."""

    def __init__(self, **options: object) -> None:
        super().__init__(**{"allow_abbrev": False, **options})  # type: ignore[arg-type] # passed on

    def error(self, message: str) -> NoReturn:
        # The message may quote a whole argument.
        raise Usage(f"{printable(message, _LONGEST_MESSAGE)}; see `{self.prog} --help`")


def add_command(
    subparsers: Subparsers, name: str, *, summary: str, description: str, examples: str
) -> argparse.ArgumentParser:
    """Add and return the parser of one command, with `--json`; the examples end its help."""
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=textwrap.fill(description, _WIDTH),
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document on stdout, everything else on stderr"
    )
    return parser


def add_service(parser: argparse.ArgumentParser, *, otherwise: str | None = None) -> None:
    """Add `--base-url` and `--token-file`; `otherwise` is the default URL in the help, if another one."""
    from pika_balancer.client.client import BASE_URL  # noqa: PLC0415 - slow to import, and not all commands need it

    otherwise = otherwise or f"PIKA_BASE_URL, else {BASE_URL}"
    group = parser.add_argument_group("service")
    group.add_argument("--base-url", metavar="URL", help=f"URL of the API (default: {otherwise})")
    group.add_argument(
        "--token-file",
        dest="token",
        type=read_token,
        metavar="FILE",
        help="read the API token from this file, - for stdin (default: USEAPI_TOKEN)",
    )


@contextlib.asynccontextmanager
async def connect(args: argparse.Namespace) -> "AsyncGenerator[PikaClient]":
    """Open a client for the service of the options.

    Raises:
        InvalidArgument: There is no token, or the base URL is wrong.
        Interrupted: The command was cancelled in the context.
    """
    from pika_balancer.client.client import PikaClient  # noqa: PLC0415 - slow to import, and not all commands need it

    if args.token is None and not os.environ.get("USEAPI_TOKEN"):
        raise Usage("no API token: set USEAPI_TOKEN, or name the file that holds it with --token-file")
    try:
        async with PikaClient(args.token, base_url=args.base_url) as client:
            yield client
    except asyncio.CancelledError:
        raise Interrupted("interrupted") from None


def reads(parse: Callable[..., T], **more: object) -> Callable[[str], T]:
    """Return a reader of an option by `parse(text, **more)`; argparse adds the option's name to errors."""

    def read(text: str) -> T:
        try:
            return parse(text, **more)
        except InvalidArgument as error:
            raise argparse.ArgumentTypeError(error.message.removeprefix(f"{error.field}: ")) from None

    return read


def whole(least: int, most: int = _MOST) -> Callable[[str], int]:
    """Return a reader of a whole number from `least` to `most`."""
    return reads(parse_count, least=least, most=most)


def positive(parse: Callable[..., float]) -> Callable[[str], float]:
    """Return a reader of an option by `parse`, above 0 and of a reasonable size."""

    def check(text: str) -> float:
        value = parse(text)
        if not value:
            raise InvalidArgument("must be above 0")
        return checked(value, f"{text!r:.60}", least=1 / _LARGEST, most=_LARGEST)

    return reads(check)


above_zero = positive(parse_number)
duration = positive(parse_duration)
rate = positive(parse_rate)
share = reads(parse_share)
seed = whole(0, _HIGHEST_SEED)


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add `--store` and `--pool`."""
    group = parser.add_argument_group("shared store")
    group.add_argument(
        "--store",
        nargs="?",
        const="",
        metavar="URL",
        help="URL of the store, redis://host:6379/0 (default: PIKA_STORE_URL, the place for passwords)",
    )
    group.add_argument(
        "--pool", default="default", metavar="NAME", help="name of the pool (default: %(default)s)"
    )


def store_url(args: argparse.Namespace) -> Secret:
    """Return the URL of the store from the options or the environment.

    Raises:
        Usage: Neither has one.
    """
    url = Secret(args.store or os.environ.get("PIKA_STORE_URL", ""))
    if not url.reveal():
        raise Usage("no store: set PIKA_STORE_URL, or name one with --store redis://host:6379/0")
    return url


def open_store(args: argparse.Namespace) -> "RedisStore":
    """Return the store of the options, not connected yet.

    Raises:
        Usage: There is none, or the extra that it needs is not installed.
        InvalidArgument: The URL or the name of the pool is wrong.
    """
    from pika_balancer.store.redis.store import RedisStore  # noqa: PLC0415 - slow to import, for few commands

    try:
        return RedisStore(store_url(args), args.pool)
    except ImportError as error:
        raise Usage(str(error)) from None


def read_token(name: str) -> Secret:
    # Read with the options: in the event loop, a read of stdin would block Ctrl-C. No message quotes the
    # name, which may be a token given by mistake.
    try:
        if name != "-":
            with Path(name).open(encoding="utf-8") as file:
                text = file.read(_LONGEST_TOKEN + 1)
        elif sys.stdin.isatty():
            text = getpass.getpass("API token: ", stream=sys.stderr)
        else:
            text = sys.stdin.read(_LONGEST_TOKEN + 1)
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"that file cannot be read: {error.strerror or type(error).__name__}"
        ) from None
    except (ValueError, EOFError):
        raise argparse.ArgumentTypeError("that file holds no UTF-8 text") from None
    text = text.strip()
    if not text or len(text) > _LONGEST_TOKEN or len(text.split()) != 1:
        raise argparse.ArgumentTypeError("that file must hold one token and nothing else")
    return Secret(text)
