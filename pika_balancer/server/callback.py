"""Delivery of callbacks: one POST for each ended job, in bounded time; failures are only logged."""

import asyncio
import logging
from typing import Final

import aiohttp

from pika_balancer._util.network import SCOPES, Scope, sockets_to
from pika_balancer.secret import Secret

TIMEOUT: Final = 30.0
"""Seconds within which a receiver's status line must arrive."""

_log = logging.getLogger(__name__)
_LOCAL: Final = frozenset[Scope]({"loopback"})
# Never link-local: clouds serve credentials there.
_REMOTE: Final = SCOPES - {"link-local"}


class CallbackSender:
    """Sends callbacks in the background until closed; may be used again after that.

    Args:
        allow_remote: Whether they may go to other machines. The address of the connection is checked, so a
            host name cannot lead around this.
    """

    def __init__(self, *, allow_remote: bool = False) -> None:
        self._scopes = _REMOTE if allow_remote else _LOCAL
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, url: Secret, body: bytes, *, jobid: str) -> None:
        """Start to POST the JSON `body` to `url`, once; needs a running event loop."""
        task = asyncio.get_running_loop().create_task(self._post(url, body, jobid))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel pending callbacks and close all sockets."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _post(self, url: Secret, body: bytes, jobid: str) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=TIMEOUT),
                cookie_jar=aiohttp.DummyCookieJar(),
                connector=aiohttp.TCPConnector(limit=0, socket_factory=sockets_to(self._scopes)),
            )
        headers = {"Content-Type": "application/json"}
        try:
            # The body is not read, because some receivers never end their answer. No redirect is followed,
            # because it could lead to another machine.
            response = await self._session.post(
                url.reveal(), data=body, headers=headers, allow_redirects=False
            )
            response.release()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            _log.info("callback of %s was not delivered: %s", jobid, type(error).__name__)
        else:
            _log.debug("callback of %s was delivered: %s", jobid, response.status)
