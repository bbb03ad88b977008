"""The command `pika-balancer`. One module per command, imported only when that command runs.

A command module has `register(subparsers)`, which adds its parser, and `async run(args)`, which returns the
exit code. The first SIGINT or SIGTERM cancels `run`, which cleans up, prints its results, and either returns
a code or lets the `CancelledError` pass.
"""

import argparse
import asyncio
import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import pika_balancer
from pika_balancer.cli.exit_codes import (
    FAILURE,
    INTERRUPTED,
    Interrupted,
    MissingExtra,
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
    except Exception as error:  # noqa: BLE001 - the user gets one line and an exit code
        code = _report(error, as_json=as_json)
    _flush()
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
    # Unknown arguments are never quoted whole: one may be a token.
    first = arguments[0] if arguments else None
    if first not in (*COMMANDS, "-h", "--help", "--version"):
        what = "name a command first" if first is None or first.startswith("-") else "no such command"
        raise Usage(f"{what}; there are {', '.join(COMMANDS)}; see `{_PROG} --help`")
    # Before a command starts, and not at the end of a long one, where it prints its first table.
    if first != "--version" and importlib.util.find_spec("rich") is None:
        raise MissingExtra("the commands need rich: pip install 'pika-balancer[cli]'")
    needed = [first] if first in COMMANDS else [] if first == "--version" else COMMANDS
    parser = build_parser(needed)
    try:
        args, unknown = parser.parse_known_args(arguments)
    except SystemExit as done:  # after --help and --version
        return int(done.code or 0)
    if unknown:
        raise Usage(f"{_describe(unknown)}; see `{_PROG} {first} --help`")
    return supervise(lambda: args.run(args))


def _describe(unknown: list[str]) -> str:
    options = [word.partition("=")[0] for word in unknown if word.startswith("-")]
    if any(option.startswith(("--token", "--api")) for option in options):
        return (
            "tokens do not go on the command line, where others read them: use USEAPI_TOKEN or --token-file"
        )
    return f"unknown option {options[0]}" if options else "too many arguments"


def _report(error: BaseException, *, as_json: bool) -> int:
    # Either stream may be a closed pipe.
    with contextlib.suppress(OSError):
        Output(as_json=as_json).document(error_document(error))
    with contextlib.suppress(OSError):
        Output().note(f"{_PROG}: {sentence(error)}")
    return exit_for(error).code


def _flush() -> None:
    """Keep the interpreter from failing once more at its exit, on a full disk or a closed pipe."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with Path(os.devnull).open("w") as devnull:
                os.dup2(devnull.fileno(), stream.fileno())
