"""The checker of histories is checked: what it must find, what it must not, and models of caches that are right and wrong."""

import heapq
import itertools
import random
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import pytest

from tests.histories import ALL, Entry, History, Kind, Read, Write, judged, settled, violations

RED = frozenset({"red"})
NOWHERE: frozenset[str] = frozenset()


def written(
    version: int | None,
    began: float,
    acknowledged: float | None = None,
    lists: frozenset[str] = RED,
    *,
    task: int = 1,
    **more: Any,
) -> Write:
    kind: Kind = "add" if version == 1 else "edit"
    return Write(kind, task, version, lists, began, acknowledged, **more)


def removed(began: float, acknowledged: float | None = None, *, task: int = 1, **more: Any) -> Write:
    return Write("remove", task, None, NOWHERE, began, acknowledged, **more)


def read(version: int | None, began: float, ended: float | None = None, *, task: int = 1, **more: Any) -> Read:
    return Read({task: version}, began, ended or began + 0.1, **more)


def listed(seen: dict[int, int | None], began: float, ended: float | None = None, *, list: str = "red", **more: Any) -> Read:
    return Read(seen, began, ended or began + 0.1, list=list, **more)


ADDED = written(1, 0.0, 0.1, process="a.1", seq=1)
EDITED = written(2, 5.0, 5.1, process="a.1", seq=2)
MOVED = written(2, 5.0, 5.1, NOWHERE, process="a.1", seq=2)
REMOVED = removed(5.0, 5.1, process="a.1", seq=2)
OTHER = written(1, 0.0, 0.1, task=2, seq=3)
EDITED_SINCE = written(2, 20.0, 20.1, task=2, seq=4)

BROKEN: dict[str, tuple[list[Write | Read], str]] = {
    "a version from before": ([ADDED, EDITED, read(1, 7.2)], "at least at 2 (bound)"),
    "by a server that was stopped meanwhile": ([ADDED, EDITED, read(1, 7.2, 11.0)], "at least at 2 (bound)"),
    "at once on the same replica": ([ADDED, EDITED, read(1, 5.2, process="a.1")], "at least at 2 (replica)"),
    "a removed task": ([ADDED, REMOVED, read(1, 7.2)], "gone (bound)"),
    "a removed task, on the same replica": ([ADDED, REMOVED, read(1, 5.2, process="a.1")], "gone (replica)"),
    "a 404 from before": ([ADDED, read(None, 2.2)], "a 404, and nobody removed it"),
    "a 404 before the removal": ([ADDED, read(None, 3.0, 4.0), REMOVED], "a 404, and nobody removed it"),
    "what nobody wrote": ([ADDED, read(2, 1.0)], "which nobody wrote"),
    "a task that nobody added": ([ADDED, read(1, 1.0, task=2)], "which nobody wrote"),
    "what was written later": ([ADDED, read(2, 4.0, 4.9), EDITED], "written later"),
    "what another has seen, and nobody acknowledged": (
        [ADDED, written(2, 5.0), read(2, 6.0, 6.1), read(1, 8.2)],
        "at least at 2 (bound)",
    ),
    "a removed task that another has missed": ([ADDED, removed(5.0), read(None, 6.0, 6.1), read(1, 8.2)], "gone (bound)"),
    "its own write": (
        [ADDED, written(2, 5.0, 5.1, session="s", at=2), read(1, 5.2, session="s", process="b.1")],
        "at least at 2 (session)",
    ),
    "backwards": ([ADDED, EDITED, read(2, 5.2, session="s", at=2), read(1, 5.4, session="s")], "at least at 2 (session)"),
    "backwards, from a list": ([ADDED, EDITED, listed({1: 2}, 5.2, session="s", at=2), read(1, 5.4, session="s")], "(session)"),
    "backwards, in a list": ([ADDED, EDITED, read(2, 5.2, session="s", at=2), listed({1: 1}, 5.4, session="s")], "(session)"),
    "back from a 404": (
        [ADDED, REMOVED, read(1, 1.0, session="s", at=1), read(None, 5.2, session="s", at=2), read(1, 5.4, session="s")],
        "gone (session)",
    ),
    "older than it was asked for": ([ADDED, EDITED, read(1, 5.2, asked=2)], "at least at 2 (asked)"),
    "older, as it says itself": ([ADDED, read(1, 1.0, asked=2, at=1)], "asked for seq 2, and got 1"),
    "an old version in a list": ([ADDED, EDITED, listed({1: 1}, 7.2)], "at least at 2 (bound)"),
    "a list without a task": ([ADDED, EDITED, listed({}, 7.2)], "task 1 is missing"),
    "a list without a new task": ([ADDED, listed({}, 2.2)], "task 1 is missing"),
    "a list without a task, on the same replica": (
        [ADDED, listed({}, 0.2, process="a.1")],
        "missing: it is at least at 1 (replica)",
    ),
    "a list without a task, in a session": ([ADDED, listed({}, 0.2, asked=1)], "missing: it is at least at 1 (asked)"),
    "a list without a task on a page that is cut": ([ADDED, OTHER, listed({2: 1}, 3.0, covers=range(1, 3))], "task 1 is missing"),
    "a list with a task that has left": ([ADDED, MOVED, listed({1: 2}, 7.2)], "does not belong there"),
    "a list with a task as it was before it left": ([ADDED, MOVED, listed({1: 1}, 7.2)], "at least at 2 (bound)"),
    "a list with a task that is removed": ([ADDED, REMOVED, listed({1: 1}, 7.2)], "gone (bound)"),
    "a list that never was": ([ADDED, OTHER, EDITED, listed({1: 1, 2: 1}, 5.2)], "it was never so"),
}

