"""What has to be seen through to its end, whoever loses patience with it meanwhile."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def see_through(work: Coroutine[Any, Any, object]) -> None:
    """Do the work to its end; if cancelled meanwhile, be cancelled after that.

    For work that takes a short time, and whose half would leave something behind. A second cancellation is
    passed on to it.
    """
    task = asyncio.get_running_loop().create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            if cancelled is not None:
                task.cancel()
            cancelled = error
    if cancelled is not None:
        # Whatever else it failed with: who was cancelled is not to be told anything else.
        if not task.cancelled():
            task.exception()
        raise cancelled
    await task
