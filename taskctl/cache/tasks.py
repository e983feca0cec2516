"""`CachedTasks`: a service whose answers are remembered, as long as it is certain that they hold."""

import asyncio
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any, Generic, Protocol, Self, cast

from taskctl.cache.feed import Feed, Following
from taskctl.cache.memory import Kept, Memory, rememberable
from taskctl.errors import Conflict, InvalidTask, StaleTask, TaskctlError, TaskNotFound, Unavailable
from taskctl.log import Step
from taskctl.tasks import (
    CacheStats,
    Change,
    Changeset,
    GetTask,
    History,
    IdempotencyKey,
    Origin,
    Page,
    Query,
    Read,
    Ref,
    Remembering,
    Remove,
    Source,
    T,
    Tallies,
    Task,
    TaskQuery,
    TaskService,
    Written,
    no_task,
    require_at,
)
from taskctl.wire import decode, digest, encode, place_in_log, seq_in

LEAD_MAX = 100_000
"""How far other processes may be ahead of what is known here; what claims more is somebody else's."""
BORN_DIGITS = 10
"""What is put into a shared memory begins with when it was read, in seconds since 1970."""


class Shared(Protocol):
    """A memory that several processes share. It may lose or hold back everything, and nobody is to notice but by the time."""

    async def get(self, key: str) -> tuple[int, bytes] | None:
        """Return what was put last, with its number."""

    def put(self, key: str, seq: int, body: bytes) -> None:
        """Put something there soon, unless what is there has a higher number."""

    def publish(self, workspace: str) -> None:
        """Tell the other processes soon that there is something new."""

    async def clear(self) -> int:
        """Forget everything, and return how much that was. Raises Unavailable."""


class Cache:
    """What one process remembers of a database, for all its services.

    shared: a second memory, None without one. singles: whether it is asked for single tasks, too: where the database is near,
    asking that instead is as quick.
    """

    def __init__(self, memory: Memory, shared: Shared | None, *, singles: bool) -> None:
        self.memory = memory
        self.shared = shared
        self.singles = singles
        self.asked: Counter[str] = Counter()  # plain numbers: this is the path that is to be quick
        self.flights: dict[Hashable, asyncio.Future[None]] = {}

    def written(self, workspace: str, steps: Sequence[Step], following: Following | None) -> None:
        """Have the other processes know of what this one has written."""
        if self.shared is None or not steps:
            return
        if following is not None and following.joined and self.singles:
            born = int(time.time())
            for step in steps:
                after = step.tasks[1]
                body = b"" if after is None else encode(after)
                self.share(following, workspace, Kept(GetTask(step.id), step.seq, body, after, born))
        self.shared.publish(workspace)

    def share(self, following: Following, workspace: str, kept: Kept) -> None:
        """Put an answer into the shared memory, if such ones are kept there."""
        if self.shared is not None and (self.singles or type(kept.query) is not GetTask):
            key = _shared_key(following, workspace, kept.query)
            self.shared.put(key, kept.seq, f"{kept.born:0{BORN_DIGITS}}".encode() + kept.body)

    def stats(self) -> CacheStats:
        """Return what is remembered, and how often that was of use."""
        return CacheStats(len(self.memory), self.memory.bytes, dict(sorted(self.asked.items())))

    async def clear(self) -> None:
        """Forget everything. Raises Unavailable if the shared memory cannot be told."""
        self.memory.clear()
        if self.shared is not None:
            try:
                await self.shared.clear()
            except Unavailable as e:
                raise Unavailable(f"this server has forgotten everything, but {e.detail}") from None


