"""Group commit: while one transaction is under way, the changesets that arrive form the next one.

Each workspace has a lane of its own. A caller waits for its outcome, but does not own the write: a caller that is cancelled
never cancels a commit. Batches are bounded, and so is what waits; beyond that the answer is Overloaded, at once.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from taskctl.errors import Overloaded, TaskctlError, Unavailable
from taskctl.observe import BatchCommitted, Observer
from taskctl.storage.ledger import Outcome, Pending

OPERATIONS_MAX = 1_000
"""In one transaction; a single changeset may have no more than half of it."""
WAITING_MAX = 10_000
"""Operations that wait, over all workspaces."""

Commit = Callable[[str, Sequence[Pending]], Awaitable[list[Outcome]]]


class _Waiting(NamedTuple):
    pending: Pending
    outcome: asyncio.Future[Outcome]


class Committer:
    """Gathers changesets into batches, and has `commit` write them, one batch of a workspace at a time."""

    def __init__(self, commit: Commit, observer: Observer) -> None:
        self._commit = commit
        self._observer = observer
        self._lanes: dict[str, deque[_Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._closed = False

    async def submit(self, workspace: str, pending: Pending) -> Outcome:
        """Return what became of the changeset, once it is durable. Raises Unavailable if it could not be written."""
        size = len(pending.changes.operations)
        if self._closed:
            raise Unavailable("the service is being closed")
        if self._waiting + size > WAITING_MAX:
            raise Overloaded(f"{self._waiting} operations are waiting to be written already")
        self._waiting += size
        waiting = _Waiting(pending, asyncio.get_running_loop().create_future())
        if (lane := self._lanes.get(workspace)) is not None:
            lane.append(waiting)
        else:
            self._lanes[workspace] = deque([waiting])
            task = asyncio.create_task(self._run(workspace))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(waiting.outcome)

    async def close(self) -> None:
        """Take nothing more, and return when all that was taken is written."""
        self._closed = True
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self, workspace: str) -> None:
        """Write batches until nothing waits in the workspace's lane."""
        lane = self._lanes[workspace]
        try:
            while lane:
                batch, size = [], 0
                while lane and size + len(lane[0].pending.changes.operations) <= OPERATIONS_MAX:
                    batch.append(lane.popleft())
                    size += len(batch[-1].pending.changes.operations)
                started = time.perf_counter()
                await self._write(workspace, batch)
                self._waiting -= size
                seconds = time.perf_counter() - started
                self._observer(BatchCommitted(workspace, len(batch), size, len(lane), seconds))
        finally:
            del self._lanes[workspace]

    async def _write(self, workspace: str, batch: Sequence[_Waiting]) -> None:
        try:
            outcomes = await self._commit(workspace, [waiting.pending for waiting in batch])
        except Exception as e:
            if len(batch) > 1 and not isinstance(e, TaskctlError):
                # The database refused something in the batch: one by one, only the guilty one fails.
                for waiting in batch:
                    await self._write(workspace, [waiting])
                return
            for waiting in batch:
                waiting.outcome.set_exception(e)
                waiting.outcome.exception()  # its caller may be gone; that is no reason for a warning
            return
        for waiting, outcome in zip(batch, outcomes, strict=True):
            waiting.outcome.set_result(outcome)
