"""One connection to the server of a pool, for commands or for messages."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Final

from pika_balancer.clock import Clock
from pika_balancer.store.redis.endpoint import Endpoint
from pika_balancer.store.redis.scripts import KEYS, Script

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


class Backoff:
    """Pauses between attempts to connect: twice as long after each failure, from 0.1 s to 5 s, and spread.

    Args:
        rng: Spreads the pauses, so that the processes of a pool do not come back at the same moment.
        clock: Measures the pauses.
    """

    def __init__(self, rng: random.Random, clock: Clock) -> None:
        self._rng = rng
        self._clock = clock
        self._failures = 0

    def reset(self) -> None:
        """Start again with the shortest pause."""
        self._failures = 0

    async def pause(self) -> None:
        seconds = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**self._failures)
        self._failures += 1
        await self._clock.sleep(seconds * self._rng.uniform(0.5, 1.5))


class Connection:
    """A connection to the server, closed at first."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._connection: Any = None

    async def connect(self, *, refresh: bool) -> None:
        """Connect; with `refresh` ask a cluster again which node has the pool's keys.

        Raises:
            Away: The server cannot be reached now.
            ServerRefused: It cannot be used.
        """
        try:
            await self._endpoint.locate(refresh=refresh)
            _raise_if_cancelled()
            connection = self._endpoint.new_connection()
            try:
                # Not `wait_for`: before Python 3.12 it swallows a cancellation in the tick of the success,
                # and the caller of `cancel` then waits for ever.
                async with asyncio.timeout(self._endpoint.timeout):
                    await connection.connect()
                _raise_if_cancelled()
            except BaseException:
                await connection.disconnect()
                raise
        except Exception as error:  # noqa: BLE001 - every failure is one of two
            failure = self._endpoint.failure(error)
        else:
            self._connection = connection
            return
        # Outside of the handler: the library's errors refer to connections, and these to their credentials.
        raise failure

    def run(self, script: Script, arguments: Sequence[object], *, whole: bool = False) -> None:
        """Send a script for the pool's keys and return at once.

        Args:
            script: The script.
            arguments: Its ARGV.
            whole: Whether to send its text, because the server does not know its hash.
        """
        begin = (b"EVAL", script.text) if whole else (b"EVALSHA", script.sha)
        self.send(*begin, len(KEYS), *self._endpoint.keys, *arguments)

    def send(self, *command: object) -> bool:
        """Send a command and return at once; return False if the connection is closed."""
        writer = None if self._connection is None else self._connection._writer  # noqa: SLF001 - the stream, in redis-py and valkey-py
        if writer is None:
            return False
        parts = [b"*%d\r\n" % len(command)]
        for value in command:
            text = value if isinstance(value, bytes) else str(value).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(text), text))
        # The library's own method is a coroutine, and `release` must not wait.
        writer.write(b"".join(parts))
        return True

    async def receive(self) -> Any:
        """Return the next reply or message, undecoded; None if the server does not know a script's hash.

        Raises:
            Away: The connection broke, or the server cannot serve now.
            ServerRefused: The server refuses.
        """
        try:
            return await self._connection.read_response(disable_decoding=True)
        except self._endpoint.unknown_script:
            return None
        except Exception as error:  # noqa: BLE001 - every failure is one of two
            failure = self._endpoint.failure(error)
        raise failure

    def abort(self) -> None:
        """Break the connection at once."""
        if self._connection is not None and self._connection._writer is not None:  # noqa: SLF001 - as in `send`
            self._connection._writer.transport.abort()  # noqa: SLF001 - a proper close may wait

    async def disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect()


def _raise_if_cancelled() -> None:
    """Raise a cancellation that the library has swallowed, which another task waits for."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
