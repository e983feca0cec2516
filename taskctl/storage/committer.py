"""Group commit: many concurrent writes, one transaction, one outcome each.

While a transaction of a workspace is under way, the changesets that arrive wait in the workspace's lane and form the next
one; lanes do not wait for each other. Where the database can, the next one is on its way already, so that the database
writes one batch while the next is put together. Whoever submits waits for its outcome,
but does not own the write: a caller that is cancelled never cancels a commit. Batches are bounded, and so is what waits;
beyond that the answer is Overloaded, at once.

When the connection breaks during a commit, it is not known whether it happened. Then the log is asked, for as long as a
writer may wait: a batch that is there has happened, one that is not is written again. Meanwhile the lane goes on.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, copy_context
from typing import Any, NamedTuple, TypeAlias

from taskctl.errors import OutcomeUnknown, Overloaded, TaskctlError, Unavailable
from taskctl.log import Step
from taskctl.observe import BatchCommitted, Observer, on_behalf_of
from taskctl.storage.driver import Doubtful
from taskctl.storage.ledger import Entered, Ledger, Outcome, Pending
from taskctl.tasks import Add, Edit, Written

OPERATIONS_MAX = 1_000
"""In one transaction; a single changeset may have no more than half of it."""
CHARACTERS_MAX = 4 * 1024 * 1024
"""Of descriptions, in one transaction; the rest of a task is small."""
WAITING_MAX = 10_000
"""Operations that wait, over all workspaces."""
SPLIT_MIN = 16
"""So many changesets that find nothing under way go out as two batches, where two may be."""


_log = logging.getLogger("taskctl.storage")

Told: TypeAlias = Callable[[Sequence[Step]], None]


def nobody(workspace: str) -> Told:
    """Return who is told of what is written: nobody."""
    del workspace
    return _unheard


def _unheard(steps: Sequence[Step]) -> None:
    del steps


class _Waiting(NamedTuple):
    pending: Pending
    operations: int
    characters: int
    outcome: asyncio.Future[Outcome]
    context: Context


class _Lane:
    """What waits in a workspace, and how many of its transactions are under way."""

    def __init__(self) -> None:
        self.waiting: deque[_Waiting] = deque()
        self.flying = 0


class Committer:
    """Gathers changesets into batches, and has the ledger write them.

    width: how many transactions of a workspace may be under way; patience: for how many seconds an outcome that is in doubt is
    looked for, before it is OutcomeUnknown. watch: is called with the workspace before each batch; what it returns is told of
    the batch's entries, once they are durable and before anybody has an answer.
    """

    def __init__(
        self, ledger: Ledger, observer: Observer, *, width: int, patience: float, watch: Callable[[str], Told] = nobody
    ) -> None:
        self._ledger = ledger
        self._watch = watch
        self._observer = observer
        self._width = width
        self._patience = patience
        self._lanes: dict[str, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many operations wait to be written, or are being written."""
        return self._waiting

    async def submit(self, workspace: str, pending: Pending) -> Outcome:
        """Return what became of the changeset, once it is durable.

        Raises Unavailable if it could not be written, OutcomeUnknown if nobody can tell.
        """
        operations = len(pending.changes.operations)
        if self._closed:
            raise Unavailable("the service is being closed")
        if self._waiting + operations > WAITING_MAX:
            raise Overloaded(f"{self._waiting} operations are waiting to be written already")
        self._waiting += operations
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(pending, operations, _characters(pending), outcome, copy_context())
        lane = self._lanes.get(workspace)
        if lane is None:
            lane = self._lanes[workspace] = _Lane()
        lane.waiting.append(waiting)
        if len(lane.waiting) == 1:
            self._send(workspace, lane)
        return await outcome  # whoever leaves cancels this, and not the write

    async def close(self) -> None:
        """Take nothing more, and return when all that was taken is written."""
        self._closed = True
        while self._tasks or self._lanes:
            await (asyncio.wait(self._tasks) if self._tasks else asyncio.sleep(0))

    def _start(self, work: Coroutine[Any, Any, None], batch: Sequence[_Waiting]) -> None:
        contexts = [waiting.context for waiting in batch if not waiting.outcome.done()]
        task = asyncio.create_task(work, context=on_behalf_of(contexts))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _send(self, workspace: str, lane: _Lane) -> None:
        """Send off what waits, if one more may be under way. It leaves soon, not now: whoever submits until then goes along."""
        if lane.waiting and lane.flying < self._width:
            lane.flying += 1
            asyncio.get_running_loop().call_soon(self._leave, workspace, lane)
        elif not lane.waiting and not lane.flying:
            self._lanes.pop(workspace, None)

    def _leave(self, workspace: str, lane: _Lane) -> None:
        split = lane.flying == 1 and len(lane.waiting) >= SPLIT_MIN
        batch = _taken(lane.waiting, len(lane.waiting) // self._width if split else OPERATIONS_MAX)
        if not batch:  # another one has taken it all
            lane.flying -= 1
            self._send(workspace, lane)
            return
        self._send(workspace, lane)
        self._start(self._fly(workspace, lane, batch), batch)

    async def _fly(self, workspace: str, lane: _Lane, batch: Sequence[_Waiting]) -> None:
        await self._write(workspace, batch, time.monotonic() + self._patience)
        self._waiting -= sum(waiting.operations for waiting in batch)
        lane.flying -= 1
        self._send(workspace, lane)

    async def _write(self, workspace: str, batch: Sequence[_Waiting], deadline: float) -> None:
        started = time.perf_counter()
        told = self._watch(workspace)
        try:
            entered = await self._ledger.write(workspace, [waiting.pending for waiting in batch])
        except Doubtful as e:
            # Whatever was spent on getting there: the log is looked at.
            until = max(deadline, time.monotonic() + self._patience)
            self._start(self._settle(workspace, batch, e.value, told, started, until), batch)
        except Exception as e:
            if len(batch) > 1 and not isinstance(e, TaskctlError):
                # The database refused something in the batch: one by one, only the guilty one fails.
                for waiting in batch:
                    await asyncio.create_task(self._write(workspace, [waiting], deadline), context=waiting.context)
                return
            for waiting in batch:
                if not waiting.outcome.done():
                    waiting.outcome.set_exception(e)
        else:
            self._committed(workspace, batch, entered, told, time.perf_counter() - started)

    def _committed(self, workspace: str, batch: Sequence[_Waiting], entered: Entered, told: Told, seconds: float) -> None:
        lane = self._lanes.get(workspace)
        operations = sum(one.operations for one in batch)
        waiting = len(lane.waiting) if lane else 0
        contexts = [one.context for one in batch]
        self._observer(BatchCommitted(workspace, len(batch), operations, waiting, seconds, *_became(entered.steps), contexts))
        try:
            told(entered.steps)
        except Exception:  # it is written all the same, and whoever waits is to know
            _log.exception("what was written could not be told")
        _answer(batch, entered.outcomes)

    async def _settle(
        self, workspace: str, batch: Sequence[_Waiting], entered: Entered, told: Told, started: float, deadline: float
    ) -> None:
        """Find out what became of a batch whose commit was cut off. started: when its transaction began."""
        while time.monotonic() < deadline:
            try:
                if await self._ledger.has(workspace, entered):
                    self._committed(workspace, batch, entered, told, time.perf_counter() - started)
                else:
                    await self._write(workspace, batch, deadline)
                return
            except Exception:  # whatever it is that keeps us from looking: those who wait are to have an answer
                await asyncio.sleep(random.uniform(0.05, 0.15))  # noqa: S311  # nosec B311  # so that replicas do not knock all at once
        unknown = OutcomeUnknown(
            "the connection to the database broke during the commit, and what became of it cannot be found out"
        )
        _answer(batch, [unknown if entered.foreseen or _wrote(outcome) else outcome for outcome in entered.outcomes])


def _taken(waiting: deque[_Waiting], most: int) -> list[_Waiting]:
    """Return what comes next, as much as fits into one transaction, and take it from what waits."""
    batch: list[_Waiting] = []
    operations = characters = 0
    while waiting and len(batch) < most:
        operations += waiting[0].operations
        characters += waiting[0].characters
        if batch and (operations > OPERATIONS_MAX or characters > CHARACTERS_MAX):
            break
        batch.append(waiting.popleft())
    return batch


def _became(steps: Sequence[Step]) -> tuple[int, tuple[float, ...]]:
    """Return how many tasks entries have added, and of each that became done, the seconds since it was created."""
    created, leads = 0, []
    for step in steps:
        before, after = step.tasks
        created += before is None
        if after is not None and after.completed_at is not None and (before is None or before.completed_at is None):
            leads.append(max(0.0, (after.completed_at - after.created_at).total_seconds()))
    return created, tuple(leads)


def _answer(batch: Sequence[_Waiting], outcomes: Sequence[Outcome]) -> None:
    for waiting, outcome in zip(batch, outcomes, strict=True):
        if not waiting.outcome.done():  # its caller may be gone
            waiting.outcome.set_result(outcome)


def _wrote(outcome: Outcome) -> bool:
    """Return whether there is anything in an outcome that a commit could have made true."""
    return isinstance(outcome, Written) and not all(isinstance(result, TaskctlError) for result in outcome.results)


def _characters(pending: Pending) -> int:
    """Return how long the descriptions of a changeset are."""
    found = 0
    for operation in pending.changes.operations:
        match operation:
            case Add(task=new) | Edit(patch=new):
                found += len(new.description or "") if isinstance(new.description, str) else 0
            case _:
                pass
    return found