FINE: dict[str, list[Write | Read]] = {
    "nothing": [],
    "the newest": [ADDED, EDITED, read(2, 7.2)],
    "within the bound": [ADDED, EDITED, read(1, 7.1)],
    "within the bound, a list": [ADDED, MOVED, listed({1: 1}, 7.0)],
    "a new version before its acknowledgement": [ADDED, read(2, 5.01, 5.02), EDITED],
    "within the bound, on another replica": [ADDED, EDITED, read(1, 5.2, process="b.1")],
    "within the bound, on the replica after a restart": [ADDED, EDITED, read(1, 5.2, process="a.2")],
    "within the bound, on a replica that was restarted meanwhile": [ADDED, EDITED, read(1, 5.2, process=None)],
    "on the same replica, before it acknowledged": [ADDED, read(1, 5.05, 5.2, process="a.1"), EDITED],
    "at the same instant": [ADDED, EDITED, read(1, 5.1, process="a.1")],
    "an unknown outcome: it did not happen": [ADDED, written(None, 5.0), read(1, 9.0)],
    "an unknown outcome: it happened": [ADDED, written(None, 5.0), read(2, 9.0)],
    "an unknown outcome: it happened late": [ADDED, written(None, 5.0), read(1, 9.0), read(2, 9.5)],
    "an unknown outcome that was seen, within the bound": [ADDED, written(2, 5.0), read(2, 6.0, 6.1), read(1, 8.1)],
    "an unknown removal: it did not happen": [ADDED, removed(5.0), read(1, 9.0)],
    "an unknown removal: it happened": [ADDED, removed(5.0), read(None, 9.0)],
    "an unknown add": [Write("add", None, None, RED, 0.0), read(1, 3.0), read(None, 4.0, task=2)],
    "an unknown edit may have moved it": [ADDED, written(None, 5.0, None, NOWHERE), listed({}, 9.0)],
    "an unknown edit of a known version may have moved it": [ADDED, written(2, 5.0, None, NOWHERE), listed({}, 9.0)],
    "an unknown removal may have moved it": [ADDED, removed(5.0), listed({}, 9.0)],
    "404 before it is added": [read(None, 0.0, 0.1), ADDED],
    "404 within the bound of the add": [ADDED, read(None, 2.05)],
    "404 while it is removed": [ADDED, read(None, 5.05), REMOVED],
    "404 ever after": [ADDED, REMOVED, read(None, 5.2, process="a.1"), read(None, 50.0)],
    "404 for what never was": [ADDED, read(None, 50.0, task=9)],
    "another session": [ADDED, EDITED, read(2, 5.2, session="s", at=2), read(1, 5.4, session="t")],
    "a session that was told nothing to send along": [ADDED, EDITED, read(2, 5.2, session="s"), read(1, 5.4, session="s")],
    "a session: up to what was asked for": [ADDED, EDITED, read(1, 5.2, asked=1)],
    "a list that it is in": [ADDED, listed({1: 1}, 7.2)],
    "a list that it has left": [ADDED, MOVED, listed({}, 5.05), listed({}, 7.2)],
    "a list that it is about to come to": [written(1, 0.0, 0.1, NOWHERE), written(2, 5.0, 5.1), listed({}, 7.0)],
    "a list that it is coming to": [ADDED, MOVED, written(3, 6.0, 6.1, seq=3), listed({}, 7.9), listed({1: 3}, 6.05)],
    "a list that it may be leaving": [ADDED, written(2, 9.0, 9.2, NOWHERE), listed({}, 8.9, 9.1)],
    "a list of others": [ADDED, listed({}, 7.2, list="blue")],
    "a page that is cut before it": [ADDED, OTHER, listed({2: 1}, 3.0, covers=range(2, 9))],
    "a list of two moments within the bound": [ADDED, EDITED, OTHER, EDITED_SINCE, listed({1: 2, 2: 1}, 7.2)],
}


