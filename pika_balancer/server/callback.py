"""Delivery of callbacks: one POST for each ended job, in bounded time, whose failure harms nobody."""

import asyncio
import logging
from typing import Final

import aiohttp

from pika_balancer._util.network import SCOPES, Scope, sockets_to
from pika_balancer.secret import Secret

TIMEOUT: Final = 30.0
"""Seconds within which a receiver's status line must arrive."""

_log = logging.getLogger(__name__)


_HERE: Final = frozenset[Scope]({"loopback"})
# Not to the link itself: no receiver is there, but the address at which clouds hand out credentials.
_ANYWHERE: Final = SCOPES - {"link-local"}


class CallbackSender:
    """Sends callbacks in the background until closed; may be used again after that.

    Args:
        allow_remote: Whether they may go to other machines. Whatever the name in a URL means, no connection
            is made to an address that is not allowed.
    """

    def __init__(self, *, allow_remote: bool = False) -> None:
        self._scopes = _ANYWHERE if allow_remote else _HERE
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, url: Secret, body: bytes, *, jobid: str) -> None:
        """Begin to POST the JSON `body` to `url`, once; needs a running event loop."""
        task = asyncio.get_running_loop().create_task(self._post(url, body, jobid))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is under way, and leave no task or socket behind."""
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
            # Delivered is when the status line is here: some receivers never end their answer, so the body
            # is left unread. No redirect is followed: it could lead off this machine.
            response = await self._session.post(
                url.reveal(), data=body, headers=headers, allow_redirects=False
            )
            response.release()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            _log.info("callback of %s was not delivered: %s", jobid, type(error).__name__)
        else:
            _log.debug("callback of %s was delivered: %s", jobid, response.status)
