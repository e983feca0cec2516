"""Following the log of a workspace: what whoever remembers answers reads of it. A database implements it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from taskctl.tasks import Task


class Step(ABC):
    """An entry of the log, as whoever remembers answers needs it: its number, whose it is, and the task before and after.

    size: about how many bytes it takes.
    """

    __slots__ = ("id", "seq", "size")

    def __init__(self, seq: int, id: int, size: int = 0) -> None:
        self.seq = seq
        self.id = id
        self.size = size

    @property
    @abstractmethod
    def tasks(self) -> tuple[Task | None, Task | None]:
        """The task before, None if it was added; after, None if it was removed. `updated_at` before may be that of after."""


class Recent(NamedTuple):
    """How far the log of a workspace has got, and the number of the last change of each task that changed after `base`.

    epoch: which log it is; history: the same, and another one also if the database has been taken over by a copy of itself that
    may lack what was written last.
    """

    epoch: str
    history: str
    head: int
    base: int
    changed: Mapping[int, int]


class News(NamedTuple):
    """What is new in some workspaces' logs: for each how far it has got, and the entries that come next, without a gap."""

    history: str
    logs: Mapping[str, tuple[int, list[Step]]]


class Log(Protocol):
    """The logs of a database, as whoever follows them reads them. Each answer is a snapshot."""

    async def recent(self, workspace: str, count: int) -> Recent:
        """Return where a workspace stands, and what its last `count` entries changed. Raises NotFound if there is none."""

    async def news(self, since: Mapping[str, int]) -> News:
        """Return what comes after these numbers of these workspaces, some hundred entries at most of each."""
