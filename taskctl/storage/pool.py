"""A small pool of connections, for databases that may go away.

Connecting is nobody's errand: whoever needs a connection waits for the next free one, and a task of the pool's own connects.
So a slow connect holds up nobody who could have had another connection, and a caller who leaves breaks no connect off.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Generic, Protocol, TypeVar, cast

from taskctl.errors import Overloaded, Unavailable

WAITING_MAX = 1_000
"""Callers that wait for a connection; beyond that they are told at once."""
AGE_MAX = 1_800.0
"""Seconds after which a connection is replaced: a database that moved, or grew its memory, is followed."""


class Pooled(Protocol):
    """What a pool holds."""

    @property
    def usable(self) -> bool:
        """False once it is closed or in the middle of something."""

    def close(self) -> None:
        """Close it at once."""


C = TypeVar("C", bound=Pooled)


class Pool(Generic[C]):
    """At most `size` connections.

    connect: makes one; raises Unavailable. outage: returns what is known of the database being away, None if it is not.
    silent: is told when a caller has waited for the first connection in vain.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[C]],
        outage: Callable[[], Unavailable | None],
        silent: Callable[[Unavailable], None],
        *,
        size: int,
    ) -> None:
        self._connect = connect
        self._outage = outage
        self._silent = silent
        self._size = size
        self._idle: list[tuple[C, float]] = []
        self._busy: dict[C, float] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._waiting: deque[asyncio.Future[C]] = deque()
        self._closed = False

    @property
    def connections(self) -> int:
        """How many connections there are, idle or in use. Those that broke meanwhile are closed first."""
        for connection, _ in self._idle:
            if not connection.usable:
                connection.close()
        self._idle = [(connection, born) for connection, born in self._idle if connection.usable]
        return len(self._idle) + len(self._busy)

    @property
    def states(self) -> Mapping[str, int]:
        """How many connections there are in each state."""
        return {"idle": len(self._idle), "busy": len(self._busy), "connecting": len(self._connecting)}

    @property
    def waiters(self) -> int:
        """How many wait for a connection."""
        return len(self._waiting)

    @asynccontextmanager
    async def connection(self, *, first: float, next: float) -> AsyncIterator[C]:
        """Lend a connection. It comes back to the pool afterwards, unless it is no longer usable.

        first: seconds to wait for one if there is none at all, next: if all are in use. Raises Unavailable, Overloaded.
        """
        connection = await self._take(first, next)
        try:
            yield connection
        finally:
            born = self._busy.pop(connection)
            if connection.usable and not self._closed and time.monotonic() - born < AGE_MAX:
                self.give(connection, born)
            else:
                connection.close()
                self._grow()

    async def _take(self, first: float, next: float) -> C:
        if self._closed:
            raise Unavailable("the service is being closed")
        if (failure := self._outage()) is not None:
            raise failure
        while self._idle:
            connection, born = self._idle.pop()
            if connection.usable:
                self._busy[connection] = born
                return connection
            connection.close()
        if len(self._waiting) >= WAITING_MAX:
            raise Overloaded(f"{len(self._waiting)} callers are waiting for a connection to the database already")
        future: asyncio.Future[C] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._grow()
        seconds = next if self._busy else first
        try:
            async with asyncio.timeout(seconds):
                return await future
        except BaseException as e:
            if future.done() and not future.cancelled() and future.exception() is None:
                connection = future.result()
                self.give(connection, self._busy.pop(connection))
            future.cancel()
            if isinstance(e, TimeoutError):
                if self._busy:
                    raise Overloaded(f"all {self._size} connections to the database have been busy for {seconds:g} s") from None
                failure = Unavailable(f"the database has not let us in for {seconds:g} s")
                self._silent(failure)
                raise failure from None
            raise
        finally:
            if future in self._waiting:
                self._waiting.remove(future)

    def give(self, connection: C, born: float) -> None:
        """Hand a connection to whoever waits the longest, or keep it."""
        if self._closed:
            connection.close()
            return
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                self._busy[connection] = born
                future.set_result(connection)
                return
        self._idle.append((connection, born))

    def _grow(self) -> None:
        """Connect as long as somebody waits for whom there is no connection under way."""
        room = self._size - self.connections - len(self._connecting)
        for _ in range(min(room, len(self._waiting) - len(self._connecting))):
            if self._closed or self._outage() is not None:
                return
            task = asyncio.create_task(self._add(), context=Context())  # it is for who waits longest, not for who is here
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)  # one that is cancelled before it begins ends here, too

    async def _add(self) -> None:
        try:
            connection = await self._connect()
        except Unavailable as e:
            self._connecting.discard(cast("asyncio.Task[None]", asyncio.current_task()))
            if not self.connections:
                self.fail(e)  # nobody is left who could give one back
            return
        self._connecting.discard(cast("asyncio.Task[None]", asyncio.current_task()))
        self.give(connection, time.monotonic())
        self._grow()

    def fail(self, failure: Unavailable) -> None:
        """Tell all who wait that there will be no connection."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(failure)
                future.exception()  # whoever waited may be gone

    def drop(self) -> None:
        """Close all connections, those in use as well, and give up what is being connected."""
        for task in self._connecting:
            if task is not asyncio.current_task():
                task.cancel()
        for connection, _ in self._idle:
            connection.close()
        self._idle.clear()
        for connection in self._busy:
            connection.close()

    async def close(self) -> None:
        """Close the connections, each once it is no longer in use."""
        self._closed = True
        self.fail(Unavailable("the service is being closed"))
        for task in list(self._connecting):
            task.cancel()
        if self._connecting:
            await asyncio.wait(self._connecting)
        while self._busy:  # noqa: ASYNC110  # once in the life of a service
            await asyncio.sleep(0.005)
        for connection, _ in self._idle:
            connection.close()
        self._idle.clear()
