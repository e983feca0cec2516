"""Replicas with caches over one database and one Redis, in one process and a time of its own, with everything that goes wrong.

The caches are the real ones. The database, the Redis and the network between them are models: each way takes its time, answers
are snapshots, replicas die between a commit and what they would have made of it, stand still, begin anew; the Redis loses
what it has, goes back to what it was, falls silent; the database is taken over by a copy that lacks what came last.

Every answer is held against the log: it must be the one that the database would have given at some moment that is late enough
(`World.check`).
"""

import asyncio
import random
import selectors
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self, TypeVar, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from taskctl.cache.feed import LEASE_SECONDS, POLL_SECONDS, Feed, Moments
from taskctl.cache.memory import Memory
from taskctl.cache.tasks import Cache, CachedTasks
from taskctl.conditions import Match
from taskctl.errors import TaskctlError, TaskNotFound, Unavailable
from taskctl.filters import is_after, matches, place
from taskctl.log import News, Recent, Step
from taskctl.observe import ignore
from taskctl.tasks import (
    Add,
    Changeset,
    Edit,
    GetTask,
    IdempotencyKey,
    Labels,
    NewTask,
    Operation,
    Page,
    Projects,
    Query,
    Read,
    Remove,
    Source,
    Tallies,
    Tally,
    Task,
    TaskPatch,
    TaskQuery,
    TaskService,
    Written,
    create,
    no_task,
    require_version,
)
from taskctl.tasks import change as tasks_change
from taskctl.wire import encode_task_cursor, newer, place_in_log, seq_in, task_cursor

T = TypeVar("T")

WORKSPACE: Final = "default"
_COUNTED: Final = ("project", "labels", "status")
_START: Final = datetime(2026, 1, 1, tzinfo=UTC)
_UTC: Final = ZoneInfo("UTC")


# --------------------------------------------------------------------------------------------------------------- the time


class _Skipping(selectors.SelectSelector):
    """Waits for nothing: time goes on to where something happens, unless something has arrived at a socket already."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[Any]:
        if ready := super().select(0):
            return ready
        assert timeout is not None, "everything waits, and nothing is going to happen"
        self.loop.now += max(timeout, 0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock goes as fast as there is something to do."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = _Skipping()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run the work in a time of its own."""

    async def all_of_it() -> T:
        return await work()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(all_of_it())


# ----------------------------------------------------------------------------------------------------------- the database


class Entry(Step):
    """An entry of the log."""

    __slots__ = ("_after", "_before")

    def __init__(self, seq: int, id: int, before: Task | None, after: Task | None) -> None:
        super().__init__(seq, id)
        self._before = before
        self._after = after

    @property
    def tasks(self) -> tuple[Task | None, Task | None]:
        return self._before, self._after


