"""Counting all tasks of a database, from time to time, for whoever observes it."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Final

from taskctl.conditions import Match, Overdue
from taskctl.errors import TaskctlError
from taskctl.fields import OPEN, STATUSES
from taskctl.filters import zone_of
from taskctl.observe import Observer, TasksCounted
from taskctl.storage import where
from taskctl.storage.driver import Connection, Driver, Row

COUNTED_SECONDS: Final = 15.0
"""Between two counts, at least."""
SHARE: Final = 20
"""A count that takes long is followed by a pause of so many times that."""
WANTED_SECONDS: Final = 300.0
"""For so long it goes on after somebody wanted to know."""
ALLOWED_SECONDS: Final = 60.0
"""A count may take so long; nobody waits for it, as for an answer, and in a large database no `database_timeout` would do."""

_log = logging.getLogger("taskctl.storage")


class Census:
    """Counts the tasks of all workspaces while somebody wants to know, and tells the observer.

    pause: seconds between two counts, at least.
    """

    def __init__(self, driver: Driver, observer: Observer, *, pause: float = COUNTED_SECONDS) -> None:
        self._driver = driver
        self._observer = observer
        self._pause = pause
        self._wanted = asyncio.Event()
        self._wanted_at = 0.0

    def want(self) -> None:
        """Want to know, now and for a while."""
        self._wanted_at = time.monotonic()
        self._wanted.set()

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[None]:
        """Count meanwhile, whenever it is time."""
        task = asyncio.create_task(self._count_again_and_again())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _count_again_and_again(self) -> None:
        while True:
            await self._wanted.wait()
            started = time.monotonic()
            try:
                self._observer(await self.count())
            except TaskctlError:
                pass  # it is told elsewhere, and how old the last count is tells of it, too
            except Exception:
                _log.exception("the tasks cannot be counted")
            await asyncio.sleep(max(self._pause, SHARE * (time.monotonic() - started)))
            if time.monotonic() - self._wanted_at > WANTED_SECONDS:
                self._wanted.clear()

    async def count(self) -> TasksCounted:
        """Return the counts of now, in one statement. Raises what the database says instead, also after ALLOWED_SECONDS."""
        now = datetime.now(UTC)
        context = where.Context(self._driver.dialect, "", zone_of("UTC"), now)
        overdue, params = where.condition(Overdue(), context)
        are_open, _ = where.condition(Match("status", OPEN), context)

        def each(what: str, condition: str) -> str:  # workspace by workspace, because that is how the indexes begin
            return f"(SELECT {what} FROM tasks WHERE workspace_id = workspaces.id AND ({condition}))"

        columns = [f"sum({each('count(*)', f'status = {rank}')})" for rank in range(len(STATUSES))]
        columns += [f"sum({each('count(*)', overdue)})", f"min({each('min(created_at)', are_open)})"]
        sql = f"SELECT {', '.join(columns)} FROM workspaces"

        async def ask(connection: Connection) -> list[Row]:
            await connection.allow(ALLOWED_SECONDS)
            return await connection.fetch(sql, params, name="census")

        [(*counts, late, oldest)] = await self._driver.read(ask)
        age = 0.0 if oldest is None else max(0.0, now.timestamp() - oldest / 1_000_000)
        return TasksCounted(dict(zip(STATUSES, map(int, counts), strict=True)), int(late), age)
