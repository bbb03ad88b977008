"""A module run as a process of its own, which the end of its stdin ends.

So it never outlives whoever started it, even one that is killed. It runs in a session of its own, where a
Ctrl-C that is meant for its parent does not reach it.
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
    """A process that reads its stdin, answers on its stdout, and ends when the former does."""

    process: asyncio.subprocess.Process
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader

    @classmethod
    async def start(cls, module: str, *, longest_line: int = 2**16) -> Self:
        """Run a module as `python -m` does; `end` has to follow.

        Args:
            module: Its full name.
            longest_line: Bytes of a line that can be read from its stdout.
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
        """Close its stdin and wait until it has ended; kill it after `within` seconds, or if cancelled."""
        self.stdin.close()
        try:
            async with asyncio.timeout(within):
                await self.process.wait()
        except (TimeoutError, asyncio.CancelledError) as late:
            with contextlib.suppress(ProcessLookupError):  # it may have ended in this very tick
                self.process.kill()
            await shielded(self.process.wait())
            if not isinstance(late, TimeoutError):
                raise