class Database:
    """A log, and what it makes of the tasks. `histories` counts how often a copy has taken over."""

    def __init__(self) -> None:
        self.log: list[Entry] = []
        self.states: list[Mapping[int, Task]] = [{}]  # after so many entries
        self.next_id = 1
        self.histories = 0
        self.replies: dict[str, tuple[Changeset, list[Entry], Written]] = {}
        self.up = True

    @property
    def head(self) -> int:
        return len(self.log)

    @property
    def tasks(self) -> Mapping[int, Task]:
        return self.states[-1]

    @property
    def history(self) -> str:
        return f"e{self.histories}"

    def commit(self, changes: Changeset) -> tuple[list[Entry], list[Task | None | TaskctlError]]:
        """Write a changeset as the rules want it, and return its entries and what became of each operation."""
        entries: list[Entry] = []
        results: list[Task | None | TaskctlError] = []
        for operation in changes.operations:
            try:
                id, before, after = self._worked_out(operation)
            except TaskctlError as e:
                results.append(e)
                continue
            results.append(after)
            if after is not before:
                entries.append(Entry(self.head + 1, id, before, after))
                self.log.append(entries[-1])
                state = {known: task for known, task in self.tasks.items() if known != id}
                self.states.append({**state, id: after} if after is not None else state)
        return entries, results

    def _worked_out(self, operation: Operation) -> tuple[int, Task | None, Task | None]:
        now = _START + timedelta(seconds=self.head)
        match operation:
            case Add(new):
                self.next_id += 1
                return self.next_id - 1, None, create(new, id=self.next_id - 1, uid=UUID(int=self.next_id), now=now)
            case Edit(int(id), patch, version):
                before = self._one(id)
                require_version(before, version)
                return id, before, tasks_change(before, patch, now=now)
            case Remove(int(id), version):
                require_version(self._one(id), version)
                return id, self._one(id), None
            case _:
                raise TypeError(operation)

    def _one(self, id: int) -> Task:
        if id not in self.tasks:
            raise no_task(id)
        return self.tasks[id]

    def lose(self, count: int) -> None:
        """Have a copy take over that lacks the last entries."""
        self.histories += 1
        keep = max(0, self.head - count)
        del self.log[keep:], self.states[keep + 1 :]
        self.replies = {key: reply for key, reply in self.replies.items() if all(entry.seq <= keep for entry in reply[1])}

    def answer(self, query: Query[Any], seq: int, *, besides: Sequence[int] = ()) -> Any:
        """Return the answer when the log had so many entries, and these besides; None for a task that there was not."""
        tasks = dict(self.states[seq])
        for more in besides:
            if seq < more <= self.head:
                id, (before, after) = self.log[more - 1].id, self.log[more - 1].tasks
                if after is None:
                    tasks.pop(id, None)
                elif before is None or not isinstance(query, Projects | Labels):
                    tasks[id] = after
                elif id in tasks:  # a number takes in only what the entry itself changed, not what others had before
                    changed = {name: new for name in _COUNTED if (new := getattr(after, name)) != getattr(before, name)}
                    tasks[id] = msgspec.structs.replace(tasks[id], **changed)
        match query:
            case GetTask(int(id)):
                return tasks.get(id)
            case TaskQuery(limit=int(limit)):
                found = [task for task in tasks.values() if matches(task, query.where, zone=_UTC, now=_START)]
                found.sort(key=lambda task: _Sorted(task, query.sort))
                if (cursor := task_cursor("default", query)) is not None:
                    found = [task for task in found if is_after(place(task, query.sort), cursor[1], query.sort)]
                items = tuple(found[:limit])
                more = len(found) > limit
                following = encode_task_cursor("default", query, 0, place(items[-1], query.sort)) if more else None
                return Page(items, following)
            case Projects():
                return _tallies((task.project, task) for task in tasks.values() if task.project is not None)
            case Labels():
                return _tallies((label, task) for task in tasks.values() for label in task.labels)
            case _:
                raise TypeError(query)


class _Sorted:
    """A task in an order."""

    def __init__(self, task: Task, sort: Sequence[str]) -> None:
        self._place = place(task, sort)
        self._sort = sort

    def __lt__(self, other: Self) -> bool:
        return is_after(other._place, self._place, self._sort)


def _tallies(pairs: Any) -> Tallies:
    counts: dict[str, dict[Any, int]] = {}
    for name, task in pairs:
        found = counts.setdefault(name, dict.fromkeys(("todo", "in_progress", "done", "cancelled"), 0))
        found[task.status] += 1
    return Tallies(tuple(Tally(name, counts[name]) for name in sorted(counts)))


# --------------------------------------------------------------------------------------------------------------- the Redis


class SharedModel:
    """What all replicas share as their second memory, when it is there."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[int, bytes]] = {}
        self.before: dict[str, tuple[int, bytes]] = {}
        self.up = True
        self.listeners: list[Callable[[str], None]] = []


class SharedHandle:
    """A replica's way to it."""

    def __init__(self, replica: "Replica") -> None:
        self._replica = replica
        self._world = replica.world

    async def get(self, key: str) -> tuple[int, bytes] | None:
        await self._replica.way()
        found = self._world.redis.kept.get(key) if self._world.redis.up else None
        await self._replica.way()
        return found

    def put(self, key: str, seq: int, body: bytes) -> None:
        async def later() -> None:
            await self._replica.way()
            known = self._world.redis.kept.get(key)
            if self._world.redis.up and (known is None or known[0] <= seq):
                self._world.redis.kept[key] = (seq, body)

        self._replica.start(later())

    def publish(self, workspace: str) -> None:
        async def later() -> None:
            await self._replica.way()
            for listener in self._world.redis.listeners if self._world.redis.up else ():
                if self._world.draw.random() > 0.2:  # some are lost
                    listener(workspace)

        self._replica.start(later())

    async def clear(self) -> int:
        self._world.redis.kept.clear()
        return 0