def history(events: Sequence[Write | Read]) -> History:
    return History([e for e in events if isinstance(e, Write)], [e for e in events if isinstance(e, Read)])


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_the_promise_is_found(name: str) -> None:
    events, words = BROKEN[name]
    found = violations(history(events))
    assert len(found) == 1, found
    assert words in found[0]
    assert violations(history(events[::-1])) == found


@pytest.mark.parametrize("name", FINE)
def test_what_keeps_the_promise_is_let_pass(name: str) -> None:
    assert violations(history(FINE[name])) == []


def test_another_bound() -> None:
    late = history([ADDED, EDITED, read(1, 7.0)])
    assert violations(late) == []
    assert len(violations(late, 1.0)) == 1
    assert len(violations(late, 0.0)) == 1


def test_it_counts_what_each_rule_was_about() -> None:
    events: list[Write | Read] = [
        ADDED,
        EDITED,
        read(2, 5.2, process="a.1", session="s", asked=2, at=2),
        read(2, 5.4, session="s"),
        listed({1: 2}, 9.0),
    ]
    assert judged(history(events))[1] == {"bound": 3, "replica": 1, "asked": 1, "session": 1, "list": 1, "moment": 0}


def test_the_log_settles_what_is_unknown() -> None:
    writes = [
        Write("add", None, None, RED, 0.0, mark="one"),
        Write("edit", 1, None, NOWHERE, 1.0, mark="two"),
        Write("edit", 1, 2, RED, 2.0, 2.1, at=2, mark="three"),
        removed(4.0),
        removed(3.0),
        removed(4.0, task=2),
    ]
    log = [Entry(1, "add", 1, 1, "one"), Entry(2, "edit", 1, 2, "three"), Entry(3, "remove", 1, 3, "")]
    found, wrong = settled(History(writes, []), log)
    assert wrong == []
    assert {(w.kind, w.task, w.version, w.seq, w.began) for w in found.writes} == {
        ("add", 1, 1, 1, 0.0),
        ("edit", 1, 2, 2, 2.0),
        ("remove", 1, 3, 3, 3.0),
    }


