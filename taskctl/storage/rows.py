"""How a task and a log entry stand in their tables.

Instants are whole microseconds since 1970 in both databases, exact and in order; enumerations are their rank; a due that is
a day is the end of that day in UTC, marked as a day.
"""

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from taskctl.errors import TaskctlError
from taskctl.fields import PRIORITIES, STATUSES
from taskctl.filters import end_of_day, micros, search_text
from taskctl.log import Step
from taskctl.storage.driver import Row
from taskctl.tasks import Change, Source, Task, Written
from taskctl.wire import decode, error, problem

TASK = (
    *("id", "uid", "title", "description", "status", "priority", "project", "labels", "due_at", "due_is_day"),
    *("started_at", "completed_at", "created_at", "updated_at", "version"),
)
LOG = (
    *("seq", "at", "changeset", "actor", "source", "entity", "entity_id", "op", "version"),
    *("task", "former", "message"),
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = 86_400_000_000
_STATUS_RANK = {name: rank for rank, name in enumerate(STATUSES)}
_PRIORITY_RANK = {name: rank for rank, name in enumerate(PRIORITIES)}
_labels = msgspec.json.Decoder(tuple[str, ...]).decode
_object = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


def instant(at: int) -> datetime:
    """Return the instant of a column."""
    return _EPOCH + timedelta(microseconds=at)


def _optional_instant(at: int | None) -> datetime | None:
    return None if at is None else _EPOCH + timedelta(microseconds=at)


def task_of(row: Row) -> Task:
    """Return the task that a row with the columns TASK holds."""
    (id, uid, title, description, status, priority, project, labels, due_at, is_day, *instants, version) = row
    started, completed, created, updated = instants
    due: date | datetime | None = None
    if due_at is not None:
        due = date.fromordinal(due_at // _DAY + _EPOCH.toordinal() - 1) if is_day else instant(due_at)
    return Task(
        id=id,
        uid=UUID(uid),
        title=title,
        description=description,
        status=STATUSES[status],
        priority=PRIORITIES[priority],
        project=project,
        labels=() if labels == "[]" else _labels(labels),
        due=due,
        started_at=_optional_instant(started),
        completed_at=_optional_instant(completed),
        created_at=instant(created),
        updated_at=instant(updated),
        version=version,
    )


def row_of(task: Task) -> list[Any]:
    """Return the values of the columns TASK and, after them, the text that is searched."""
    due = task.due
    is_instant = isinstance(due, datetime)
    return [
        task.id,
        str(task.uid),
        task.title,
        task.description,
        _STATUS_RANK[task.status],
        _PRIORITY_RANK[task.priority],
        task.project,
        _encode(task.labels).decode(),
        None if due is None else micros(due) if isinstance(due, datetime) else end_of_day(due),
        int(due is not None and not is_instant),
        None if task.started_at is None else micros(task.started_at),
        None if task.completed_at is None else micros(task.completed_at),
        micros(task.created_at),
        micros(task.updated_at),
        task.version,
        search_text(task.title, task.description),
    ]


class Head(NamedTuple):
    """Where a workspace stands: its number, the next task's id, when it was last written to, and the last entry of its log.

    seq, changeset: of that entry; together they are of one history, and of no other.
    """

    id: int
    next_id: int
    written_at: int
    seq: int
    changeset: str | None


class Entry(NamedTuple):
    """A log entry on its way into the log: the task after it (the last it was, if it was removed), and the task before it.

    version: the task's; a removal counts as one more.
    """

    changeset: UUID
    actor: str | None
    source: Source
    message: str | None
    op: str
    version: int
    task: Task
    before: Task | None


class Worked(Step):
    """An entry that was written here."""

    __slots__ = ("_entry",)

    def __init__(self, seq: int, entry: Entry) -> None:
        super().__init__(seq, entry.task.id, 2_000 + len(entry.task.description or ""))
        self._entry = entry

    @property
    def tasks(self) -> tuple[Task | None, Task | None]:
        return self._entry.before, None if self._entry.op == "remove" else self._entry.task


class Stored(Step):
    """An entry that was read from the log. Most are never looked at more closely, so that is done late."""

    __slots__ = ("_row", "_tasks")

    def __init__(self, row: Row) -> None:
        """Take a row with the columns STEP."""
        super().__init__(row[0], row[1], 1_000 + len(row[4]) + len(row[5] or ""))
        self._row = row
        self._tasks: tuple[Task | None, Task | None] | None = None

    @property
    def tasks(self) -> tuple[Task | None, Task | None]:
        if self._tasks is None:
            _, _, op, version, text, former = self._row
            task = decode(text, Task)
            match op:
                case "add":
                    self._tasks = None, task
                case "remove":
                    self._tasks = task, None
                case _:
                    raw = {**_object(text), **_object(former), "version": version - 1}
                    self._tasks = decode(_encode(raw), Task), task
        return self._tasks


STEP = ("seq", "entity_id", "op", "version", "task", "former")


class Record(NamedTuple):
    """An idempotency key that was used: for what request, when, and what became of it."""

    key: str
    request: str
    at: int
    written: Written


class _Kept(msgspec.Struct, omit_defaults=True):
    """A result as a record keeps it: of a task only which one it was, since the log has each version of it."""

    id: int | None = None
    version: int | None = None
    problem: dict[str, Any] | None = None


class _Answer(msgspec.Struct):
    changeset: UUID
    seq: int
    results: list[_Kept]


_answer = msgspec.json.Decoder(_Answer).decode


def row_of_record(record: Record) -> list[Any]:
    """Return the values of the columns key, request, at, answer."""
    kept = []
    for result in record.written.results:
        match result:
            case None:
                kept.append(_Kept())
            case TaskctlError():
                kept.append(_Kept(problem=problem(result)))
            case Task():
                kept.append(_Kept(result.id, result.version))
    answer = _Answer(record.written.changeset, record.written.seq, kept)
    return [record.key, record.request, record.at, _encode(answer).decode()]


def versions_in(answers: Sequence[str]) -> set[tuple[int, int]]:
    """Return the ids and versions of the tasks that were answered with."""
    results = (result for answer in answers for result in _answer(answer).results)
    return {(result.id, result.version) for result in results if result.id is not None and result.version is not None}


def record_of(row: Row, tasks: Mapping[tuple[int, int], Task]) -> Record:
    """Return the record that a row with the columns key, request, at, answer holds, given the tasks at their versions."""
    key, request, at, text = row
    answer = _answer(text)
    results: list[Task | None | TaskctlError] = []
    for result in answer.results:
        if result.problem is not None:
            results.append(error(result.problem))
        elif result.id is None or result.version is None:
            results.append(None)
        else:
            results.append(tasks[result.id, result.version])
    return Record(key, request, at, Written(answer.changeset, answer.seq, tuple(results)))


ENTRY = (*LOG, "entity_uid")


def row_of_entry(entry: Entry, seq: int, at: int) -> list[Any]:
    """Return the values of the columns ENTRY."""
    return [
        seq,
        at,
        str(entry.changeset),
        entry.actor,
        entry.source,
        "task",
        entry.task.id,
        entry.op,
        entry.version,
        _encode(entry.task).decode(),
        _encode(_former(entry.before, entry.task)).decode() if entry.op == "edit" and entry.before is not None else None,
        entry.message,
        str(entry.task.uid),
    ]


def change_of(row: Row) -> Change:
    """Return the change that a row with the columns LOG tells of."""
    seq, at, changeset, actor, source, entity, id, op, version, task, former, message = row
    whole = _object(task)
    before: dict[str, Any] | None = whole
    after: dict[str, Any] | None = None
    if op == "add":
        before, after = None, whole
    elif op == "edit":
        before = _object(former)
        after = {name: whole[name] for name in before}
    return Change(
        seq=seq,
        at=instant(at),
        changeset=UUID(changeset),
        actor=actor,
        source=source,
        entity=entity,
        id=id,
        op=op,
        version=version,
        before=before,
        after=after,
        message=msgspec.UNSET if message is None else message,
    )


def _former(before: Task, after: Task) -> dict[str, Any]:
    """Return the values that an edit replaced; its version and time are those of the entry itself."""
    names: Sequence[str] = Task.__struct_fields__
    return {
        name: getattr(before, name)
        for name in names
        if name not in ("version", "updated_at") and getattr(before, name) != getattr(after, name)
    }


_drawn: list[bytes] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drawn.clear)  # or two processes would draw the same


def uuid7(at: int) -> UUID:
    """Return a UUID version 7 (RFC 9562) of a moment in microseconds."""
    while True:
        try:
            random = int.from_bytes(_drawn.pop())
            break
        except IndexError:  # many are drawn at once: the system is asked seldom
            block = os.urandom(10 * 128)
            _drawn.extend(block[start : start + 10] for start in range(0, len(block), 10))
    return UUID(int=(at // 1000 << 80) | (0x7 << 76) | (random >> 68 << 64) | (0b10 << 62) | (random & (1 << 62) - 1))