# ------------------------------------------------------------------------------------------------------------- the replica


class _Inner(TaskService):
    """The database as a replica's service, without a cache."""

    def __init__(self, replica: "Replica") -> None:
        self._replica = replica
        self._database = replica.world.database

    async def ask(self, query: Query[T], *, at: str = "", fresh: bool = False) -> Read[T]:
        await self._replica.way()
        if not self._database.up:
            raise Unavailable("the database is away")
        seq = self._database.head
        found = self._database.answer(query, seq)
        await self._replica.way()
        place = place_in_log("e", seq)
        if found is None:
            raise no_task(cast("GetTask", query).id, place)
        return Read(found, place)

    async def write(self, changes: Changeset, *, key: IdempotencyKey | None = None) -> Written:
        replica, database = self._replica, self._database
        await replica.way()
        if not database.up:
            raise Unavailable("the database is away")
        histories = database.histories
        if key is not None and key.name in database.replies:
            changes, entries, first = database.replies[key.name]
            await replica.way()
            written = msgspec.structs.replace(first, replayed=True)
        else:
            following = replica.feed.followed(WORKSPACE)
            entries, results = database.commit(changes)
            written = Written(UUID(int=0), database.head, tuple(results), place_in_log("e", database.head))
            if key is not None:
                database.replies[key.name] = changes, entries, written
            await replica.way()  # it may die here, and make nothing of what is committed
            replica.cache.written(WORKSPACE, entries, replica.feed.written(WORKSPACE, entries, following))
        if histories != database.histories:
            raise Unavailable("nobody knows")
        # What failed has told of the task as others had made it.
        failed = {operation.id for operation, result in _paired(changes, written) if isinstance(result, TaskctlError)}
        told = [entry for entry in database.log[: written.seq] if entry.id in failed] + entries
        replica.acknowledged = sorted({*replica.acknowledged, *(entry.seq for entry in told)})
        now = asyncio.get_running_loop().time()
        replica.world.acknowledged += [(now, entry.seq) for entry in entries]
        return written

    async def ready(self) -> None:
        raise NotImplementedError

    def scoped(self, *, actor: str | None, source: Source, workspace: str | None = None) -> Self:
        raise NotImplementedError


class _Log:
    """The database's log as a replica reads it."""

    def __init__(self, replica: "Replica") -> None:
        self._replica = replica
        self._database = replica.world.database

    async def recent(self, workspace: str, count: int) -> Recent:
        await self._replica.way()
        if not self._database.up:
            raise Unavailable("the database is away")
        count = self._replica.world.join_entries
        head = self._database.head
        changed = {entry.id: entry.seq for entry in self._database.log[max(0, head - count) : head]}
        history = self._database.history
        await self._replica.way()
        return Recent("e", history, head, max(0, head - count), changed)

    async def news(self, since: Mapping[str, int]) -> News:
        await self._replica.way()
        if not self._database.up:
            raise Unavailable("the database is away")
        head, log = self._database.head, self._database.log
        steps: list[Step] = list(log[since[WORKSPACE] : since[WORKSPACE] + 20])
        history = self._database.history
        await self._replica.way()
        return News(history, {WORKSPACE: (head, steps)})


class Gone(Exception):
    """The replica died."""


