"""Batches that are worked out before the workspace is theirs: what a database far away would otherwise wait for.

The rules need to know where the workspace stands: the end of its log, the next id, the rows that are named. Under the lock
that takes a round trip, and while the rows are worked out the database has nothing to do. But this process knows where its
last batch will leave the workspace, before that one has ended. So the next one is worked out from there and sent, the lock
and all, in one message; the database writes it only if the workspace does stand so. If somebody else has written, it is
worked out again, under the lock, as `ledger.py` does it, and so are the next ones until nobody else seems to write.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

from taskctl.storage.driver import Connection, Driver, Overtaken
from taskctl.storage.ledger import Draft, Entered, Found, Ledger, Named, Pending, commit, read
from taskctl.storage.rows import Head, Record
from taskctl.tasks import Task

T = TypeVar("T")

CLOCK_SECONDS = 1.0
"""For so long the database's clock is known from when it was last read."""
RECENT_MAX = 8
"""Batches whose tasks are remembered, while a reader may not see them yet."""

_NOWHERE = Head(0, 0, 0, 0, None)


class Taking(Connection, Protocol):
    """A connection that can ask for the workspace without waiting to know whether it got it."""

    async def take(self, workspace: str, expected: Head) -> None:
        """Take the workspace for writing if it stands so; else do nothing of what follows, and end with Overtaken."""


class Distant(Driver, Protocol):
    """A database whose every round trip counts."""

    async def write(self, work: Callable[[Taking], Awaitable[T]]) -> T:
        """Run the work in a transaction. Raises Overtaken if that is how it ended: then nothing was written."""


class Foresight(Ledger):
    """A ledger that begins with the next batch while the last one is on its way."""

    def __init__(self, driver: Distant) -> None:
        super().__init__(driver)
        self._distant = driver
        self._standing: dict[str, _Standing] = {}

    async def write(self, workspace: str, batch: Sequence[Pending]) -> Entered:
        standing = self._standing.get(workspace)
        if standing is None:
            standing = self._standing[workspace] = _Standing()
        named = Named(batch)

        async def foresee(connection: Taking) -> Entered:
            async with standing.turn:  # the next one begins where this one ends
                if not standing.holds or (named and standing.under_way == 1):  # then the rows are read with the lock
                    return await _learn(connection, workspace, standing, batch)
                return await _foresee(connection, workspace, standing, named, batch)

        async def learn(connection: Taking) -> Entered:
            async with standing.turn:
                return await _learn(connection, workspace, standing, batch)

        standing.under_way += 1
        try:
            with suppress(Overtaken):
                return await self._distant.write(foresee)
            standing.alone = False
            return await self._distant.write(learn)
        finally:
            standing.under_way -= 1
            if not standing.under_way:
                standing.forget()


async def _learn(connection: Connection, workspace: str, standing: "_Standing", batch: Sequence[Pending]) -> Entered:
    """Write a batch under the lock, and take note of where it leaves the workspace."""
    draft, outcomes = await commit(connection, workspace, batch)
    standing.learn(draft)
    return draft.entered(outcomes)


async def _foresee(connection: Taking, workspace: str, standing: "_Standing", named: Named, batch: Sequence[Pending]) -> Entered:
    """Write a batch as if nobody else wrote. Raises Overtaken if somebody does."""
    known: Found | None = Found(standing.head, standing.epoch, standing.now())
    if named:
        known = standing.brought_forward(await read(connection, workspace, named), named)
    if known is None:
        return await _learn(connection, workspace, standing, batch)
    draft = Draft(known)
    outcomes = [draft.run(pending) for pending in batch]
    if not draft.entries:  # little or nothing is written, and nothing would tell whether it is true
        return await _learn(connection, workspace, standing, batch)
    standing.advance(draft)
    await connection.take(workspace, draft.before)
    await draft.write(connection)
    return draft.entered(outcomes)._replace(foreseen=True)


class _Standing:
    """Where a workspace stands when all that this process has sent is written, and nobody else has written anything.

    After a batch that failed it is wrong, until the next one learns better: the database takes nothing that rests on it.

    turn: is held by whoever works a batch out. under_way: how many batches are. alone: whether nobody else seems to write.
    """

    def __init__(self) -> None:
        self.head = _NOWHERE
        self.epoch = ""
        self.turn = asyncio.Lock()
        self.under_way = 0
        self.alone = False
        self._read_at = -CLOCK_SECONDS
        self._now = 0
        self._known = 0
        self._recent: deque[tuple[int, dict[int, Task | None], list[Record]]] = deque()

    @property
    def holds(self) -> bool:
        """Whether it is likely true, and its clock was read a moment ago."""
        return self.alone and time.monotonic() - self._read_at < CLOCK_SECONDS

    def now(self) -> int:
        """Return the database's time."""
        return self._now + int((time.monotonic() - self._read_at) * 1_000_000)

    def learn(self, draft: Draft) -> None:
        """Take note of a batch that was worked out under the lock."""
        self.alone = self.head in (draft.before, _NOWHERE)
        self.epoch, self._now, self._read_at = draft.found.epoch, draft.found.now, time.monotonic()
        self._known = draft.before.seq
        self._recent.clear()
        self.advance(draft)

    def advance(self, draft: Draft) -> None:
        """Take note of a batch that is about to be sent."""
        self.head = draft.head
        changed = {entry.task.id: draft.tasks.get(entry.task.id) for entry in draft.entries}
        self._recent.append((draft.head.seq, changed, draft.recorded))
        if len(self._recent) > RECENT_MAX:
            self._known, *_ = self._recent.popleft()

    def forget(self) -> None:
        """Forget the tasks of the batches that are written."""
        self._recent.clear()
        self._known = self.head.seq

    def brought_forward(self, found: Found, named: Named) -> Found | None:
        """Return what was found as it will be when the batches are written that were not there yet when it was read.

        None if somebody else must have written, or if it was read too long ago.
        """
        if not self._known <= found.head.seq <= self.head.seq:
            return None
        tasks = {task.id: task for task in found.tasks}
        records = {record.key: record for record in found.records}
        for seq, changed, recorded in self._recent:
            records |= {record.key: record for record in recorded if record.key in named.keys}
            if seq > found.head.seq:
                for id, task in changed.items():
                    if task is None:
                        tasks.pop(id, None)
                    elif id in named.ids or str(task.uid) in named.uids:
                        tasks[id] = task
        return Found(self.head, self.epoch, self.now(), list(tasks.values()), list(records.values()))
