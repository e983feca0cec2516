"""The model: what a task is, what can be asked and changed, and `TaskService`, the one protocol that everything speaks.

These types are the definition of every shape on the wire and in the library. A `NewTask` or `TaskPatch` checks itself when it
is made (see `fields.py`), so one that exists is valid, wherever it came from.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from functools import cache
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Self, TypeAlias, TypeVar, cast
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from taskctl import fields
from taskctl.conditions import LENGTH_MAX, TERMS_MAX, And, Condition, Not, Or, Overdue, render, status_apart, terms_in
from taskctl.errors import Conflict, FieldError, InvalidRequest, InvalidTask, StaleTask, TaskctlError, TaskNotFound
from taskctl.fields import Due

Status: TypeAlias = Literal["todo", "in_progress", "done", "cancelled"]
Priority: TypeAlias = Literal["none", "low", "medium", "high", "urgent"]
Source: TypeAlias = Literal["cli", "api", "library", "import", "seed"]
Ref: TypeAlias = int | UUID
"""What names a task: its id, or its uid."""

PAGE_DEFAULT = 50
CHANGES_MAX = 1000
BATCH_MAX = 500
"""Operations in one changeset."""
CURSOR_MAX = 8192
"""No cursor is longer: there is one title in it."""

WRITABLE = ("title", "description", "status", "priority", "project", "labels", "due")
READ_ONLY = ("id", "uid", "started_at", "completed_at", "created_at", "updated_at", "version")


class Task(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A task as it is after its latest change. Instants are in UTC, to the microsecond."""

    id: int
    uid: UUID
    title: str
    description: str | None
    status: Status
    priority: Priority
    project: str | None
    labels: tuple[str, ...]
    due: Due | None
    started_at: datetime | None
    completed_at: datetime | None
    created_at: datetime
    updated_at: datetime
    version: int

    @property
    def is_open(self) -> bool:
        """Whether there is still something to do."""
        return self.status in fields.OPEN