class Replica:
    """A server process."""

    def __init__(self, world: "World", index: int) -> None:
        self.world = world
        self.index = index
        self.running = asyncio.Event()
        self.running.set()
        self.dead = False
        self.acknowledged: list[int] = []  # the entries that this process has told somebody of
        self._tasks: set[asyncio.Task[Any]] = set()
        memory = Memory(world.memory_bytes)
        self.cache = Cache(memory, SharedHandle(self), singles=True)
        self.feed = Feed(
            _Log(self), Moments(asyncio.get_running_loop().time), every=POLL_SECONDS, observer=ignore, lost=memory.clear
        )
        self.tasks = CachedTasks(_Inner(self), WORKSPACE, self.feed, self.cache)
        self.listener = self.feed.wake
        world.redis.listeners.append(self.listener)
        self.feed.start()

    def start(self, work: Any) -> None:
        async def quietly() -> None:
            with suppress(Gone):
                await work

        task = asyncio.create_task(quietly())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def way(self) -> None:
        """Wait as long as something is on its way; and for a process that stands still, until it goes on."""
        draw = self.world.draw
        delay = draw.expovariate(1 / 0.01) if draw.random() < 0.9 else draw.random() * self.world.slow
        await asyncio.sleep(delay)
        await self.running.wait()
        if self.dead:
            raise Gone

    async def close(self) -> None:
        self.dead = True
        self.running.set()
        with suppress(ValueError):
            self.world.redis.listeners.remove(self.listener)
        await self.feed.close()


def _paired(changes: Changeset, written: Written) -> Any:
    return zip(changes.operations, written.results, strict=True)


# --------------------------------------------------------------------------------------------------------------- the world


class Session:
    """A client that sends back what it was told of how new its last answer was."""

    def __init__(self) -> None:
        self.at = ""
        self.busy = False


class World:
    """Everything together. `wrong` is what the answers were that should not have been."""

    def __init__(self, seed: int, replicas: int = 3) -> None:
        self.draw = random.Random(seed)
        self.database = Database()
        self.redis = SharedModel()
        self.acknowledged: list[tuple[float, int]] = []
        self.join_entries = self.draw.choice([0, 3, 1000])
        self.memory_bytes = self.draw.choice([3_000, 100_000])
        self.slow = self.draw.choice([0.1, 1.0, 3.0])
        self.lists = self.draw.random() < 0.5
        self.takeovers = self.draw.choice([0.0, 0.1, 1.0])
        self.wrong: list[str] = []
        self.reads = 0
        self.failed_over = -LEASE_SECONDS - 1
        self.gone: list[Replica] = []
        self.replicas = [Replica(self, index) for index in range(replicas)]

    def required(self, session: Session | None) -> int:
        """Return up to which entry an answer must know the log if it is asked for now."""
        now = asyncio.get_running_loop().time()
        seqs = [seq for at, seq in self.acknowledged if at < now - LEASE_SECONDS and seq <= self.database.head]
        token = seq_in(session.at, "e") if session is not None else 0
        return max([*seqs, 0, token if token <= self.database.head else 0])

    async def read(self, replica: Replica, query: Query[Any], session: Session | None = None) -> None:
        """Ask a replica, and hold the answer against the log."""
        if session is not None:
            session.busy = True
        try:
            await self._read(replica, query, session)
        finally:
            if session is not None:
                session.busy = False

    async def _read(self, replica: Replica, query: Query[Any], session: Session | None) -> None:
        began, histories = asyncio.get_running_loop().time(), self.database.histories
        required, own = self.required(session), list(replica.acknowledged)
        at = session.at if session is not None else ""
        try:
            await replica.running.wait()  # the process does not read the request earlier
            if replica.dead:
                return
            try:
                read = await replica.tasks.ask(query, at=at)
                value, told, origin = read.value, read.at, str(read.origin)
            except TaskNotFound as e:
                value, told, origin = None, e.at, str(e.origin)
        except (Unavailable, Gone):
            return
        self.reads += 1
        lost = began - self.failed_over <= LEASE_SECONDS
        if lost and isinstance(query, GetTask) and query.id in {entry.id for entry in self.database.log if entry.seq in own}:
            lost = False  # what the replica itself has written since then it owes at once
        if histories == self.database.histories and not lost:
            self.check(query, value, required, own, told, f"replica {replica.index}, token {at!r}, {origin}")
            if session is not None:
                session.at = told

    def check(self, query: Query[Any], value: Any, required: int, own: Sequence[int], told: str, about: str) -> None:
        """Note an answer that the database did not give at any moment since it must have known what is required.

        own: what the replica itself had written before; whatever else it knew of the log, this must not have changed the answer.
        """
        head, answer = self.database.head, self.database.answer
        fits = (
            seq
            for seq in range(head, required - 1, -1)
            if _equal(answer(query, seq), value) and _equal(answer(query, seq, besides=own), value)
        )
        newest = next(fits, None)
        if newest is None:
            self.wrong.append(f"{query} answered {value} at {told}; required {required}, head {head}; {about}")
        elif newest < min(seq_in(told, "e"), head):
            self.wrong.append(f"{query} answered {value}, which is not as new as {told} says; {about}")

    async def write(
        self, replica: Replica, changes: Changeset, key: IdempotencyKey | None = None, session: Session | None = None
    ) -> None:
        """Have a replica write."""
        await replica.running.wait()
        if replica.dead:
            return
        with suppress(Unavailable, Gone):
            written = await replica.tasks.write(changes, key=key)
            if session is not None:
                session.at = newer(session.at, written.at)

    @property
    def asked(self) -> Counter[str]:
        """Where answers came from, or why not from memory."""
        return sum((replica.cache.asked for replica in [*self.replicas, *self.gone]), Counter[str]())

    async def restart(self, index: int) -> None:
        old = self.replicas[index]
        self.gone.append(old)
        self.replicas[index] = Replica(self, index)
        await old.close()

    def fail_over(self, count: int) -> None:
        self.database.lose(count)
        self.failed_over = asyncio.get_running_loop().time()  # what was lost may be seen until the leases have ended
        self.acknowledged = [(at, seq) for at, seq in self.acknowledged if seq <= self.database.head]
        for replica in self.replicas:
            replica.acknowledged = []

    async def close(self) -> None:
        for replica in self.replicas:
            await replica.close()