class CachedTasks(TaskService, Remembering):
    """The tasks of another service, remembered. What a write changes is known before it is answered (`Feed.written`)."""

    def __init__(self, inner: TaskService, workspace: str, feed: Feed, cache: Cache) -> None:
        self._inner = inner
        self._workspace = workspace
        self._feed = feed
        self._cache = cache

    def scoped(self, *, actor: str | None, source: Source, workspace: str | None = None) -> Self:
        inner = self._inner.scoped(actor=actor, source=source, workspace=workspace)
        return type(self)(inner, workspace or self._workspace, self._feed, self._cache)

    async def ready(self) -> None:
        await self._inner.ready()

    async def write(self, changes: Changeset, *, key: IdempotencyKey | None = None) -> Written:
        following = self._feed.following(self._workspace)
        try:
            written = await self._inner.write(changes, key=key)
        except (TaskNotFound, StaleTask, Conflict, InvalidTask):
            self._feed.doubt(self._workspace)
            raise
        known = following is not None and seq_in(written.at, following.epoch) >= 0
        if not known or written.replayed or changes.dry_run or any(isinstance(one, TaskctlError) for one in written.results):
            # It tells of what others have written, and perhaps a moment ago: the next answer must not know less.
            self._feed.doubt(self._workspace)
        elif not any(isinstance(operation, Remove) for operation in changes.operations):  # or it might be of one of the results
            self._remember(written, following)
        return written

    def _remember(self, written: Written, following: Following | None) -> None:
        """Remember the tasks of a write: at the end of the log that it left behind, this is what they are."""
        if following is None or not self._feed.current(self._workspace, following):
            return
        seq, born = seq_in(written.at, following.epoch), int(time.time())
        for result in written.results:
            if isinstance(result, Task) and seq > 0:
                query = GetTask(result.id)
                self._cache.memory.put((following, result.id), Kept(query, seq, encode(result), result, born))

    def remembered(self) -> CacheStats:
        return self._cache.stats()

    async def forget(self) -> None:
        await self._cache.clear()

    async def ask(self, query: Query[T], *, at: str = "", fresh: bool = False) -> Read[T]:
        require_at(at)
        if not rememberable(query):
            return await self._passed_on(query, None, "bypass", at)
        following = self._feed.following(self._workspace)
        if following is None:
            return await self._passed_on(query, None, "unfollowed", at)
        if fresh:
            return await self._passed_on(query, following, "request", at)
        if not following.leased:
            self._feed.wake(self._workspace)
            return await self._passed_on(query, following, "lease", at)
        needed = seq_in(at, following.epoch) if at else 0
        if needed < 0:  # it may be of a history that is not known here yet
            self._feed.wake(self._workspace)
            return await self._passed_on(query, following, "lease", at)
        key = _key(following, query)
        if (found := self._remembered(key, following, needed)) is not None:
            return self._hit(found, following, "memory")
        return await self._missed(query, key, following, needed)

    async def _missed(self, query: Query[T], key: Hashable, following: Following, needed: int) -> Read[T]:
        """Answer what is not remembered. Of those who ask the same at once, one asks, and the others look again after that."""
        flights = self._cache.flights
        if (flight := flights.get(key)) is not None:
            await asyncio.wait([flight])
            if following.leased and (found := self._remembered(key, following, needed)) is not None:
                return self._hit(found, following, "memory")
        flight = flights[key] = asyncio.get_running_loop().create_future()
        try:
            if (found := await self._shared(query, key, following, needed)) is not None:
                return self._hit(found, following, "redis")
            return await self._passed_on(query, following, "miss", "")
        finally:
            flight.set_result(None)
            if flights.get(key) is flight:
                del flights[key]

    def _remembered(self, key: Hashable, following: Following, needed: int) -> Kept | None:
        kept = self._cache.memory.get(key)
        if kept is None:
            return None
        if not following.holds(kept):
            self._cache.memory.drop(key)
            return None
        return kept if following.reached(kept, needed) else None

    async def _shared(self, query: Query[Any], key: Hashable, following: Following, needed: int) -> Kept | None:
        """Return what the shared memory has, if it holds. It is believed only what the log does not contradict."""
        cache = self._cache
        if cache.shared is None or not (cache.singles or type(query) is not GetTask):
            return None
        got = await cache.shared.get(_shared_key(following, self._workspace, query))
        if got is None:
            return None
        seq, stored = got
        body = stored[BORN_DIGITS:]
        try:
            born = int(stored[:BORN_DIGITS])
            value = decode(body, _kind(query)) if body else None
            kept = Kept(query, seq, body, value, born)
        except (ValueError, TypeError, LookupError):  # somebody else's
            return None
        if value is not None and isinstance(query, GetTask) and value.id != query.id:
            return None
        likely = seq <= following.known + LEAD_MAX
        if not (likely and following.leased and following.holds(kept) and following.reached(kept, needed)):
            self._feed.wake(self._workspace)
            return None
        cache.memory.put(key, kept)
        return kept

    async def _passed_on(self, query: Query[T], following: Following | None, why: str, at: str) -> Read[T]:
        """Have the database answer, and remember that."""
        self._cache.asked[why] += 1
        try:
            read = await self._inner.ask(query, at=at, fresh=why == "request")
        except TaskNotFound as e:
            if following is not None and e.at:
                self._keep(query, following, e.at, None)
            e.origin = Origin("", why)
            raise
        if following is not None:
            self._keep(query, following, read.at, read)
        read.origin = Origin("", why)
        return read

    def _keep(self, query: Query[Any], following: Following, at: str, read: Read[Any] | None) -> None:
        """Remember an answer, unless it is of a history that has ended, or out of date already."""
        seq = seq_in(at, following.epoch)
        if seq < 0 or not self._feed.current(self._workspace, following):
            return
        body, value = (read.encoded, read.value) if read is not None else (b"", None)
        kept = Kept(query, seq, body, value, int(time.time()))
        if following.holds(kept):
            self._cache.memory.put(_key(following, query), kept)
            self._cache.share(following, self._workspace, kept)

    def _hit(self, kept: Kept, following: Following, tier: str) -> Read[Any]:
        self._cache.asked[tier] += 1
        at = place_in_log(following.epoch, max(following.applied, kept.seq))
        if not kept.body:
            failure = no_task(cast("Ref", cast(Any, kept.query).id), at)
            failure.origin = Origin(tier, "hit", max(0, int(time.time()) - kept.born))
            raise failure
        return _Hit(kept, at, tier)


class _Hit(Read[T], Generic[T]):
    """An answer that was remembered: its JSON is at hand, and its value is made of that when somebody wants it."""

    __slots__ = ("_kept",)

    def __init__(self, kept: Kept, at: str, tier: str) -> None:
        self._kept = kept
        self.at = at
        self.origin = Origin(tier, "hit", max(0, int(time.time()) - kept.born))

    @property
    def value(self) -> Any:
        return decode(self._kept.body, _kind(self._kept.query))

    @property
    def encoded(self) -> bytes:
        return self._kept.body

    @property
    def version(self) -> int:
        return self._kept.version

    @property
    def next_cursor(self) -> str | None:
        return self._kept.next_cursor


def _key(following: Following, query: Query[Any]) -> Hashable:
    """Return what an answer is remembered under: within one history, so that no answer of another one is ever taken for it."""
    return following, query.id if isinstance(query, GetTask) else query


def _kind(query: Query[Any]) -> Any:
    """Return the type of the answers to a question."""
    match query:
        case GetTask():
            return Task
        case TaskQuery():
            return Page[Task]
        case History():
            return Page[Change]
        case _:
            return Tallies


def _shared_key(following: Following, workspace: str, query: Query[Any]) -> str:
    if isinstance(query, GetTask):
        return f"{following.history}:{workspace}:{query.id}"
    return f"{following.history}:{workspace}:{digest(encode([type(query).__name__, query]))}"
