"""The command `pika-balancer`. One module per command, imported only when it is asked for.

A command module has `register(subparsers)`, which adds its parser, and `async run(args)`, which returns the
exit code. `run` is cancelled by the first SIGINT or SIGTERM. One that has put everything in order then either
returns a code or lets the `CancelledError` pass, having printed what there was to print.
"""

import argparse
import asyncio
import contextlib
import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, TextIO

import pika_balancer
from pika_balancer.cli.exit_codes import (
    FAILURE,
    INTERRUPTED,
    Interrupted,
    Usage,
    error_document,
    exit_for,
    sentence,
)
from pika_balancer.cli.options import Parser
from pika_balancer.cli.output import Output
from pika_balancer.cli.signals import supervise

COMMANDS: Final = (
    "demo",
    "serve",
    "accounts",
    "jobs",
    "submit",
    "watch",
    "store",
    "simulate",
    "plan",
    "bench",
)
"""Every command, in the order of the help."""

_PROG: Final = "pika-balancer"
_EPILOG: Final = """\
examples:
  pika-balancer demo
  pika-balancer serve --port 8080 --accounts 2,1

The token comes from USEAPI_TOKEN or --token-file, the address of the API from PIKA_BASE_URL or --base-url.
Exit codes: 0 ok, 1 failure, 2 usage, 3 no capacity, 4 token or subscription refused,
5 network, service or timeout, 6 bad answer, 130 interrupted.
"""


def entry() -> None:
    """Run the command line of this process and exit."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed before the start, as by `>&-`
            setattr(sys, name, Path(os.devnull).open("r+"))  # noqa: SIM115 - stays open for the whole process
    for stream in (sys.stdout, sys.stderr):
        # A terminal that is not UTF-8 gets escapes, not a crash.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # a real stream of this process
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; raises nothing.

    Args:
        argv: The arguments without the program's name; None for those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments[: arguments.index("--") if "--" in arguments else None]
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except asyncio.CancelledError:
        code = INTERRUPTED
    except KeyboardInterrupt:
        code = _report(Interrupted("interrupted"), as_json=as_json)
    except BrokenPipeError:
        code = FAILURE
    except Exception as error:  # noqa: BLE001 - whatever it is, the user gets one line and an exit code
        code = _report(error, as_json=as_json)
    _settle()
    return code


def build_parser(commands: Iterable[str] = COMMANDS) -> argparse.ArgumentParser:
    """Return a parser that knows these commands; importing a command is most of the cost."""
    parser = Parser(
        prog=_PROG,
        description="Run jobs on several capped Pika accounts: never above a cap, never twice, fairly.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{_PROG} {pika_balancer.__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in commands:
        importlib.import_module(f"{__name__}.{name}").register(subparsers)
    return parser


def _run(arguments: list[str]) -> int:
    # Strangers among the arguments are never quoted whole: one may be a token.
    first = arguments[0] if arguments else None
    if first not in (*COMMANDS, "-h", "--help", "--version"):
        what = "name a command first" if first is None or first.startswith("-") else "no such command"
        raise Usage(f"{what}; there are {', '.join(COMMANDS)}; see `{_PROG} --help`")
    needed = [first] if first in COMMANDS else [] if first == "--version" else COMMANDS
    parser = build_parser(needed)
    try:
        args, strangers = parser.parse_known_args(arguments)
    except SystemExit as done:  # after --help and --version
        return int(done.code or 0)
    if strangers:
        raise Usage(f"{_strange(strangers)}; see `{_PROG} {first} --help`")
    return supervise(lambda: args.run(args))


def _strange(strangers: list[str]) -> str:
    options = [word.partition("=")[0] for word in strangers if word.startswith("-")]
    if any(option.startswith(("--token", "--api")) for option in options):
        return (
            "tokens do not go on the command line, where others read them: use USEAPI_TOKEN or --token-file"
        )
    return f"unknown option {options[0]}" if options else "too many arguments"


def _report(error: BaseException, *, as_json: bool) -> int:
    # Nobody may be listening on either stream.
    with contextlib.suppress(OSError):
        Output(as_json=as_json).document(error_document(error))
    with contextlib.suppress(OSError):
        Output().note(f"{_PROG}: {sentence(error)}")
    return exit_for(error).code


def _settle() -> None:
    """Keep the interpreter from failing once more, at its end, on a full disk or a pipe that nobody reads."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _to_nowhere(stream)


def _to_nowhere(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    finally:
        os.close(nowhere)