def _equal(expected: Any, value: Any) -> bool:
    """Return whether two answers are the same; the moment in a cursor is not looked at."""
    if isinstance(expected, Page) and isinstance(value, Page):
        return expected.items == value.items and (expected.next_cursor is None) == (value.next_cursor is None)
    return bool(expected == value)


def writes(draw: random.Random, database: Database) -> Changeset:
    """Return something that may be written: mostly one operation, sometimes several about the same few tasks."""
    return Changeset(tuple(_operation(draw, database) for _ in range(draw.choice([1, 1, 1, 3]))), atomic=False)


def _operation(draw: random.Random, database: Database) -> Operation:
    id = draw.randint(1, max(1, min(database.next_id - 1, 6)))
    version = draw.choice([None, None, None, draw.randint(1, 5)])
    what = draw.random()
    if what < 0.2 or database.next_id < 4:
        return Add(
            NewTask(title="new", priority=draw.choice(["none", "high"]), labels=["a"], project=draw.choice([None, "work"]))
        )
    if what < 0.25:
        return Remove(id, version)
    match draw.randrange(5):
        case 0:
            return Edit(id, TaskPatch(title=f"{draw.choice(['alpha', 'beta', 'gamma'])} {draw.randrange(9)}"), version)
        case 1:
            return Edit(id, TaskPatch(status=draw.choice(["todo", "in_progress", "done"])), version)
        case 2:
            return Edit(id, TaskPatch(labels=draw.sample(["a", "b", "c"], draw.randrange(3))), version)
        case 3:
            return Edit(id, TaskPatch(project=draw.choice([None, "work", "work.api", "home"])), version)
        case _:
            return Edit(id, TaskPatch(priority=draw.choice(["none", "low", "high"])), version)


def queries(draw: random.Random, database: Database, *, lists: bool = False) -> Query[Any]:
    """Return something that may be asked; lists, mostly, if those are wanted."""
    where = draw.choice(
        [None, Match("label", ("a",)), Match("status", ("todo", "in_progress")), Match("project", ("work",)), Match("id", (1, 2))]
    )
    sort = draw.choice([("-id",), ("id",), ("-priority", "id"), ("title",), ("updated_at",)])
    query = TaskQuery(where=where, sort=sort, limit=draw.choice([2, 50]))
    match draw.randrange(2, 5) if lists and draw.random() < 0.8 else draw.randrange(10):
        case 0:
            return Projects()
        case 1:
            return Labels()
        case 2 | 3 | 4 if database.tasks:
            page = database.answer(query, database.head)
            if page.next_cursor is not None and draw.random() < 0.5:
                return msgspec.structs.replace(query, cursor=page.next_cursor)
            return query
        case _:
            return GetTask(draw.randint(1, max(2, min(database.next_id, 6))))