@pytest.mark.parametrize(
    ("write", "log"),
    [
        (written(2, 1.0, 1.1, mark="one"), []),
        (removed(1.0, 1.1), []),
        (written(2, 1.0, 1.1, mark="one"), [Entry(2, "edit", 1, 3, "one")]),
        (written(2, 1.0, 1.1, at=1, mark="one"), [Entry(2, "edit", 1, 2, "one")]),
        (removed(1.0, 1.1, at=1), [Entry(2, "remove", 1, 2, "")]),
        (written(None, 1.0, mark="one"), [Entry(2, "edit", 1, 2, "one"), Entry(3, "edit", 1, 3, "other")]),
    ],
)
def test_a_log_that_contradicts_what_was_acknowledged(write: Write, log: list[Entry]) -> None:
    assert len(settled(History([write], []), log)[1]) == 1


# ------------------------------------------------------------------------------------------- caches that are right and wrong
#
# A server steps in between what its clients do, and does each step at once. Its caches follow the log, as architecture.md has
# it, unless a guard is left out.

GUARDS = frozenset({"lease", "own writes", "sessions", "lists", "404s"})
Value = dict[int, int | None]
Key = int | str


class Database:
    def __init__(self) -> None:
        self.rows: dict[int, tuple[int, bool]] = {}
        self.log: list[int] = []

    @property
    def seq(self) -> int:
        return len(self.log)

    def read(self, key: Key) -> Value:
        if isinstance(key, str):
            return {task: version for task, (version, red) in self.rows.items() if red}
        return {key: self.rows[key][0] if key in self.rows else None}

    def write(self, task: int, *, red: bool | None) -> int | None:
        """Add, edit or remove (red None) a task, and return its version."""
        self.log.append(task)
        version = self.rows.pop(task, (0, False))[0] + 1
        if red is None:
            return None
        self.rows[task] = (version, red)
        return version


class Cached(NamedTuple):
    value: Value
    seq: int
    filled: float


class Replica:
    """A server with a cache. `seconds` makes it a naive one: it keeps everything for so long, and knows no log."""

    def __init__(self, database: Database, guards: frozenset[str], seconds: float | None) -> None:
        self._database = database
        self._guards = guards
        self._seconds = seconds
        self._cache: dict[Key, Cached] = {}
        self._applied = 0
        self._polled = 0.0

    def poll(self, now: float) -> None:
        for task in self._database.log[self._applied :]:
            self._forget(task)
        self._applied, self._polled = self._database.seq, now

    def _forget(self, task: int) -> None:
        if "404s" in self._guards or self._cache.get(task, Cached({task: 0}, 0, 0.0)).value[task] is not None:
            self._cache.pop(task, None)
        if "lists" in self._guards:
            self._cache.pop("red", None)

    def read(self, key: Key, asked: int, now: float) -> tuple[Value, int]:
        found = self._cache.get(key)
        if found is not None and self._may_serve(found, asked, now):
            return found.value, max(self._applied, found.seq, asked if "sessions" not in self._guards else 0)
        found = self._cache[key] = Cached(self._database.read(key), self._database.seq, now)
        return found.value, found.seq

    def _may_serve(self, found: Cached, asked: int, now: float) -> bool:
        if self._seconds is not None:
            return now < found.filled + self._seconds
        if "lease" in self._guards and now > self._polled + 2.0:
            return False
        return "sessions" not in self._guards or asked <= max(self._applied, found.seq)

    def write(self, task: int, *, red: bool | None) -> tuple[int | None, int]:
        version = self._database.write(task, red=red)
        if "own writes" in self._guards:
            self._forget(task)
        return version, self._database.seq


