"""The narrow connector between the statements, which are written once, and a kind of database."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from taskctl.observe import Statement

T = TypeVar("T")
Row: TypeAlias = tuple[Any, ...]
Sql: TypeAlias = tuple[str, list[Any]]
"""A piece of SQL with `?` for its parameters, and the parameters."""


class Dialect(Protocol):
    """What is said differently in each database."""

    lock: str
    """Takes the workspace of this name for writing, so that nobody else writes to it before the transaction ends."""
    blind: bool
    """Whether it knows nothing of how many rows have which values when it chooses an index."""
    now: str
    """The time, in microseconds since 1970, as an expression."""
    alone: str
    """Takes all tables for writing, so that nobody else writes before the transaction ends."""

    history: str
    """Which course of events this is, as an expression: another one after a copy of the database took its place."""
    filled: str
    """Is said when much has been written at once, so that the next statements know of it."""

    def among(self, column: str, values: Iterable[int] | Iterable[str]) -> Sql:
        """Say that the column has one of the values, however many there are."""

    def search(self, workspace: str, words: Sequence[str], *, prefix: bool) -> Sql:
        """Say that a task's words have these one after another, the last one perhaps going on."""


class Connection(Protocol):
    """A connection within a transaction.

    What gives no rows may be sent later, with what comes after it; at the latest it goes with the commit.
    """

    dialect: Dialect

    async def fetch(self, sql: str, params: Sequence[Any] = (), *, fixed: bool = False, name: Statement = "other") -> list[Row]:
        """Run a statement and return its rows.

        fixed: its text is one of a few, so that it is worth preparing. name: what it is for, for whoever observes it.
        """

    async def run(self, sql: str, params: Sequence[Any] = (), *, fixed: bool = False) -> None:
        """Run a statement that has no rows to return."""

    async def allow(self, seconds: float) -> None:
        """Let each statement of this transaction take so long, where there is a limit."""

    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Add rows to a table."""

    async def update(self, table: str, key: Sequence[str], columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Change the rows of a table with these keys; a row has the values of the key, then those of the columns."""

    async def delete(self, table: str, key: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Remove the rows of a table with these keys."""


Work: TypeAlias = Callable[[Connection], Awaitable[T]]


class Doubtful(Exception):
    """The connection broke during the commit: it may or may not have happened. `value` is what the work returned."""

    def __init__(self, value: Any) -> None:
        super().__init__("the outcome of a commit is not known")
        self.value = value


class Overtaken(Exception):
    """Somebody else has written to the workspace, and nothing of this was."""


class Driver(Protocol):
    """A database. Its errors come out as those of `taskctl.errors`."""

    dialect: Dialect

    async def fetch(self, sql: str, params: Sequence[Any] = (), *, fixed: bool = False, name: Statement = "other") -> list[Row]:
        """Run a statement that only reads, and return its rows. It is a snapshot by itself."""

    async def read(self, work: Work[T]) -> T:
        """Run the work, of several statements that only read, on one snapshot."""

    async def write(self, work: Work[T]) -> T:
        """Run the work in a transaction that is durable when this returns. Nothing is left of one that raised.

        Only after Doubtful it is not known; whoever can find out does.
        """

    async def close(self) -> None:
        """Let what is under way end, and close the connections."""
