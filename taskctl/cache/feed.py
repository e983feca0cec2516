"""Follows the logs of workspaces, and so knows which of the answers that are remembered still hold.

The promise (docs/cache.md): no answer was out of date for more than `LEASE_SECONDS` when it was asked for, and none that a
write by this process had made so. It rests on one rule. An answer carries the end of its workspace's log at the moment it was
read, in the same statement. It holds if all entries since then are known, and none of them touches it, and the log has been
looked at to its end a moment ago. No clock of another machine is in it, and nothing that Redis says.
"""

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any, NamedTuple, Protocol

from taskctl.cache.memory import Kept
from taskctl.errors import TaskctlError
from taskctl.log import Log, Recent, Step
from taskctl.observe import FeedPolled, Observer
from taskctl.tasks import GetTask

POLL_SECONDS = 0.5
LEASE_SECONDS = 2.0
"""How long the end of a log is known from the moment in which looking for it began."""
JOIN_ENTRIES = 10_000
"""Entries of a log that are looked at when its workspace is asked for the first time: answers older than these are of no use."""
CHANGED_MAX = 50_000
"""Changes whose tasks are known, per workspace; with more, what was read before the oldest is of no use."""
STEPS_MAX = 500
"""Entries that lists are compared with, per workspace: one that nobody has asked for meanwhile is asked for anew."""
STEP_BYTES_MAX = 8 * 1024 * 1024
"""The same in bytes, about: an entry has a whole task in it."""
AHEAD_MAX = 5_000
"""Own entries that are known of before the log has told of them; with more, it is begun anew."""
WORKSPACES_MAX = 200
IDLE_SECONDS = 60.0
"""After so long without a question a log is followed no more."""
GATHER_SECONDS = 0.02
"""Between two looks at the logs, however often somebody says that there is something new."""

_log = logging.getLogger("taskctl.cache")


class Lease(Protocol):
    """How it is known that a log has not grown unseen."""

    def begin(self) -> Any:
        """Return a mark of this moment, before the end of a log is read."""

    def holds(self, mark: Any) -> bool:
        """Return whether what was read after that moment can still be taken for the end."""


class Moments:
    """The lease of a database that others write to: it holds for a while. A machine that sleeps does not stop its clock."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

    def begin(self) -> float:
        """Return the time."""
        return self._clock()

    def holds(self, mark: float) -> bool:
        """Return whether that was a moment ago."""
        return self._clock() - mark <= LEASE_SECONDS


class Look(NamedTuple):
    """A look at a log: the lease's mark and the doubts before it, and after which entry it begins."""

    mark: Any
    doubts: int
    since: int