class Simulation:
    """Some replicas and clients for a simulated while, from a seed."""

    SECONDS = 60.0
    CLIENTS = 8
    REPLICAS = 3

    def __init__(self, seed: int, guards: frozenset[str] = GUARDS, seconds: float | None = None) -> None:
        self._rng = random.Random(seed)
        self._database = Database()
        self._replicas = [Replica(self._database, guards, seconds) for _ in range(self.REPLICAS)]
        self._ids = itertools.count(1)
        self._now = 0.0
        self.history = History([], [])
        steps = [*(self._poll(replica) for replica in self._replicas), *(self._client(n) for n in range(self.CLIENTS))]
        self._run(steps)

    def _run(self, steps: list[Iterator[float]]) -> None:
        waiting = [(0.0, number, step) for number, step in enumerate(steps)]
        while waiting[0][0] < self.SECONDS:
            self._now, number, step = waiting[0]
            heapq.heapreplace(waiting, (self._now + next(step), number, step))

    def _poll(self, replica: Replica) -> Iterator[float]:
        while True:
            replica.poll(self._now)
            yield 0.5 if self._rng.random() < 0.8 else self._rng.uniform(0.5, 6.0)  # it may be stopped, or the database away

    def _client(self, number: int) -> Iterator[float]:
        asked: int | None = None
        while True:
            place = self._rng.randrange(self.REPLICAS)
            session = f"{number}" if number % 2 else None
            write = self._rng.random() < 0.2
            asked = (yield from (self._write if write else self._read)(place, session, asked)) if session else None
            if not session:
                yield from (self._write if write else self._read)(place, None, None)
            yield self._rng.expovariate(10.0)

    def _write(self, place: int, session: str | None, asked: int | None) -> Generator[float, None, int]:
        began = self._now
        yield self._rng.uniform(0.001, 0.01)
        rows = list(self._database.rows)
        add = len(rows) < self._rng.randint(3, 9)
        task = next(self._ids) if add else self._rng.choice(rows)
        kind: Kind = "add" if add else "edit" if self._rng.random() < 0.8 else "remove"
        red = None if kind == "remove" else self._rng.random() < 0.5
        version, seq = self._replicas[place].write(task, red=red)
        yield self._rng.uniform(0.001, 0.01)
        lists = RED if red else NOWHERE
        self.history.writes.append(Write(kind, task, version, lists, began, self._now, f"{place}.1", session, seq, seq))
        return seq

    def _read(self, place: int, session: str | None, asked: int | None) -> Generator[float, None, int]:
        began = self._now
        yield self._rng.uniform(0.001, 0.01)
        last = max(self._database.rows, default=0)
        key: Key = "red" if self._rng.random() < 0.3 else self._rng.randint(max(1, last - 8), last + 2)
        value, at = self._replicas[place].read(key, asked or 0, self._now)
        yield self._rng.uniform(0.001, 0.01)
        name = key if isinstance(key, str) else None
        self.history.reads.append(Read(value, began, self._now, name, ALL, f"{place}.1", session, asked, at))
        return at


@pytest.mark.parametrize("seed", range(5))
def test_a_cache_that_follows_the_log_keeps_the_promise(seed: int) -> None:
    found, about = judged(Simulation(seed).history)
    assert found == []
    assert min(about[rule] for rule in ("bound", "replica", "session", "asked", "list", "moment")) > 50, about


@pytest.mark.parametrize("seed", range(5))
def test_a_cache_that_keeps_everything_for_five_seconds_is_caught(seed: int) -> None:
    found = violations(Simulation(seed, frozenset(), seconds=5.0).history)
    for words in ("(bound)", "(replica)", "(session)", "(asked)", "missing", "a 404", "gone", "list 'red'"):
        assert any(words in one for one in found), words


@pytest.mark.parametrize(
    ("guard", "words"),
    [("lease", "(bound)"), ("own writes", "(replica)"), ("sessions", "(session)"), ("lists", "missing"), ("404s", "a 404")],
)
def test_a_cache_without_one_of_its_guards_is_caught(guard: str, words: str) -> None:
    found = violations(Simulation(1, GUARDS - {guard}).history)
    assert any(words in one for one in found), found