class _Checked(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a task that a writer sets, each made canonical or refused."""

    _checks: ClassVar[Mapping[str, Any]] = {name: getattr(fields, name) for name in (*WRITABLE, "uid")}

    def __post_init__(self) -> None:
        wrong = []
        for name, default in _defaults(type(self)):
            value = getattr(self, name)
            if value is default or value is UNSET:
                continue
            try:
                canonical = self._checks[name](value)
                if canonical is not value:
                    msgspec.structs.force_setattr(self, name, canonical)
            except fields.Refused as e:
                wrong += [(name, one) for one in (e, *e.others)]
        if wrong:
            errors = [FieldError(f"/{name}{e.inner}", e.code, f"{name} {e.detail}") for name, e in wrong]
            raise InvalidTask("; ".join(e.detail for e in errors), errors=errors)


@cache
def _defaults(kind: type[_Checked]) -> tuple[tuple[str, object], ...]:
    """Return the fields with their defaults, which need no check."""
    names, defaults = kind.__struct_fields__, kind.__struct_defaults__
    missing = (UNSET,) * (len(names) - len(defaults))
    return tuple(zip(names, (*missing, *defaults), strict=True))


class NewTask(_Checked, frozen=True, kw_only=True):
    """A task to be added. Only the title is needed.

    `due` may be written as a text, too (RFC 3339); `uid` is for imports, and is made if it is left out.

    Raises InvalidTask, which names every field at fault.
    """

    title: str
    description: str | None = None
    status: Status = "todo"
    priority: Priority = "none"
    project: str | None = None
    labels: Iterable[str] = ()
    due: Due | str | None = None
    uid: UUID | None = None


class TaskPatch(_Checked, frozen=True, kw_only=True, omit_defaults=True):
    """The changes of an edit. What is left out stays as it is; None clears.

    Raises InvalidTask, which names every field at fault.
    """

    title: str | UnsetType = UNSET
    description: str | None | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    project: str | None | UnsetType = UNSET
    labels: Iterable[str] | UnsetType = UNSET
    due: Due | str | None | UnsetType = UNSET


# ---------------------------------------------------------------------------------------------------- the rules of change

_TRANSITIONS: Mapping[str, tuple[str, ...]] = {
    "todo": ("in_progress", "done", "cancelled"),
    "in_progress": ("todo", "done", "cancelled"),
    "done": ("todo",),
    "cancelled": ("todo",),
}


def create(new: NewTask, *, id: int, uid: UUID, now: datetime) -> Task:
    """Return the first version of a task."""
    return Task(
        id=id,
        uid=uid,
        title=new.title,
        description=new.description,
        status=new.status,
        priority=new.priority,
        project=new.project,
        labels=tuple(new.labels),
        due=new.due,  # type: ignore[arg-type]  # a text is a date or an instant after the check
        started_at=now if new.status == "in_progress" else None,
        completed_at=now if new.status == "done" else None,
        created_at=now,
        updated_at=now,
        version=1,
    )


def change(task: Task, patch: TaskPatch, *, now: datetime) -> Task:
    """Return the task after the patch: the very same object if nothing is different, else its next version.

    Raises Conflict for a transition that there is not.
    """
    changes = {
        name: value
        for name in patch.__struct_fields__
        if (value := getattr(patch, name)) is not UNSET and value != getattr(task, name)
    }
    if not changes:
        return task
    if status := changes.get("status"):
        if status not in _TRANSITIONS[task.status]:
            raise Conflict(
                f"task {task.id} is {task.status}, and from there it cannot become {status}; reopen it first",
                id=task.id,
                current_status=task.status,
            )
        if status == "in_progress" and task.started_at is None:
            changes["started_at"] = now
        changes["completed_at"] = now if status == "done" else None
    return msgspec.structs.replace(task, **changes, updated_at=now, version=task.version + 1)


def require_version(task: Task, wanted: int | tuple[int, ...] | None) -> None:
    """Raise StaleTask unless the writer had seen this version, or does not care."""
    if wanted is not None and task.version not in (wanted if isinstance(wanted, tuple) else (wanted,)):
        asked = "and not at one that fits the condition" if isinstance(wanted, tuple) else f"not {wanted}"
        raise StaleTask(f"task {task.id} is at version {task.version}, {asked}", id=task.id, current_version=task.version)


def require_equal(task: Task, expected: Mapping[str, Any]) -> None:
    """Raise StaleTask if an edit brings along another version than the task's, InvalidTask for another read-only member."""
    if not expected:
        return
    version = expected.get("version")
    if isinstance(version, int) and not isinstance(version, bool):
        require_version(task, version)
    own = msgspec.to_builtins(task)
    errors = [
        FieldError(f"/{name}", "read_only", f"{name} cannot be set, and is not as it is in the task")
        for name, value in sorted(expected.items())
        if not _same(name, value, own[name])
    ]
    if errors:
        raise InvalidTask("; ".join(e.detail for e in errors), errors=errors)


def _same(name: str, value: object, own: object) -> bool:
    """Return whether a member that came along is the task's own. An instant may be written in other ways."""
    if name.endswith("_at") and isinstance(value, str) and isinstance(own, str):
        try:
            return datetime.fromisoformat(value) == datetime.fromisoformat(own)
        except (ValueError, TypeError):  # no instant, or one without its zone
            return False
    return value == own and type(value) is type(own)


# ---------------------------------------------------------------------------------------------------------------- writing


def require_ref(id: object, digits: int = 4000) -> None:
    """Raise InvalidRequest for what names no task. Numbers end somewhere, because each has to be written."""
    if type(id) is int and -(2**63) <= id < 2**63:
        return
    if not isinstance(id, int | UUID) or isinstance(id, bool):
        raise InvalidRequest(f"a task is named by its id, a number, or by its uid, a UUID, not by {id!r}")
    if isinstance(id, int) and abs(id) >= 10**digits:
        raise InvalidRequest(f"a task's id has at most {digits} digits here")


def _require_version(wanted: object) -> None:
    for one in wanted if isinstance(wanted, tuple) else (wanted,):
        if isinstance(one, bool) or not isinstance(one, int | None) or (one is None and wanted is not None):
            raise InvalidRequest("if_version must be a whole number, or several")


class Add(msgspec.Struct, frozen=True):
    """Add a task."""

    task: NewTask


class Edit(msgspec.Struct, frozen=True):
    """Change the fields that the patch names; only if the task is at `if_version`, or one of several, where that is given.

    expected: read-only members that came along, as JSON has them; they must be the task's own.
    """

    id: Ref
    patch: TaskPatch
    if_version: int | tuple[int, ...] | None = None
    expected: Mapping[str, Any] = {}

    def __post_init__(self) -> None:
        require_ref(self.id)
        _require_version(self.if_version)


class Remove(msgspec.Struct, frozen=True):
    """Remove a task; only if it is at `if_version`, or one of several, where that is given."""

    id: Ref
    if_version: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        require_ref(self.id)
        _require_version(self.if_version)


class Refuse(msgspec.Struct, frozen=True):
    """An operation that could not even be read. It keeps its place in the batch, and fails there."""

    error: TaskctlError


Operation: TypeAlias = Add | Edit | Remove | Refuse


class Changeset(msgspec.Struct, frozen=True):
    """Operations that are written together, in one transaction and under one changeset id.

    atomic: the first failure undoes all of them and is raised, with its `index`; otherwise failures stand in their places in
    the results and the rest is written. dry_run: everything is worked out and answered, and nothing is written.
    """

    operations: tuple[Operation, ...]
    atomic: bool = True
    message: str | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not self.operations:
            raise InvalidRequest("a batch needs at least one operation")
        if len(self.operations) > BATCH_MAX:
            raise InvalidRequest(f"a batch has at most {BATCH_MAX} operations, and this has {len(self.operations)}")
        if self.message is not None:
            try:
                fields.title(self.message)
            except fields.Refused as e:
                raise InvalidRequest(f"message {e.detail}", errors=[FieldError("/message", e.code, e.detail)]) from None


class Written(msgspec.Struct, frozen=True):
    """What became of a changeset: the log's head after it, and for each operation the task, None if removed, or its failure.

    at: the same head for whoever reads next, see `Read`. replayed: this was written before, under the same idempotency key.
    """

    changeset: UUID
    seq: int
    results: tuple[Task | None | TaskctlError, ...]
    at: str = ""
    replayed: bool = False


class IdempotencyKey(msgspec.Struct, frozen=True):
    """A name for a write, by which it can be sent again without happening again: for 24 hours it gets the first answer.

    name: 1 to 255 visible ASCII characters. request: a digest of all that was asked for, so that the same name for something
    else is refused; the changeset's own if it is left out. owner: whose name it is, the id of a token; others may have given the
    same one.
    """

    name: str
    request: str = ""
    owner: str = ""

    def __post_init__(self) -> None:
        if not fields.KEY.fullmatch(self.name):
            raise InvalidRequest("an idempotency key is 1 to 255 visible ASCII characters")

    @property
    def stored(self) -> str:
        """The name among those of all owners. A space is in none of them."""
        return f"{self.owner} {self.name}" if self.owner else self.name


# ---------------------------------------------------------------------------------------------------------------- reading

T = TypeVar("T")
_encode = msgspec.json.Encoder().encode


def no_zone(name: object) -> InvalidRequest:
    """Return the failure to find a time zone."""
    return InvalidRequest(f"there is no time zone {name!r:.200}; a name such as Europe/Berlin or UTC was expected")


_ZONE_NAME = re.compile(r"[A-Za-z0-9._+/-]{1,100}")


def _require_zone(name: object) -> None:
    """Raise InvalidRequest for what cannot be a zone's name: it is going to stand in a header."""
    if not isinstance(name, str) or not _ZONE_NAME.fullmatch(name):
        raise no_zone(name)


def _require_cursor(cursor: str | None) -> None:
    if cursor is not None and len(cursor) > CURSOR_MAX:
        raise no_such_cursor()


def no_such_cursor() -> InvalidRequest:
    """Return the failure to find the place of a cursor."""
    return InvalidRequest("the cursor does not belong to this query; start again without it", parameter="cursor")


SORTS = ("id", "title", "status", "priority", "due", "created_at", "updated_at")
_SORT_WORDS = frozenset(SORTS) | {f"-{name}" for name in SORTS}


class Query(msgspec.Struct, Generic[T], frozen=True):
    """A question about a workspace; its answer is a T."""


class Origin(NamedTuple):
    """The memory that an answer came from; "" if it came from the database, and why. age: seconds since it was read there."""

    tier: str
    why: str
    age: int = 0


class CacheStats(msgspec.Struct, frozen=True):
    """What a process remembers: how many answers, in about how many bytes, and how often questions went which way."""

    entries: int
    bytes: int
    asked: dict[str, int]


class Remembering(ABC):
    """What a service that remembers answers can do besides."""

    @abstractmethod
    def remembered(self) -> CacheStats:
        """Return what is remembered by this process."""

    @abstractmethod
    async def forget(self) -> None:
        """Forget everything, here and where processes share it. Raises Unavailable if that place cannot be told."""


def require_at(at: object) -> None:
    """Raise InvalidRequest for an `at` that is no text, and so no answer's."""
    if not isinstance(at, str):
        raise InvalidRequest(f"at is a text, the `at` of an answer or of something written, not {at!r:.100}")


class Read(Generic[T]):
    """An answer, and how new it is.

    at: which log it was read from and how far that had got, as an opaque text: `X-Taskctl-Seq` in the API. origin: from which
    memory it came, None if there is none.
    """

    __slots__ = ("_encoded", "_value", "at", "origin")

    def __init__(self, value: T, at: str) -> None:
        self._value = value
        self._encoded: bytes | None = None
        self.at = at
        self.origin: Origin | None = None

    @property
    def value(self) -> T:
        """What was asked for."""
        return self._value

    @property
    def encoded(self) -> bytes:
        """The value as JSON."""
        if self._encoded is None:
            self._encoded = _encode(self.value)
        return self._encoded

    @property
    def version(self) -> int:
        """The version of a task."""
        return cast("Task", self.value).version

    @property
    def next_cursor(self) -> str | None:
        """Where a page goes on."""
        return cast("Page[Any]", self.value).next_cursor


class GetTask(Query[Task], frozen=True):
    """One task."""

    id: Ref

    def __post_init__(self) -> None:
        require_ref(self.id, digits=40)


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some items of a longer list; `next_cursor` asks for those after them, and is None at the end.

    total: how long the whole list is, if that was asked for.
    """

    items: tuple[T, ...]
    next_cursor: str | None = None
    total: int | UnsetType = UNSET


class TaskQuery(Query[Page[Task]], frozen=True, kw_only=True):
    """The tasks that a condition picks, in an order.

    sort: names of fields, a `-` before one for descending; tasks without a due come last either way, and the id breaks
    ties. limit: how many at most, None for all. cursor: from a page of the same query. zone: the reader's, an IANA name; days
    begin and end in it. count: whether to count the whole list, too.
    """

    where: Condition | None = None
    sort: tuple[str, ...] = ("-id",)
    limit: int | None = PAGE_DEFAULT
    cursor: str | None = None
    zone: str = "UTC"
    count: bool = False

    def __post_init__(self) -> None:
        if self.where is not None:
            terms_in(self.where)
            if (rest := status_apart(self.where)[1]) is not None:
                if terms_in(rest) > TERMS_MAX:
                    raise InvalidRequest(f"a condition has at most {TERMS_MAX} terms and values")
                if len(render(rest)) > LENGTH_MAX:
                    raise InvalidRequest(f"a condition has at most {LENGTH_MAX} characters as a filter")
        for word in self.sort:
            if word not in _SORT_WORDS:
                known = f"there are {', '.join(SORTS)}, with a - before for descending"
                raise InvalidRequest(f"cannot sort by {word!r:.100}; {known}", parameter="sort")
        names = [word.lstrip("-") for word in self.sort]
        if len(set(names)) < len(names):
            raise InvalidRequest("a field can be sorted by only once", parameter="sort")
        if self.limit is not None and self.limit < 1:
            raise InvalidRequest("limit must be at least 1")
        _require_cursor(self.cursor)
        _require_zone(self.zone)

    @property
    def momentary(self) -> bool:
        """Whether the answer depends on when it is given, though no task has changed."""
        return self.where is not None and any(isinstance(term, Overdue) for term in self.terms)

    @property
    def terms(self) -> Iterable["Condition"]:
        """The condition, and all that it is made of."""
        waiting = [self.where] if self.where is not None else []
        while waiting:
            term = waiting.pop()
            yield term
            match term:
                case And(terms) | Or(terms):
                    waiting += terms
                case Not(inner):
                    waiting.append(inner)


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of the log: who did what, when, from what to what.

    seq: its number, without a gap, in the order of commits. before, after: the changed fields of an edit; an add has no before
    and a remove no after.
    """

    seq: int
    at: datetime
    changeset: UUID
    actor: str | None
    source: Source
    entity: Literal["task"]
    id: int
    op: Literal["add", "edit", "remove"]
    version: int
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    message: str | UnsetType = UNSET


class History(Query[Page[Change]], frozen=True, kw_only=True):
    """What happened to one task, newest first. A removed task has a history, too."""

    id: Ref
    limit: int | None = PAGE_DEFAULT
    cursor: str | None = None

    def __post_init__(self) -> None:
        require_ref(self.id, digits=40)
        if self.limit is not None and self.limit < 1:
            raise InvalidRequest("limit must be at least 1")
        _require_cursor(self.cursor)


class Changes(msgspec.Struct, frozen=True):
    """Entries of the log, oldest first. `next` is the `since` to go on with; `more` says that there are some already."""

    items: tuple[Change, ...]
    next: int
    more: bool
    epoch: str


class ChangesSince(Query[Changes], frozen=True, kw_only=True):
    """The log after `since`. `epoch`, if given, must be the one of the answer that `since` came from."""

    since: int = 0
    limit: int = 100
    epoch: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.since < 10**40:
            raise InvalidRequest("since must not be negative, and has at most 40 digits")
        if not 1 <= self.limit <= CHANGES_MAX:
            raise InvalidRequest(f"limit must be from 1 to {CHANGES_MAX}")
        if self.epoch is not None and len(self.epoch) > 1000:
            raise InvalidRequest("no epoch is longer than 1000 characters")


class Tally(msgspec.Struct, frozen=True):
    """A name, and how many tasks of each status carry it."""

    name: str
    counts: dict[Status, int]


class Tallies(msgspec.Struct, frozen=True):
    """The names in use, sorted."""

    items: tuple[Tally, ...]


class Projects(Query[Tallies], frozen=True):
    """The projects in use, each by itself: `work` does not count what is in `work.api`."""


class Labels(Query[Tallies], frozen=True):
    """The labels in use."""


class Day(msgspec.Struct, frozen=True):
    """How many tasks were completed on a day."""

    date: date
    count: int


class Stats(msgspec.Struct, frozen=True):
    """The workspace in numbers: tasks by status, how many are overdue, and the completed ones of the last 30 days."""

    counts: dict[Status, int]
    overdue: int
    done_per_day: tuple[Day, ...]


class GetStats(Query[Stats], frozen=True):
    """The workspace in numbers, with the days of a zone."""

    zone: str = "UTC"

    def __post_init__(self) -> None:
        _require_zone(self.zone)


# ------------------------------------------------------------------------------------------------------------- the service


class TaskService(ABC):
    """The tasks of one workspace, used by one actor.

    A database implements it, a remote client implements it, a cache wraps it. There are two things to implement, `ask` and
    `write`; the other methods are said once, here, in terms of those.
    """

    @abstractmethod
    async def ask(self, query: Query[T], *, at: str = "", fresh: bool = False) -> Read[T]:
        """Answer a question.

        at: the `at` of an answer (or of something written) that this one must not be older than; one of another log is passed
        over. fresh: whether it has to come from the database itself, and not out of a memory.

        Raises TaskNotFound, InvalidRequest (a cursor of another query, an `at` that is no text), CursorExpired, Unavailable.
        """

    @abstractmethod
    async def write(self, changes: Changeset, *, key: IdempotencyKey | None = None) -> Written:
        """Write a changeset, and answer once it is durable. With a key it happens once, however often it is sent.

        Raises Unavailable, IdempotencyMismatch, and if the changeset is atomic the failure of its first operation that failed.
        """

    @abstractmethod
    async def ready(self) -> None:
        """Return if it can serve; raise Unavailable, with the reason, if it cannot."""

    @abstractmethod
    def scoped(self, *, actor: str | None, source: Source, workspace: str | None = None) -> Self:
        """Return the same service as another writer: who, and by which way, is what the log will say.

        workspace: another one of the same database. Raises ConfigError if the place is not asked for one.
        """

    async def read(self, query: Query[T]) -> T:
        """Answer a question, without telling how new the answer is. Raises what `ask` does."""
        return (await self.ask(query)).value

    async def add(self, task: NewTask, *, dry_run: bool = False) -> Task:
        """Add a task. Raises Conflict if its uid is taken."""
        return _task(await self.perform(Add(task), dry_run))

    async def edit(self, id: Ref, patch: TaskPatch, *, if_version: int | None = None, dry_run: bool = False) -> Task:
        """Change a task. Raises TaskNotFound, StaleTask, Conflict (an impossible transition)."""
        return _task(await self.perform(Edit(id, patch, if_version), dry_run))

    async def remove(self, id: Ref, *, if_version: int | None = None, dry_run: bool = False) -> None:
        """Remove a task. Raises TaskNotFound, StaleTask."""
        await self.perform(Remove(id, if_version), dry_run)

    async def perform(self, operation: Operation, dry_run: bool = False) -> Task | None:
        """Write one operation, and return the task, None if it is removed. Raises what became of it instead."""
        [result] = (await self.write(Changeset((operation,), atomic=False, dry_run=dry_run))).results
        if isinstance(result, TaskctlError):
            raise result
        return result

    async def get(self, id: Ref) -> Task:
        """Return a task. Raises TaskNotFound."""
        return await self.read(GetTask(id))

    async def list(self, query: TaskQuery | None = None) -> Page[Task]:
        """Return tasks; without a query, the 50 newest."""
        return await self.read(query or TaskQuery())

    async def history(self, id: Ref, *, limit: int | None = PAGE_DEFAULT, cursor: str | None = None) -> Page[Change]:
        """Return what happened to a task, newest first. Raises TaskNotFound if there never was one."""
        return await self.read(History(id=id, limit=limit, cursor=cursor))

    async def changes(self, since: int = 0, *, limit: int = 100, epoch: str | None = None) -> Changes:
        """Return the log after `since`. Raises CursorExpired if `epoch` is that of another history."""
        return await self.read(ChangesSince(since=since, limit=limit, epoch=epoch))

    async def projects(self) -> Tallies:
        """Return the projects in use, with their tasks counted by status."""
        return await self.read(Projects())

    async def labels(self) -> Tallies:
        """Return the labels in use, with their tasks counted by status."""
        return await self.read(Labels())

    async def stats(self, *, zone: str = "UTC") -> Stats:
        """Return the workspace in numbers; days are those of the zone, an IANA name."""
        return await self.read(GetStats(zone=zone))


def no_task(ref: Ref, at: str = "") -> TaskNotFound:
    """Return the failure to find a task, `at` this place in the log. JSON has the id as a number if it fits one."""
    fits = isinstance(ref, int) and -(2**63) <= ref < 2**63
    failure = TaskNotFound(f"there is no task {ref}", id=ref if fits else str(ref))
    failure.at = at
    return failure


def _task(result: Task | None) -> Task:
    assert result is not None, "an add or an edit ends with a task"
    return result
