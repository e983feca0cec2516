"""What can happen in taskctl, as a few types of event.

Handlers and statements stay free of metrics and logging: the few places through which everything passes emit an event, and
an `Observer` makes of it what it likes. An observer is called on the path of a request, so it returns at once and never raises.
"""

from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, ContextVar
from typing import Final, Literal, NamedTuple, TypeAlias

Statement: TypeAlias = Literal[
    "task",
    "list",
    "plan",
    "history",
    "changes",
    "projects",
    "labels",
    "stats",
    "follow",
    "feed",
    "token",
    "access",
    "named",
    "keys",
    "write",
    "commit",
    "settle",
    "session",
    "census",
    "other",
]
"""What a statement is for; docs/metrics.md explains each."""


class RequestBegun(NamedTuple):
    """An HTTP request has arrived, and nothing has been done for it yet. route: its template, or "" if none fitted."""

    method: str
    path: str
    route: str
    scheme: str
    headers: Mapping[str, str]


class RequestCut(NamedTuple):
    """An HTTP request that had begun gets no answer from us: it was cancelled."""


class RequestDone(NamedTuple):
    """An HTTP request was answered. route: its template, or "" if none fitted; seconds: until the answer was ready.

    workspace, token: whose it was, and the id of the token that says so; "" where nobody had to say, or could. address: where it
    came from. received, sent: bytes of its body, as far as that was read, and of the answer's. host: the `Host` that it named, if
    the server does not go by it. trace: see TRACE.
    """

    method: str
    path: str
    route: str
    status: int
    seconds: float
    request_id: str
    workspace: str = ""
    token: str = ""
    address: str = ""
    received: int = 0
    sent: int = 0
    host: str = ""
    trace: str = ""


class RateLimited(NamedTuple):
    """A request was refused, because there were too many by one limit."""

    limit: Literal["token", "address", "failures"]


class Audited(NamedTuple):
    """Something happened to a token, or with one: it was created, revoked, or refused; or a workspace was created.

    token: its id, "" if there is none in what was shown; by: the id of the token that did it, "" for whoever has the database;
    address: from where; why: it was refused.
    """

    action: Literal["created", "revoked", "refused", "workspace created"]
    token: str
    workspace: str = ""
    by: str = ""
    address: str = ""
    why: str = ""


class NobodyAdmitted(NamedTuple):
    """A server that asks for tokens begins, and there is none that it would let in."""


class StatementDone(NamedTuple):
    """A statement was run on the database, on `rows` rows or with as many as its answer.

    Where several travel together, it is the last one, and the time of all. It may be told by another thread than the caller's.
    failed: the database refused it, or did not answer.
    """

    sql: str
    rows: int
    seconds: float
    name: Statement = "other"
    failed: bool = False


class BatchCommitted(NamedTuple):
    """Changesets were committed in one transaction; `waiting` more of the workspace had arrived meanwhile.

    created: how many tasks were added; leads: of each task that became done, the seconds since it was created. contexts: of those
    who wait for them; it was done in one of these.
    """

    workspace: str
    changesets: int
    operations: int
    waiting: int
    seconds: float
    created: int = 0
    leads: tuple[float, ...] = ()
    contexts: Sequence[Context] = ()


class ReadShared(NamedTuple):
    """Several who asked at the same time were answered by one statement. contexts: theirs; it was run in one of these."""

    contexts: Sequence[Context]
    seconds: float


class TasksCounted(NamedTuple):
    """All tasks of the database were counted, over all workspaces.

    overdue: those past their due, in UTC; oldest_seconds: since the oldest open one was created, 0 if none is open.
    """

    counts: Mapping[str, int]
    overdue: int
    oldest_seconds: float


class Exchanged(NamedTuple):
    """A request was sent to a server, as its client sees it. status: of the answer, 0 if none came; seconds: until it was there.

    request_id: under which the server's log has it, "" if it has not said; token_from: where the token is from that was shown, in
    words, "" if none was.
    """

    method: str
    url: str
    status: int
    seconds: float
    request_id: str
    token_from: str


class DatabaseAway(NamedTuple):
    """The database cannot be reached; requests are answered with this until it can."""

    detail: str


class DatabaseBack(NamedTuple):
    """The database can be reached again, after so long."""

    seconds: float


class CertificateRenewed(NamedTuple):
    """The files with the certificate and its key were read again."""


class CertificateKept(NamedTuple):
    """They could not be read again; the server goes on with the ones that it has."""

    detail: str


class FeedPolled(NamedTuple):
    """The logs of so many workspaces were looked at; so many entries were new, and so many more are there to be read."""

    workspaces: int
    entries: int
    behind: int
    seconds: float
    failed: bool


class RedisDone(NamedTuple):
    """A round trip to Redis is over. command: the first one of it; keys: how many keys, or names, it was about.

    failed: it was not answered in time, or was refused; all that follows from it is a miss. contexts: of those who wait for it.
    """

    command: str
    keys: int
    seconds: float
    failed: bool
    contexts: Sequence[Context] = ()


class RedisAway(NamedTuple):
    """Redis has failed several times in a row, and is left alone; everything goes on without it."""

    detail: str


class RedisRefuses(NamedTuple):
    """Redis takes nothing new, because it is full, or may not be written to; what it has is still read."""

    detail: str


class RedisBack(NamedTuple):
    """Redis is used again, after so long."""

    seconds: float


Event: TypeAlias = (
    RequestBegun
    | RequestCut
    | RequestDone
    | RateLimited
    | Audited
    | NobodyAdmitted
    | StatementDone
    | Exchanged
    | BatchCommitted
    | ReadShared
    | TasksCounted
    | DatabaseAway
    | DatabaseBack
    | CertificateRenewed
    | CertificateKept
    | FeedPolled
    | RedisDone
    | RedisAway
    | RedisBack
    | RedisRefuses
)
Observer: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Observe nothing."""


METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"))
"""Those that are known (RFC 9110, RFC 5789); anybody can make up others, so these are told as one."""
PROBES: Final = ("/livez", "/readyz", "/metrics")
"""The ends of routes that balancers and Prometheus ask all the time: that all is well there is no news."""
TRACE: Final[ContextVar[str]] = ContextVar("taskctl.trace", default="")
"""The id of the trace that what happens belongs to, "" if there is none that is kept. Whoever makes traces sets it."""


def on_behalf_of(contexts: Sequence[Context]) -> Context:
    """Return the context in which to do what several wait for: of the first whose trace is kept, else of the first.

    Nobody's is an empty one. What works for one after the other does each piece in such a context, and runs in an empty one
    itself: else all would count as done for whoever happened to begin it.
    """
    return next((context for context in contexts if context.get(TRACE)), contexts[0] if contexts else Context())


Reading: TypeAlias = float | Mapping[tuple[str, ...], float]
"""What something is at the moment: a number, or one for each of several things."""
Gauges: TypeAlias = Callable[[str, Callable[[], Reading]], None]
"""Takes the name of what is of no event, such as the length of a queue, and what tells it whenever somebody wants to know."""


def unread(name: str, read: Callable[[], Reading]) -> None:
    """Never want to know."""
    del name, read
