"""The narrow connector between the statements, which are written once, and a kind of database."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

T = TypeVar("T")
Row: TypeAlias = tuple[Any, ...]
Sql: TypeAlias = tuple[str, list[Any]]
"""A piece of SQL with `?` for its parameters, and the parameters."""


class Dialect(Protocol):
    """What is said differently in each database."""

    head: str
    """Reads, of the workspace of this name: id, seq, and the time now."""
    lock: str
    """Takes the workspace of this name for writing: id, seq, next_id, the time of its last write, and the time now."""

    def among(self, column: str, values: Iterable[int] | Iterable[str]) -> Sql:
        """Say that the column has one of the values, however many there are."""

    def search(self, workspace: int, words: Sequence[str], *, prefix: bool) -> Sql:
        """Say that a task's words have these one after another, the last one perhaps going on."""


class Connection(Protocol):
    """A connection within a transaction."""

    dialect: Dialect

    async def fetch(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """Run a statement and return its rows."""

    async def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement for each of the rows."""


Work: TypeAlias = Callable[[Connection], Awaitable[T]]


class Driver(Protocol):
    """A database. Its errors come out as those of `taskctl.errors`."""

    async def read(self, work: Work[T]) -> T:
        """Run the work on one snapshot."""

    async def write(self, work: Work[T]) -> T:
        """Run the work in a transaction that is durable when this returns. Nothing is left of one that raised."""

    async def close(self) -> None:
        """Let what is under way end, and close the connections."""
