"""What clients wrote to the replicas of a server and read from them, and whether that keeps the promise about stale reads:

No read returns a value that was superseded by a commit acknowledged more than 2.0 s before the read began. On the same replica
the bound is zero. No removed task comes back. A session that sends the `X-Taskctl-Seq` of its last answer along never goes
backwards and reads its own writes, on any replica. All of it holds for lists and for 404s, too.

Why the clocks can be trusted: all times are CLOCK_MONOTONIC of one machine, and only the clients read it.

- `began` is read before the first byte of the request leaves, `acknowledged` and `ended` after the last byte of the answer has
  come. So a commit lies between `began` and `acknowledged` of its write, and the moment at which a server looked at what it
  answered (and at its own clock) lies between `began` and `ended` of the read.
- "Acknowledged more than 2.0 s before the read began" is therefore always later, and never earlier, than it was for the
  server: the commit was before `acknowledged`, the look after `began`. There is no slack to add, in either direction.
- A server that was stopped with the request in its socket looks later than that. It owes the bound all the same: what it sees
  later can only be newer. The same goes for a client that had to wait for a connection, or sent the read a second time.
- Times that are equal are in no order.
"""

import sys
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

BOUND: Final = 2.0
GONE: Final = sys.maxsize
"""What stands for the version of a removed task: ids are never used again, so nothing is newer."""
ALL: Final = range(sys.maxsize)
"""Every id: a page that shows the whole list."""

Kind = Literal["add", "edit", "remove"]


class Write(NamedTuple):
    """A write that was sent, unless it is certain that it did nothing.

    `lists` are those that the task belongs to afterwards. Without `acknowledged` the outcome is unknown: it may have happened at
    any time since it began, or happen yet. `process` is the one that acknowledged it, a replica between two of its starts; None
    if it may have been either of two. `at` is how new the answer said that it is, `seq` the write's own place in the log, and
    `mark` what it can be found by there.
    """

    kind: Kind
    task: int | None  # None: an add that nobody answered
    version: int | None  # None: a removal, or nobody knows
    lists: frozenset[str]
    began: float
    acknowledged: float | None = None
    process: str | None = None
    session: str | None = None
    at: int | None = None
    seq: int | None = None
    mark: str = ""


class Read(NamedTuple):
    """An answer: the versions of the tasks in it, None for a 404. A `list` is named; without one it is about one task.

    A page tells of all the ids that it `covers`: who of these is not in it was not in the list. `asked` is the seq that was sent
    along, `at` the one that came back. Whoever has a `session` does one thing after the other, and sends the last `at` along.
    """

    seen: Mapping[int, int | None]
    began: float
    ended: float
    list: str | None = None
    covers: range = ALL
    process: str | None = None
    session: str | None = None
    asked: int | None = None
    at: int | None = None


class History(NamedTuple):
    """All that was done, in any order."""

    writes: list[Write]
    reads: list[Read]


class Entry(NamedTuple):
    """An entry of the log that was read when all was over."""

    seq: int
    kind: Kind
    task: int
    version: int
    mark: str


def settled(history: History, log: Iterable[Entry]) -> tuple[History, list[str]]:
    """Return the history with what the log tells of its writes, and where the two contradict each other.

    A write of unknown outcome that is in the log gets its task, version and seq; when it happened stays unknown. One that is not
    there has never happened, and is left out.
    """
    entries = list(log)
    marked = {entry.mark: entry for entry in entries if entry.kind != "remove"}
    removed = {entry.task: entry for entry in entries if entry.kind == "remove"}
    writes: list[Write] = []
    wrong: list[str] = []
    # If several removals of a task are in doubt, it was one of them; the first that began is the one that excuses the most.
    for write in sorted(history.writes, key=lambda w: (w.acknowledged is None, w.began)):
        entry = removed.pop(write.task or 0, None) if write.kind == "remove" else marked.pop(write.mark, None)
        if entry is None:
            if write.acknowledged is not None:
                wrong.append(f"acknowledged, and not in the log, or there for another write: {write}")
            continue
        found = write._replace(task=entry.task, version=entry.version, seq=entry.seq)
        if write.acknowledged is not None:
            told = (write.task, write.version or entry.version, write.kind)
            if told != (entry.task, entry.version, entry.kind) or (write.at is not None and write.at < entry.seq):
                wrong.append(f"acknowledged as something else than the log says, {entry}: {write}")
        writes.append(found)
    wrong += [f"nobody wrote what the log says: {entry}" for entry in (*marked.values(), *removed.values())]
    return History(writes, history.reads), wrong


def violations(history: History, bound: float = BOUND) -> list[str]:
    """Return what breaks the promise, in words. See `judged`."""
    return judged(history, bound)[0]


