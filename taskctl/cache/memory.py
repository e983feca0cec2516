"""The first level: answers in this process, encoded, bounded in bytes."""

from collections import OrderedDict
from collections.abc import Hashable
from sys import getsizeof
from typing import Any, NamedTuple

from taskctl.conditions import Compare
from taskctl.filters import is_after, matches, place, zone_of
from taskctl.log import Step
from taskctl.tasks import GetTask, History, Labels, Page, Projects, Query, Task, TaskQuery
from taskctl.wire import encode, start_of

OVERHEAD = 600
"""Bytes that an answer takes besides its JSON: its key, its place in the order of use, itself, and what the allocator adds."""
QUERY_FACTOR = 6
"""Bytes that a question takes for each byte of its JSON, at most: its terms are objects of their own."""


class Kept:
    """An answer that is remembered.

    seq: the end of the workspace's log when it was read. checked: up to here no entry has touched it. body: its JSON; empty if
    there is no such task. version: the task's; next_cursor: the page's. born: when it was read, in seconds since 1970.
    """

    __slots__ = ("body", "born", "checked", "next_cursor", "query", "seq", "size", "span", "version")

    def __init__(self, query: Query[Any], seq: int, body: bytes, value: Any, born: int) -> None:
        self.query = query
        self.seq = self.checked = seq
        self.body = bytes(memoryview(body))  # a copy, because the encoder may leave half as much again behind what it writes
        self.born = born
        self.version = value.version if isinstance(value, Task) else 0
        self.next_cursor: str | None = value.next_cursor if isinstance(value, Page) else None
        self.span: _Span | None = None
        self.size = len(body) + OVERHEAD
        if not isinstance(query, GetTask):
            self.size += QUERY_FACTOR * len(encode(query)) + getsizeof(self.next_cursor)
        if isinstance(query, TaskQuery) and (span := _span(query, value)) is not None:
            self.span = span
            self.size += span.size

    def touched(self, step: Step) -> bool:
        """Return whether the answer could be another one after this entry of the log. In doubt it is."""
        match self.query:
            case GetTask(id) | History(id=id):
                return step.id == id
            case Projects():
                return _differ(step, "project", "status")
            case Labels():
                return _differ(step, "labels", "status")
            case TaskQuery():
                return self._listed(step, self.query)
            case _:
                return True

    def _listed(self, step: Step, query: TaskQuery) -> bool:
        """Return whether an entry changes what the page covers.

        Only tasks do that the list picks, and that stand in what the page covers, before or after. Of those behind its end one
        matters that leaves: it may have been the only one, and the reason for there being a next page.
        """
        if self.span is None:
            return True
        before, after = (self._where(task, query) for task in step.tasks)
        return "in" in (before, after) or (before == "behind" != after)

    def _where(self, task: Task | None, query: TaskQuery) -> str:
        """Return where a task stands: "out" of the list, "in" the page, or on the pages "ahead" or "behind"."""
        assert self.span is not None, "only what covers a part of a list is looked at so closely"
        if task is None or not matches(task, query.where, zone=self.span.zone, now=_NEVER):
            return "out"
        stands = place(task, query.sort)
        if self.span.end is not None and is_after(stands, self.span.end, query.sort):
            return "behind"
        if self.span.start is not None and not is_after(stands, self.span.start, query.sort):
            return "ahead"
        return "in"


class _Span(NamedTuple):
    """What part of a list a page covers: after `start`, up to `end`; all of it where that is None."""

    start: list[int | str] | None
    end: list[int | str] | None
    zone: Any

    @property
    def size(self) -> int:
        """How many bytes it takes: there may be long titles in it."""
        return sum(getsizeof(part) for place in (self.start, self.end) if place is not None for part in (place, *place))


_NEVER: Any = None
"""No condition that depends on the moment is remembered."""


def _span(query: TaskQuery, page: Page[Task]) -> _Span | None:
    if query.count or _looks_at_updates(query):
        return None  # a step does not tell when the task had been changed before; a count takes in all pages
    end = place(page.items[-1], query.sort) if page.next_cursor is not None else None
    return _Span(start_of(query), end, zone_of(query.zone))


def rememberable(query: Query[Any]) -> bool:
    """Return whether the answer to a question may be remembered: not if it depends on the moment."""
    match query:
        case GetTask() | History():
            return isinstance(query.id, int)
        case TaskQuery():
            return query.limit is not None and not query.momentary
        case Projects() | Labels():
            return True
        case _:
            return False


def _looks_at_updates(query: TaskQuery) -> bool:
    return any(word.lstrip("-") == "updated_at" for word in query.sort) or any(
        isinstance(term, Compare) and term.field == "updated_at" for term in query.terms
    )


def _differ(step: Step, *names: str) -> bool:
    before, after = step.tasks
    return before is None or after is None or any(getattr(before, name) != getattr(after, name) for name in names)


class Memory:
    """What is remembered: of all answers those that were used last, as many as fit.

    limit: bytes, with an estimate of what Python needs besides the JSON.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> Kept | None:
        """Return what is remembered under a key."""
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
        return kept

    def put(self, key: Hashable, kept: Kept) -> None:
        """Remember an answer, unless a newer one is."""
        former = self._kept.get(key)
        if former is not None:
            if former.seq > kept.seq:
                return
            self.bytes -= former.size
        if kept.size > self._limit // 8:  # it would push out too much else
            self._kept.pop(key, None)
            return
        self._kept[key] = kept
        self._kept.move_to_end(key)
        self.bytes += kept.size
        while self.bytes > self._limit:
            self.bytes -= self._kept.popitem(last=False)[1].size

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def drop(self, key: Hashable) -> None:
        """Forget an answer."""
        former = self._kept.pop(key, None)
        if former is not None:
            self.bytes -= former.size

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self.bytes = 0
