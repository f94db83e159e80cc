"""The thread that works on the store, so that what is written is written while the caller works out what comes next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

AHEAD = 2  # calls that may wait to be carried out: each may hold a part of a batch
T = TypeVar("T")


class Writer:
    """Carries out calls on a thread of its own, one after the other. Belongs to one other thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "store")
        self._waiting: deque[Future[Any]] = deque()

    def later(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Have a call carried out after those before it; waits while AHEAD others are waiting."""
        while len(self._waiting) >= AHEAD:
            self._waiting.popleft().exception()
        future = self._thread.submit(function, *args)
        self._waiting.append(future)
        return future

    def now(self, function: Callable[..., T], *args: Any) -> T:
        """Have a call carried out after those before it, and wait for what it returns or raises."""
        self._waiting.clear()
        return self._thread.submit(function, *args).result()

    def close(self) -> None:
        """End the thread once all is carried out."""
        self._thread.shutdown()
