"""Fetching objects ahead of their use: several requests at once, answers in order.

Owned here: how many are under way. They run on the event loop that zarr keeps in a thread of its
own, so that a notebook's running loop does not matter.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from zarr.core.sync import sync

from jaxstore.errors import FormatError

Found = bytes | FormatError | None  # an object, why it is none of ours, or that there is none
AT_ONCE = 16  # requests; also as many chunks in memory, beside the one that is decoded


def fetch_ahead[T](
    keys: Iterable[str], fetch: Callable[[str], Coroutine[Any, Any, T]]
) -> Iterator[T]:
    """What `fetch` gives for each key, in order.

    Args:
        keys: Taken no further than is fetched.
        fetch: Of one key. Its exception is raised where its answer is due.
    """
    loop = sync(_running_loop())
    waiting: deque[Future[T]] = deque()
    try:
        for key in keys:
            waiting.append(asyncio.run_coroutine_threadsafe(fetch(key), loop))
            if len(waiting) == AT_ONCE:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


async def _running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()