def judged(history: History, bound: float = BOUND) -> tuple[list[str], Counter[str]]:
    """Return what breaks the promise, and how many reads each rule had something to say about.

    Each read has a floor for each task: the newest version that it must at least show. It comes from

    - "bound": what was acknowledged, or shown to anybody by a read that had ended, more than `bound` before the read began. (What
      was shown had been committed: this is how a write of unknown outcome comes to count.)
    - "replica": what the process that answers had itself acknowledged before the read began. A process that was killed and
      started anew is another one and owes nothing of that. (One that only passes on the first answer to a write that is sent
      again, with its Idempotency-Key, has acknowledged it, too.)
    - "session": what the session wrote or saw, in answers that said how new they were. One without `X-Taskctl-Seq` (a 404, today)
      gave it nothing that it could have sent along.
    - "asked": the writes up to the seq that was sent along.

    A page must then show every task of which each state that the read may show belongs to the list; what it shows must belong to
    it, and all of it must have been true at one moment ("moment").

    Not covered, since it would make this longer or less certain: tasks missing on pages that are cut and not in the order of
    ids; tasks with a write that nobody could settle; absent tasks as a sign of the moment of a list or of what a session saw;
    which of two writes made a version, while neither is settled. What a version holds, and in which order a page is, whoever has
    the answer before them can see without a history.
    """
    return _Judge(history, bound).judge()


class _Stairs:
    """The newest version by some time, or by some seq: what is added comes in the order of these."""

    def __init__(self) -> None:
        self._at: list[float] = []
        self._newest: list[int] = []

    def add(self, at: float, version: int) -> None:
        if not self._newest or version > self._newest[-1]:
            self._at.append(at)
            self._newest.append(version)

    def before(self, at: float) -> int:
        index = bisect_left(self._at, at)
        return self._newest[index - 1] if index else 0


