"""Runs a module as a child process that ends when its stdin closes.

It cannot outlive its parent, even one that is killed. It has its own session, so that Ctrl-C reaches only the
parent.
"""

import asyncio
import contextlib
import sys
from typing import Final, Self

import attrs

from pika_balancer._util.tasks import shielded

_ENDS_WITHIN: Final = 10.0


@attrs.frozen(eq=False)
class Apart:
    """A child process that reads stdin, answers on stdout and ends when stdin closes."""

    process: asyncio.subprocess.Process
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader

    @classmethod
    async def start(cls, module: str, *, longest_line: int = 2**16) -> Self:
        """Run a module as `python -m` does; call `end` afterwards.

        Args:
            module: Full name of the module.
            longest_line: Maximum length of a line of its stdout, in bytes.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=longest_line,
            start_new_session=True,
        )
        assert process.stdin is not None  # noqa: S101 - both were asked for
        assert process.stdout is not None  # noqa: S101 - the same
        return cls(process, process.stdin, process.stdout)

    async def end(self, within: float = _ENDS_WITHIN) -> None:
        """Close its stdin and wait for its end; kill it after `within` seconds or when cancelled."""
        self.stdin.close()
        try:
            async with asyncio.timeout(within):
                await self.process.wait()
        except (TimeoutError, asyncio.CancelledError) as late:
            with contextlib.suppress(ProcessLookupError):  # it may have ended in this moment
                self.process.kill()
            await shielded(self.process.wait())
            if not isinstance(late, TimeoutError):
                raise