class Following:
    """What is known of a workspace's log. It stands for one history: after a loss there is another one.

    applied: every entry up to here is known. base: of what changed up to here, not all is known. doubts: how often something
    has been said here that only a later look at the log can tell of. known: the same as `applied`, and own entries that follow it
    without a gap: they need not be read again. asked: whether anybody has asked since somebody looked at this.
    """

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self.joined = False
        self.epoch = ""
        self.history = ""
        self.applied = self.base = self.known = self.doubts = 0
        self.asked = True
        self._mark: Any = None
        self._doubted = False
        self._changed: dict[int, int] = {}
        self._order: deque[tuple[int, int]] = deque()
        self._steps: dict[int, Step] = {}
        self._ahead: set[int] = set()
        self._oldest = 1
        self._step_bytes = 0

    # ------------------------------------------------------------------------------------------------ what it is asked for

    @property
    def leased(self) -> bool:
        """Whether the log's end is known."""
        return self.joined and not self._doubted and self._lease.holds(self._mark)

    def holds(self, kept: Kept) -> bool:
        """Return whether an answer is still the one that the database would give, as far as the log is known."""
        if kept.seq < self.base:
            return False
        if type(kept.query) is GetTask:
            return self._changed.get(kept.query.id, 0) <= kept.seq  # type: ignore[arg-type]  # only ids are remembered
        return self._holds_list(kept)

    def _holds_list(self, kept: Kept) -> bool:
        while (step := self._steps.get(kept.checked + 1)) is not None:
            if kept.touched(step):
                return False
            kept.checked += 1
        if kept.checked < self.applied:  # what is not known any more may have touched it
            return False
        return not any(seq > kept.checked and kept.touched(self._steps[seq]) for seq in self._ahead)

    def reached(self, kept: Kept, seq: int) -> bool:
        """Return whether an answer that holds is at least as new as this entry."""
        return kept.seq >= seq or self.applied >= seq

    # ------------------------------------------------------------------------------------------------- what it is told

    def join(self, mark: Any, recent: Recent) -> None:
        """Begin to know the log, from what was read of it after the moment of the mark."""
        self.epoch, self.history = recent.epoch, recent.history
        self.applied, self.base = recent.head, recent.base
        self._oldest = recent.head + 1
        self.known = recent.head
        for id, seq in sorted(recent.changed.items(), key=lambda pair: pair[1]):
            self._change(id, seq)
            self._order.append((seq, id))
        for seq in [seq for seq in self._ahead if seq <= self.applied]:
            self._ahead.remove(seq)
            self._step_bytes -= self._steps.pop(seq).size
        self._follow_on()
        if self._ahead and max(self._ahead) > self.known:
            self.doubt()
        self._mark = mark
        self.joined = True

    def advance(self, look: "Look", head: int, steps: Sequence[Step]) -> bool:
        """Take note of what comes next in the log. Return False if it is not the log that was followed."""
        own = [self._steps[seq] for seq in range(self.applied + 1, look.since + 1)]
        for step in [*own, *steps]:
            if step.seq != self.applied + 1:
                return False
            self.applied = step.seq
            self._add(step)
            self._ahead.discard(step.seq)
            self._change(step.id, step.seq)
            self._order.append((step.seq, step.id))
        if head < self.applied or (head > self.applied and not steps):
            return False
        if head == self.applied and look.doubts == self.doubts:
            self._mark, self._doubted = look.mark, False
        self._follow_on()
        while self._oldest <= self.applied - STEPS_MAX or (self._step_bytes > STEP_BYTES_MAX and self._oldest <= self.applied):
            if (gone := self._steps.pop(self._oldest, None)) is not None:
                self._step_bytes -= gone.size
            self._oldest += 1
        while len(self._order) > CHANGED_MAX:
            seq, id = self._order.popleft()
            self.base = max(self.base, seq)
            if self._changed[id] == seq:
                del self._changed[id]
        return True

    def written(self, steps: Sequence[Step]) -> None:
        """Take note of entries that this process has written. They may come before others that are not known yet."""
        for step in steps:
            self._change(step.id, step.seq)
            if step.seq > self.applied:
                self._ahead.add(step.seq)
                self._add(step)
        if not self.joined:
            return
        self._follow_on()
        # Before an entry that leaves a gap, others have changed what it rests on; one that is known already is of another log.
        if steps and not self.applied < steps[0].seq <= steps[-1].seq <= self.known:
            self.doubt()

    @property
    def overrun(self) -> bool:
        """Whether so much has been written here that the log has not told of that it is better begun anew."""
        return len(self._ahead) > AHEAD_MAX

    def _add(self, step: Step) -> None:
        if step.seq not in self._steps:
            self._steps[step.seq] = step
            self._step_bytes += step.size

    def _follow_on(self) -> None:
        self.known = max(self.known, self.applied)
        while self.known + 1 in self._ahead:
            self.known += 1

    def doubt(self) -> None:
        """Take note that somebody has been told of something newer than what is known: nothing holds until that is known, too."""
        self.doubts += 1
        self._doubted = True

    def _change(self, id: int, seq: int) -> None:
        if self._changed.get(id, 0) < seq:
            self._changed[id] = seq