class _Task:
    """All that is known of a task's writes, by version; a removal is the last."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.versions: list[int] = []
        self.doubtful_since = float("inf")
        self.may_be_gone_since = float("inf")
        self.by_seq = _Stairs()
        self.lists: set[str] = set()

    def fill(self, writes: Iterable[Write]) -> None:
        for write in writes:
            if write.kind == "remove":
                self.may_be_gone_since = min(self.may_be_gone_since, write.began)
            elif write.version is None:
                self.doubtful_since = min(self.doubtful_since, write.began)
        self.writes = sorted((w for w in writes if w.version is not None or w.kind == "remove"), key=_rank)
        self.versions = [_rank(write) for write in self.writes]
        self.lists = {name for write in self.writes for name in write.lists}
        for write in sorted((w for w in self.writes if w.seq is not None), key=lambda w: w.seq or 0):
            self.by_seq.add(write.seq or 0, _rank(write))

    def write_of(self, version: int) -> Write | None:
        index = bisect_left(self.versions, version)
        return self.writes[index] if index < len(self.writes) and self.versions[index] == version else None

    def possible(self, floor: int, ended: float) -> list[Write]:
        """Return the writes that made the states which a read with this floor may show. Empty if that is not certain."""
        first = bisect_left(self.versions, floor)
        if ended > self.doubtful_since or first == len(self.versions) or self.versions[first] != floor:
            return []
        return [write for write in self.writes[first:] if write.began < ended]


def _rank(write: Write) -> int:
    return GONE if write.kind == "remove" else write.version or 0


class _Judge:
    def __init__(self, history: History, bound: float) -> None:
        self._bound = bound
        self._found: list[str] = []
        self._judged: Counter[str] = Counter()
        written: defaultdict[int, list[Write]] = defaultdict(list)
        self._adds_in_doubt_since = float("inf")
        for write in history.writes:
            if write.task is None:
                self._adds_in_doubt_since = min(self._adds_in_doubt_since, write.began)
            else:
                written[write.task].append(write)
        self._tasks: defaultdict[int, _Task] = defaultdict(_Task)
        for task, writes in written.items():
            self._tasks[task].fill(writes)
        self._known: defaultdict[int, _Stairs] = defaultdict(_Stairs)
        self._acknowledged: defaultdict[tuple[str, int], _Stairs] = defaultdict(_Stairs)
        self._noticed: defaultdict[tuple[str, int], _Stairs] = defaultdict(_Stairs)
        # By when they ended: whatever had ended before a read began was then taken in before the read is looked at.
        self._events: list[tuple[float, Write | Read]] = [
            (w.acknowledged, w) for w in history.writes if w.acknowledged is not None
        ]
        self._events += [(read.ended, read) for read in history.reads]
        self._events.sort(key=lambda event: event[0])

    def judge(self) -> tuple[list[str], Counter[str]]:
        for at, event in self._events:
            if isinstance(event, Write):
                self._take_in(event, at)
            else:
                self._look_at(event)
        return self._found, self._judged

    def _take_in(self, write: Write, at: float) -> None:
        if write.task is None:
            return
        self._known[write.task].add(at, _rank(write))
        if write.process is not None:
            self._acknowledged[write.process, write.task].add(at, _rank(write))
        if write.session is not None and write.at is not None:
            self._noticed[write.session, write.task].add(at, _rank(write))

    def _floors(self, read: Read, task: int) -> dict[str, int]:
        floors = {"bound": self._known[task].before(read.began - self._bound) if task in self._known else 0}
        if read.process is not None and (acknowledged := self._acknowledged.get((read.process, task))):
            floors["replica"] = acknowledged.before(read.began)
        if read.session is not None and (noticed := self._noticed.get((read.session, task))):
            floors["session"] = noticed.before(read.began)
        if read.asked is not None and task in self._tasks:
            floors["asked"] = self._tasks[task].by_seq.before(read.asked + 0.5)
        return floors

    def _look_at(self, read: Read) -> None:
        before = len(self._found)
        had_to: set[str] = set()  # the rules that said more than the bound, which holds for everybody
        shown: dict[int, int] = {}
        if read.asked is not None and read.at is not None and read.at < read.asked:
            self._complain(read, f"it asked for seq {read.asked}, and got {read.at}")
        for task, version in read.seen.items():
            floors = self._floors(read, task)
            had_to |= {rule for rule, floor in floors.items() if floor > (0 if rule == "bound" else floors["bound"])}
            floor = max(floors.values())
            if version is None:
                if floor and read.ended <= self._tasks[task].may_be_gone_since:
                    self._complain(read, f"task {task} is a 404, and nobody removed it: {_why(floors)}")
                elif floor:
                    shown[task] = GONE
                continue
            shown[task] = version
            if version < floor:
                self._complain(read, f"task {task} is at {version}: {_why(floors)}")
            self._may_be(read, task, version)
        if read.list is not None:
            self._absent(read)
            self._at_one_moment(read)
            self._judged["list"] += 1
        for rule in had_to:
            self._judged[rule] += 1
        if len(self._found) > before:
            return  # an answer that cannot be true tells nothing else
        for task, version in shown.items():
            self._known[task].add(read.ended, version)
            if read.session is not None and read.at is not None:
                self._noticed[read.session, task].add(read.ended, version)

    def _may_be(self, read: Read, task: int, version: int) -> None:
        """Complain about a version that nobody can have written yet, or that is not one for this list."""
        known = self._tasks.get(task)
        write = known.write_of(version) if known else None
        if write is not None:
            if write.began >= read.ended:
                self._complain(read, f"task {task} is at {version}, which was written later")
            if read.list is not None and read.list not in write.lists:
                self._complain(read, f"task {task} is there, at {version}, and does not belong there")
        elif read.ended <= min(known.doubtful_since if known else self._adds_in_doubt_since, self._adds_in_doubt_since):
            self._complain(read, f"task {task} is at {version}, which nobody wrote")

    def _absent(self, read: Read) -> None:
        """Complain about the tasks that must be in a list, whichever of the states that they may be in they are in."""
        for task, known in self._tasks.items():
            if task in read.seen or task not in read.covers or read.list not in known.lists:
                continue
            floors = self._floors(read, task)
            floor = max(floors.values())
            possible = known.possible(floor, read.ended) if 0 < floor < GONE else []
            if possible and all(read.list in write.lists for write in possible):
                self._complain(read, f"task {task} is missing: {_why(floors)}, and belongs there")

    def _at_one_moment(self, read: Read) -> None:
        """Complain about a list of which one part was over before another had begun, by the numbers in the log."""
        since, until = (0, 0), (GONE, 0)
        for task, version in read.seen.items():
            known = self._tasks[task]
            index = bisect_left(known.versions, version or 0)
            if index == len(known.versions) or known.versions[index] != version:
                continue
            since = max(since, (known.writes[index].seq or 0, task))
            later = known.writes[index + 1 :][:1]
            until = min(until, *((write.seq, task) for write in later if write.seq is not None), until)
        self._judged["moment"] += since[0] > 0 and until[0] < GONE
        if since[0] >= until[0]:
            said = f"task {since[1]} is as since seq {since[0]}, and task {until[1]} as it was only before seq {until[0]}"
            self._complain(read, f"it was never so: {said}")

    def _complain(self, read: Read, what: str) -> None:
        where = f"list {read.list!r}" if read.list is not None else "a task"
        who = f"{read.process or 'some process'}, session {read.session or 'none'}"
        self._found.append(f"{where} read at {read.began:.3f}-{read.ended:.3f} from {who}: {what}")


def _why(floors: Mapping[str, int]) -> str:
    rule, floor = max(floors.items(), key=lambda item: item[1])
    return f"it is {'gone' if floor == GONE else f'at least at {floor}'} ({rule})"
