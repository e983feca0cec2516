"""A whole database in a file, and back: one format for every kind of database. docs/backup.md describes it.

What is in the file are rows as both kinds of database hold them; what is worked out of them (the text that is searched, the
labels one by one) is worked out again. Neither way has more than a part of the tables in memory.
"""

import errno
import gzip
import hashlib
import os
import sys
import tempfile
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Final, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta

from taskctl import __version__
from taskctl.errors import Conflict, InvalidRequest, OutcomeUnknown, StorageFull, Unavailable, UsageError
from taskctl.fields import PRIORITIES, STATUSES
from taskctl.filters import search_text
from taskctl.storage.driver import Connection, Doubtful, Driver, Row
from taskctl.storage.migrations import HEAD, outdated

VERSION: Final = 1
PAGE = 100
"""Rows that are read at once. A row of the log may have two descriptions in it, of 64 KiB each."""
BATCH = 1000
BATCH_BYTES = 1024 * 1024
"""Rows that are written at once, and how much of the file they may be: a statement has only so much time."""
LINE_MAX = 16 * 1024 * 1024
"""Bytes of a line. The longest row that there can be is far shorter."""

Progress: TypeAlias = Callable[[int, int], None]
"""Is told how many rows more are done, and how many there are in all."""
Write: TypeAlias = Callable[[bytes], object]

# ------------------------------------------------------------------------------------------------------------ what is in it

_Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Instant = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_WorkspaceId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Uid = Annotated[str, Meta(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")]


class Counts(NamedTuple):
    """How many there are of each."""

    workspaces: int
    tasks: int
    entries: int


class Restored(NamedTuple):
    """How much a backup had in it, and how many tokens of the database stayed, or went with workspaces that it does not have."""

    counts: Counts
    tokens_kept: int
    tokens_removed: int


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line. epoch: that of the log from which the backup was made."""

    format: Literal["taskctl-backup"] = "taskctl-backup"
    version: Literal[1] = VERSION
    taskctl: str
    created_at: datetime
    epoch: str
    workspaces: _Number
    tasks: _Number
    entries: _Number

    @property
    def total(self) -> int:
        """How many rows follow."""
        return self.workspaces + self.tasks + self.entries


class _Mark(msgspec.Struct):
    """What the first line of any version says."""

    format: Literal["taskctl-backup"]
    version: int


class Workspace(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="workspace"):
    """A row of `workspaces`; the fields of this and of the next ones are named as the columns."""

    id: _WorkspaceId
    name: str
    seq: _Number
    next_id: _Number
    written_at: _Instant


class Task(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="task"):
    """A row of `tasks`, without the text that is searched."""

    workspace_id: _WorkspaceId
    id: _Number
    uid: _Uid
    title: str
    description: str | None
    status: Annotated[int, Meta(ge=0, lt=len(STATUSES))]
    priority: Annotated[int, Meta(ge=0, lt=len(PRIORITIES))]
    project: str | None
    labels: str
    due_at: _Instant | None
    due_is_day: Annotated[int, Meta(ge=0, le=1)]
    started_at: _Instant | None
    completed_at: _Instant | None
    created_at: _Instant
    updated_at: _Instant
    version: _Number


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="entry"):
    """A row of `log`."""

    workspace_id: _WorkspaceId
    seq: _Number
    at: _Instant
    changeset: _Uid
    actor: str | None
    source: str
    entity: str
    entity_id: _Number
    entity_uid: _Uid
    op: str
    version: _Number
    task: str
    former: str | None
    message: str | None


class End(msgspec.Struct, frozen=True, kw_only=True):
    """The last line. sha256: of all the lines before it, in hex."""

    end: bool
    rows: int
    sha256: str


Item: TypeAlias = Workspace | Task | Entry
_TABLES: dict[type[Item], tuple[str, tuple[str, ...]]] = {
    Workspace: ("workspaces", ("id",)),
    Task: ("tasks", ("workspace_id", "id")),
    Entry: ("log", ("workspace_id", "seq")),
}
"""Their tables, and the keys of these, in the order in which they stand in the file."""
_LABELS = ("workspace_id", "label", "task_id")
_TOKEN = (
    *("id", "name", "hash", "scopes", "created_by", "maker", "revoked_by"),
    *("created_at", "expires_at", "last_used_at", "revoked_at"),
)

_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines
_mark = msgspec.json.Decoder(_Mark).decode
_header = msgspec.json.Decoder(Header).decode
_item = msgspec.json.Decoder(Workspace | Task | Entry).decode
_end = msgspec.json.Decoder(End).decode
_labels = msgspec.json.Decoder(tuple[str, ...]).decode


class _Book:
    """Looks whether rows, as they come, are a whole database: each once and in order, the log without a gap."""

    def __init__(self) -> None:
        self.rows = 0
        self._last = (-1, 0, 0)
        self._workspaces: dict[int, Workspace] = {}
        self._seqs: dict[int, int] = defaultdict(int)

    def add(self, item: Item) -> None:
        """Take note of a row. Raises ValueError, which says what is wrong with it."""
        match item:
            case Workspace():
                place = (0, item.id, 0)
                self._workspaces[item.id] = item
            case Task():
                place = (1, item.workspace_id, item.id)
                _labels(item.labels)
                if item.id >= self._of(item.workspace_id).next_id:
                    raise ValueError(f"the task {item.id} has a number that was not given out yet")
            case Entry():
                place = (2, item.workspace_id, item.seq)
                if item.seq != self._seqs[item.workspace_id] + 1:
                    raise ValueError(f"numbers are missing in the log before {item.seq}")
                self._seqs[self._of(item.workspace_id).id] = item.seq
        if place <= self._last:
            raise ValueError("a row is there twice, or is not in its place")
        self._last = place
        self.rows += 1

    def close(self) -> None:
        """Take note that no more rows come. Raises ValueError."""
        for workspace in self._workspaces.values():
            if (last := self._seqs[workspace.id]) != workspace.seq:
                raise ValueError(f"the log of {workspace.name} ends at {last}, and not at {workspace.seq}")

    def _of(self, workspace: int) -> Workspace:
        try:
            return self._workspaces[workspace]
        except KeyError:
            raise ValueError(f"there is no workspace {workspace}") from None


# ---------------------------------------------------------------------------------------------------------------- backing up


async def backup(driver: Driver, write: Write, progress: Progress) -> Counts:
    """Write all that is in the database at one moment, and return how much that was.

    Raises Unavailable if its log is not what it promises to be: such a backup could not be restored.
    """
    return await driver.read(lambda connection: _backup(connection, write, progress))


async def _backup(connection: Connection, write: Write, progress: Progress) -> Counts:
    book, digest, packer = _Book(), hashlib.sha256(), zlib.compressobj(wbits=31)  # 31 is gzip

    def add(data: bytes) -> None:
        digest.update(data)
        write(packer.compress(data))

    [(epoch, *numbers)] = await connection.fetch(
        "SELECT epoch, (SELECT count(*) FROM workspaces), (SELECT count(*) FROM tasks), "
        "(SELECT CAST(COALESCE(sum(seq), 0) AS BIGINT) FROM workspaces) FROM meta"  # the log has no gaps
    )
    counts = Counts(*numbers)
    header = Header(taskctl=__version__, created_at=datetime.now(UTC), epoch=epoch, **counts._asdict())
    add(_encode(header) + b"\n")
    try:
        for kind, (table, key) in _TABLES.items():
            async for rows in _pages(connection, table, key, kind.__struct_fields__):
                items = [kind(*row) for row in rows]
                for item in items:
                    book.add(item)
                add(_encode_lines(items))
                progress(len(items), header.total)
        book.close()
    except ValueError as e:
        raise Unavailable(f"the database is damaged, and was not backed up: {e} (see `taskctl db check`)") from e
    write(packer.compress(_encode(End(end=True, rows=book.rows, sha256=digest.hexdigest())) + b"\n") + packer.flush())
    return counts


async def _pages(
    connection: Connection, table: str, key: Sequence[str], columns: Sequence[str], page: int = PAGE
) -> AsyncIterator[list[Row]]:
    """Yield the rows of a table in the order of its key, whose columns are the first ones, some at a time."""
    names, place = ", ".join(key), Row()
    while True:
        after = f" WHERE ({names}) > ({', '.join('?' * len(key))})" if place else ""
        sql = f"SELECT {', '.join(columns)} FROM {table}{after} ORDER BY {names} LIMIT {page}"
        rows = await connection.fetch(sql, place, fixed=True)
        if rows:
            yield rows
        if len(rows) < page:
            return
        place = rows[-1][: len(key)]


# ----------------------------------------------------------------------------------------------------------------- restoring


class Source:
    """A backup that is read, once. Raises InvalidRequest if it is none or is damaged, Unavailable if it cannot be read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = gzip.GzipFile(fileobj=file, mode="rb")
        self._digest = hashlib.sha256()
        self._number = 0
        self._begun = False
        try:
            line = self._line()
            mark = _mark(line)
        except ValueError:
            raise InvalidRequest("this is no backup of taskctl, or one that is damaged where it begins") from None
        if mark.version > VERSION:
            raise InvalidRequest(
                f"this backup has the format {mark.version}, which a newer taskctl wrote; this one knows {VERSION}: "
                "upgrade taskctl"
            )
        self._digest.update(line)
        try:
            self.header = _header(line)
        except ValueError as e:
            raise self._damaged(e) from e

    def batches(self) -> Iterator[list[Item]]:
        """Yield the rows, some of one kind at a time, and see at the end that this was all of them, and as they were."""
        if self._begun:  # a driver begins again what was cut off; a stream cannot
            raise Unavailable("the connection to the database broke, and nothing was restored: restore once more")
        self._begun = True
        try:
            yield from self._batches()
        except ValueError as e:
            raise self._damaged(e) from e

    def _batches(self) -> Iterator[list[Item]]:
        book, batch, size = _Book(), list[Item](), 0
        while (line := self._line()).startswith(b"["):
            self._digest.update(line)
            item = _item(line)
            book.add(item)
            if batch and (type(item) is not type(batch[0]) or len(batch) == BATCH or size + len(line) > BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(item)
            size += len(line)
        if batch:
            yield batch
        end = _end(line)
        book.close()
        if not end.rows == book.rows == self.header.total:
            raise ValueError("some rows are missing")
        if end.sha256 != self._digest.hexdigest():
            raise ValueError("the checksum is not that of what is in it")
        if self._line():
            raise ValueError("something follows its end")

    def _line(self) -> bytes:
        """Return the next line. Raises ValueError if it is none."""
        self._number += 1
        try:
            return self._file.readline(LINE_MAX)
        except EOFError:
            raise ValueError("it ends too early") from None
        except (gzip.BadGzipFile, zlib.error):
            raise ValueError("it cannot be unpacked") from None
        except OSError as e:
            raise Unavailable(f"the backup cannot be read: {e.strerror}") from e

    def _damaged(self, why: ValueError) -> InvalidRequest:
        return InvalidRequest(f"this backup is damaged, and nothing was restored: {why} (line {self._number})")


async def restore(driver: Driver, source: Source, progress: Progress, *, force: bool) -> Restored:
    """Fill the database with what is in a backup, and return how much that was. Whoever follows its log has to begin anew.

    Raises Conflict if anything was in it, unless force says that it may go; InvalidRequest for a damaged backup. Whatever it
    raises, nothing has changed; only after OutcomeUnknown all may have.
    """
    try:
        return await driver.write(lambda connection: _restore(connection, source, progress, force=force))
    except Doubtful as e:
        raise OutcomeUnknown("the connection to the database broke during the commit: all was restored, or nothing") from e


async def _restore(connection: Connection, source: Source, progress: Progress, *, force: bool) -> Restored:
    [(revision,)] = await connection.fetch("SELECT version_num FROM alembic_version")
    if revision != HEAD:
        raise outdated(revision)
    await connection.run(connection.dialect.alone)
    [(full,)] = await connection.fetch("SELECT EXISTS (SELECT 1 FROM tasks) OR EXISTS (SELECT 1 FROM log)")
    if full and not force:
        raise Conflict("the database is not empty, and nothing was restored; --force replaces all that is in it")
    columns = ", ".join(f"tokens.{column}" for column in _TOKEN)
    sql = f"SELECT workspaces.name, {columns} FROM tokens JOIN workspaces ON workspaces.id = workspace_id"
    tokens = await connection.fetch(sql)
    await connection.delete("tokens", _TOKEN[:1], [row[1:2] for row in tokens])
    # Idempotency keys are no part of a backup: their answers are of another log.
    for table, key in (*_TABLES.values(), ("task_labels", _LABELS), ("idempotency_keys", ("workspace_id", "key"))):
        async for rows in _pages(connection, table, key, key, BATCH):
            await connection.delete(table, key, rows)
    for batch in source.batches():
        await _insert(connection, batch)
        await connection.fetch("SELECT 1", fixed=True)  # sends it, so that it does not gather
        progress(len(batch), source.header.total)
    # Tokens are none either: what was revoked since must not come back. Those of the database stay with their workspaces.
    workspaces: dict[str, int] = dict(await connection.fetch("SELECT name, id FROM workspaces"))
    staying = [(*row, workspaces[name]) for name, *row in tokens if name in workspaces]
    await connection.insert("tokens", (*_TOKEN, "workspace_id"), staying)
    await connection.run("UPDATE meta SET epoch = ?", [os.urandom(8).hex()])
    await connection.run(connection.dialect.filled)
    counts = Counts(source.header.workspaces, source.header.tasks, source.header.entries)
    return Restored(counts, len(staying), len(tokens) - len(staying))


async def _insert(connection: Connection, items: Sequence[Item]) -> None:
    kind = type(items[0])
    table, _ = _TABLES[kind]
    columns = kind.__struct_fields__
    rows = [list(msgspec.structs.astuple(item)) for item in items]
    labels = list[Row]()
    for item, row in zip(items, rows, strict=True):
        if isinstance(item, Task):
            row.append(search_text(item.title, item.description))
            labels += [(item.workspace_id, label, item.id) for label in _labels(item.labels)]
    await connection.insert(table, (*columns, "search") if kind is Task else columns, rows)
    if labels:
        await connection.insert("task_labels", _LABELS, labels)


# ----------------------------------------------------------------------------------------------------------------- the files


class _Unwritten(Exception):
    """A file could not be written to. Not an OSError: a driver would take that for one of its database."""


@contextmanager
def writing(file: str) -> Iterator[Write]:
    """Yield what writes to a file that is not there yet, or to stdout if it is "-".

    The file is there once it is whole and on the disk, and only then; nobody else may read it. Raises UsageError, StorageFull or
    Unavailable if it cannot be written; BrokenPipeError if whoever reads stdout has gone.
    """
    try:
        with _stdout() if file == "-" else _new(Path(file)) as out:

            def write(data: bytes) -> None:
                try:
                    out.write(data)
                except OSError as e:
                    raise _Unwritten(e) from e

            yield write
    except (_Unwritten, OSError) as e:
        why: OSError = e.args[0] if isinstance(e, _Unwritten) else e
        if isinstance(why, BrokenPipeError):
            raise why from None
        failure = StorageFull if why.errno in (errno.ENOSPC, errno.EDQUOT) else Unavailable
        raise failure(f"the backup {file} cannot be written: {why.strerror}") from why


@contextmanager
def _stdout() -> Iterator[IO[bytes]]:
    if sys.stdout.isatty():
        raise UsageError("a backup is not for a terminal; name a file, or send stdout to one")
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as out:  # Python would try once more to write what is left in its own
        yield out


@contextmanager
def _new(path: Path) -> Iterator[IO[bytes]]:
    _require_new(path)
    descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as out:
            yield out
            out.flush()
            os.fsync(descriptor)
        _require_new(path)
        Path(beside).rename(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    if sys.platform != "win32":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _require_new(path: Path) -> None:
    if os.path.lexists(path):
        raise UsageError(f"{path} is there already; a backup goes into a new file")


@contextmanager
def reading(file: str) -> Iterator[Source]:
    """Yield the backup in a file, or on stdin if it is "-". Raises UsageError if there is no such file, and as Source does."""
    with ExitStack() as opened:
        try:
            raw = sys.stdin.buffer if file == "-" else opened.enter_context(Path(file).open("rb"))
        except OSError as e:
            raise UsageError(f"{file} cannot be read: {e.strerror}") from e
        yield Source(raw)
