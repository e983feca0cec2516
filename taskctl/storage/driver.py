"""The narrow connector between the statements, which are written once, and a kind of database."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from taskctl.tasks import Text

T = TypeVar("T")
Row: TypeAlias = tuple[Any, ...]
Sql: TypeAlias = tuple[str, list[Any]]
"""A piece of SQL with `?` for its parameters, and the parameters."""
ID_MAX = 2**63 - 1


class Hits(NamedTuple):
    """Where words were found, in the order of the tasks' ids: the table, what picks its rows, a row's place and the task's id."""

    source: str
    where: Sql
    key: str
    id: str


class Dialect(Protocol):
    """What is said differently in each database."""

    lock: str
    """Takes the workspace of this name for writing, so that nobody else writes to it before the transaction ends."""
    now: str
    """The time, in microseconds since 1970, as an expression."""
    alone: str
    """Takes all tables for writing, so that nobody else writes before the transaction ends; it may wait for long in between."""

    def among(self, column: str, values: Iterable[int] | Iterable[str]) -> Sql:
        """Say that the column has one of the values, however many there are."""

    def search(self, workspace: str, words: Sequence[str], *, prefix: bool) -> Sql:
        """Say that a task's words have these one after another, the last one perhaps going on."""

    def hits(self, workspace: str, texts: Sequence[Text], low: int = 1, high: int = ID_MAX, gate: str = "1 = 1") -> Hits | None:
        """Say where the tasks with all these texts are found, of ids from low to high; None if no index has them in order."""


class Connection(Protocol):
    """A connection within a transaction.

    What gives no rows may be sent later, with what comes after it; at the latest it goes with the commit.
    """

    dialect: Dialect

    async def fetch(self, sql: str, params: Sequence[Any] = (), *, fixed: bool = False) -> list[Row]:
        """Run a statement and return its rows. fixed: its text is one of a few, so that it is worth preparing."""

    async def run(self, sql: str, params: Sequence[Any] = (), *, fixed: bool = False) -> None:
        """Run a statement that has no rows to return."""

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


class Driver(Protocol):
    """A database. Its errors come out as those of `taskctl.errors`."""

    dialect: Dialect

    async def fetch(self, sql: str, params: Sequence[Any] = (), *, fixed: bool = False) -> list[Row]:
        """Run a statement that only reads, and return its rows. It is a snapshot by itself."""

    async def read(self, work: Work[T]) -> T:
        """Run the work, of several statements that only read, on one snapshot."""

    async def write(self, work: Work[T]) -> T:
        """Run the work in a transaction that is durable when this returns. Nothing is left of one that raised.

        Only after Doubtful it is not known; whoever can find out does.
        """

    async def close(self) -> None:
        """Let what is under way end, and close the connections."""