class Feed:
    """Follows the logs of the workspaces that are asked for.

    every: seconds between two looks at the logs, None to look only when woken. lost: is called when a history has ended, so
    that nothing of it is to be remembered.
    """

    def __init__(
        self, log: Log, lease: Lease, *, every: float | None, observer: Observer, lost: Callable[[], None] = lambda: None
    ) -> None:
        self._log = log
        self._lease = lease
        self._every = every
        self._observer = observer
        self._lost = lost
        self._followed: OrderedDict[str, Following] = OrderedDict()
        self._history = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._woken = asyncio.Event()
        self._closed = False
        self._failing = False
        self._next_sweep = 0.0
        self._reached = time.monotonic()  # when the last look began that reached the ends of all logs

    def following(self, workspace: str) -> Following | None:
        """Return what is known of a workspace's log; None as long as that is nothing. Then it will be."""
        found = self._followed.get(workspace)
        if found is None:
            self._join(workspace)
            return None
        found.asked = True
        return found if found.joined else None

    def current(self, workspace: str, following: Following) -> bool:
        """Return whether this is still the history that is followed."""
        return self._followed.get(workspace) is following

    def followed(self, workspace: str) -> Following | None:
        """Return what is known of a workspace's log, if anything, and leave it at that."""
        return self._followed.get(workspace)

    def written(self, workspace: str, steps: Sequence[Step], following: Following | None) -> Following | None:
        """Take note of what this process has written, before anybody is told; return whose log that is, if it is followed.

        following: of when the write began. If it is another one by now, nobody knows whether what was written is in its history.
        """
        self._woken.set()
        if following is not None and self.current(workspace, following):
            following.written(steps)
            if following.overrun:
                del self._followed[workspace]
                return None
            return following
        self.doubt(workspace)
        return None

    def doubt(self, workspace: str) -> None:
        """Look at the logs before anything that is remembered of this workspace is believed again."""
        found = self._followed.get(workspace)
        if found is not None:
            found.doubt()
            self._woken.set()

    def wake(self, workspace: str) -> None:
        """Look at the logs soon: somebody says that there is something new in this one."""
        if workspace in self._followed:
            self._woken.set()

    @property
    def workspaces(self) -> int:
        """How many logs are followed."""
        return len(self._followed)

    @property
    def held(self) -> bool:
        """Whether the ends of all logs that are followed are known."""
        return all(following.leased for following in self._followed.values() if following.joined)

    @property
    def lag(self) -> float:
        """Seconds since the last look that reached the ends of all logs began; 0 if none is followed."""
        return time.monotonic() - self._reached if self._followed else 0.0

    def start(self) -> None:
        """Begin to look."""
        self._start(self._go_on())

    async def close(self) -> None:
        """Look no more."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work, context=Context())  # for whom it is begun has long gone when it goes on
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _join(self, workspace: str) -> None:
        if self._closed:
            return
        following = self._followed[workspace] = Following(self._lease)  # so that what is written meanwhile is known
        if len(self._followed) > WORKSPACES_MAX:
            self._followed.popitem(last=False)
        self._start(self._get_to_know(workspace, following))

    async def _get_to_know(self, workspace: str, following: Following) -> None:
        mark = self._lease.begin()
        try:
            recent = await self._log.recent(workspace, JOIN_ENTRIES)
        except Exception as e:  # whoever asks is told by the database itself; the next one who asks begins anew
            if not isinstance(e, TaskctlError):
                _log.exception("the log of the workspace %r cannot be followed", workspace)
            if self.current(workspace, following):
                del self._followed[workspace]
            return
        if self._history not in ("", recent.history):
            self.forget()
        elif self.current(workspace, following):
            self._history = recent.history
            following.join(mark, recent)

    def forget(self) -> None:
        """Begin anew: the database is another one, or went back in time, or it is not certain that all is known."""
        self._followed.clear()
        self._history = ""
        self._lost()

    async def _go_on(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every):
                    await self._woken.wait()
            self._woken.clear()
            try:
                while await self._look():
                    pass
            except Exception:  # whatever it is, it must not be what ends this: nothing is certain any more, so begin anew
                _log.exception("the log cannot be followed")
                self.forget()
            await asyncio.sleep(GATHER_SECONDS)

    def _leave_idle(self) -> None:
        """Leave the logs that nobody has asked about for a while."""
        now = asyncio.get_running_loop().time()
        if now < self._next_sweep:
            return
        self._next_sweep = now + IDLE_SECONDS
        for workspace in [name for name, following in self._followed.items() if not following.asked]:
            del self._followed[workspace]
        for following in self._followed.values():
            following.asked = False

    async def _look(self) -> bool:
        """Read what is new in all logs, and return whether there is more."""
        self._leave_idle()
        followed = {name: following for name, following in self._followed.items() if following.joined}
        began = time.monotonic()
        if not followed:
            self._reached = began
            return False
        mark = self._lease.begin()
        looks = {name: Look(mark, following.doubts, following.known) for name, following in followed.items()}
        try:
            news = await self._log.news({name: look.since for name, look in looks.items()})
        except Exception as e:  # the leases end, if it goes on
            if not isinstance(e, TaskctlError) and not self._failing:  # twice a second is too often
                _log.exception("the log cannot be followed")
            self._failing = True
            self._observer(FeedPolled(len(followed), 0, 0, time.monotonic() - began, failed=True))
            return False
        self._failing = False
        behind = entries = 0
        for name, following in followed.items():
            head, steps = news.logs.get(name, (-1, []))
            entries += len(steps)
            if news.history != self._history or not following.advance(looks[name], head, steps):
                if self.current(name, following):
                    self.forget()
                return False
            behind += head - following.applied
        if not behind:
            self._reached = began
        self._observer(FeedPolled(len(followed), entries, behind, time.monotonic() - began, failed=False))
        return behind > 0
