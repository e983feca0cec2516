"""SQLite for programs with an event loop: one thread writes, a few read, each with a connection of its own."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from threading import Lock, local
from typing import Any, TypeVar

from taskctl.errors import Unavailable
from taskctl.observe import Statement
from taskctl.storage.driver import Row, Work
from taskctl.storage.sqlite import File, InlineSqlite, drive

T = TypeVar("T")

READERS = 4


class ThreadedSqlite:
    """A driver whose work never blocks the event loop.

    The whole of a transaction runs in the thread, not its statements one by one: there is one way there and one back.
    """

    def __init__(self, file: File) -> None:
        self._file = file
        self._local = local()
        self._opened: list[InlineSqlite] = []
        self._lock = Lock()
        self._writer = ThreadPoolExecutor(1, "taskctl-write")
        self._readers = ThreadPoolExecutor(READERS, "taskctl-read")

    def _inline(self) -> InlineSqlite:
        """Return this thread's driver."""
        inline: InlineSqlite | None = getattr(self._local, "inline", None)
        if inline is None:
            inline = self._local.inline = InlineSqlite(self._file)
            with self._lock:
                self._opened.append(inline)
        return inline

    dialect = InlineSqlite.dialect

    async def fetch(self, sql: str, params: Sequence[Any] = (), *, fixed: bool = False, name: Statement = "other") -> list[Row]:
        return await self._run(self._readers, lambda: drive(self._inline().fetch(sql, params, fixed=fixed, name=name)))

    async def read(self, work: Work[T]) -> T:
        return await self._run(self._readers, lambda: drive(self._inline().read(work)))

    async def write(self, work: Work[T]) -> T:
        return await self._run(self._writer, lambda: drive(self._inline().write(work)))

    async def _run(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        try:
            future = threads.submit(copy_context().run, work)  # what it tells is told on behalf of whoever asked
        except RuntimeError:
            raise Unavailable("the service is being closed") from None
        return await asyncio.wrap_future(future)

    async def close(self) -> None:
        def end() -> None:
            self._writer.shutdown()
            self._readers.shutdown()
            for inline in self._opened:
                with suppress(Unavailable):
                    drive(inline.close())

        await asyncio.to_thread(end)
