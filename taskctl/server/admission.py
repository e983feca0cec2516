"""Who a request is from, and whether they may: the step before every handler."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import Context, copy_context
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple, TypeAlias

from aiohttp import web

from taskctl.access import AccessService, Caller, Known, Scope, TokenStore, id_of, is_token
from taskctl.errors import Forbidden, TaskctlError, TooManyRequests, Unauthenticated
from taskctl.observe import Audited, Observer
from taskctl.server.doors import Doors
from taskctl.tasks import TaskService

Needs: TypeAlias = Scope | Literal["keeper", "token", "nothing"]
"""What a handler needs of who asks: a scope, to look after all workspaces, any token that is good, or nothing."""
CHECKED_SECONDS: Final = 2.0
"""How long a token is taken for what it was when it was looked up: a revocation is in force after that, on every server."""
AGAIN_SECONDS: Final = 1.0
"""From then on it is looked up again in passing, so that nobody waits for that."""
KNOWN_MAX: Final = 10_000
NOTED_SECONDS: Final = 60.0
"""How far behind `last_used_at` may be."""
LIMITS: Final[web.RequestKey[Mapping[str, str]]] = web.RequestKey("taskctl.limits")
"""What the answer says of how much more may be asked for."""
REFUSED: Final = web.RequestKey("taskctl.refused", Caller)
"""Who is known, and has asked too often."""

_log = logging.getLogger("taskctl.server")


class Admitted(NamedTuple):
    """A caller who was let in, and what they work with. access: None where nobody has a token."""

    caller: Caller
    tasks: TaskService
    access: AccessService | None


class Opened(NamedTuple):
    """What the application serves. tokens: where they are, None if none is needed; then everybody works in `workspace`."""

    tasks: TaskService
    workspace: str = "default"
    tokens: TokenStore | None = None

    async def ready(self) -> None:
        """Return if it can be served; raise Unavailable, with the reason, if not."""
        await self.tasks.ready()
        if self.tokens is not None:
            await self.tokens.ready()


class _Entry:
    """A token that is known. since: when looking it up began."""

    def __init__(self, known: Known, admitted: Admitted, since: float) -> None:
        self.known = known
        self.admitted = admitted
        self.since = since

    def fault(self) -> tuple[str, str] | None:
        """Return why it is worth nothing any more, None if it is good."""
        return self.known.token.fault(datetime.now(UTC))


class _Refused(Exception):
    """A token that is worth nothing: why, for programs and for people, and whose it is as far as that is known."""

    def __init__(self, why: str, said: str, id: str = "", workspace: str = "") -> None:
        super().__init__(why)
        self.why, self.said, self.id, self.workspace = why, said, id, workspace


class Admission:
    """Lets callers in, by the tokens that they show. Every token is looked up again after `CHECKED_SECONDS`.

    Only what the database has said is remembered, and only of tokens that are there: a new one works at once.
    """

    def __init__(self, opened: Opened, doors: Doors, observer: Observer) -> None:
        self._opened = opened
        self._doors = doors
        self._observer = observer
        self._known: OrderedDict[str, _Entry] = OrderedDict()
        self._looking: dict[str, asyncio.Task[_Entry | None]] = {}
        self._used: dict[str, datetime] = {}
        self._noted: dict[str, float] = {}
        self._notes = True
        everybody = Caller("", None, opened.workspace, ("admin",))
        self._everybody = Admitted(everybody, opened.tasks, None) if opened.tokens is None else None

    async def admit(self, request: web.Request, needs: Needs) -> Admitted:
        """Return who a request is from. Raises Unauthenticated, Forbidden, TooManyRequests, Unavailable."""
        if self._everybody is not None:
            return self._everybody
        admitted = await self._caller(request)
        _require(admitted.caller, needs)
        return admitted

    async def again(self, request: web.Request, needs: Needs) -> None:
        """Look again at who a request is from, when much of it came later than its beginning. Raises what `admit` does."""
        if self._everybody is None:
            try:
                entry = await self._good(_shown(request))
            except _Refused as e:
                raise self._unauthenticated(e, self._doors.address_of(request)) from None
            _require(entry.admitted.caller, needs)

    async def _caller(self, request: web.Request) -> Admitted:
        token = _shown(request)
        address, rates = self._doors.address_of(request), self._doors.rates
        is_attempt = rates is not None and not self._is_known_good(token)
        if rates is not None and is_attempt:
            rates.attempted(address)
        try:
            entry = await self._good(token)
        except _Refused as e:
            if rates is not None and is_attempt and e.why in ("expired", "revoked"):  # nobody guesses those
                rates.excused(address)
            raise self._unauthenticated(e, address) from None
        if rates is not None and is_attempt:
            rates.excused(address)
        id = entry.admitted.caller.token
        self._used[id] = datetime.now(UTC)
        if rates is not None:
            try:
                request[LIMITS] = rates.used(id)
            except TooManyRequests:
                request[REFUSED] = entry.admitted.caller
                raise
        return entry.admitted

    def _unauthenticated(self, refused: "_Refused", address: str) -> Unauthenticated:
        self._observer(Audited("refused", refused.id, refused.workspace, address=address, why=refused.why))
        return Unauthenticated(refused.said, reason=refused.why)

    def _is_known_good(self, token: str) -> bool:
        """Return whether a token was good when it was last looked up, however long ago."""
        entry = self._known.get(id_of(token) or "")
        return entry is not None and is_token(token, entry.known.hash) and entry.fault() is None

    async def _good(self, token: str) -> _Entry:
        """Return what is known of a token that is good. Raises _Refused if it is not."""
        id = id_of(token)
        if id is None:
            raise _Refused("malformed", "what was shown is no token: a character is missing or wrong")
        entry = await self._entry(id)
        if entry is None or not is_token(token, entry.known.hash):
            raise _Refused("unknown", "there is no such token", id)
        if fault := entry.fault():
            raise _Refused(*fault, id, entry.known.token.workspace)
        return entry

    async def _entry(self, id: str) -> _Entry | None:
        """Return what is known of a token, None if there is none with this id."""
        entry = self._known.get(id)
        age = _now() - entry.since if entry is not None else CHECKED_SECONDS
        if age >= AGAIN_SECONDS:
            asked = _now()
            # In passing nobody waits for it, and so it is done for nobody.
            looking = self._looking.get(id) or self._look(id, copy_context() if age >= CHECKED_SECONDS else Context())
            if age >= CHECKED_SECONDS:
                entry = await asyncio.shield(looking)
                if entry is not None and asked - entry.since >= CHECKED_SECONDS:  # it was under way for that long
                    entry = await asyncio.shield(self._looking.get(id) or self._look(id, copy_context()))
        return entry

    def _look(self, id: str, context: Context) -> asyncio.Task[_Entry | None]:
        task = self._looking[id] = asyncio.create_task(self._lookup(id), context=context)
        task.add_done_callback(lambda done: self._ended(id, done))
        return task

    def _ended(self, id: str, task: asyncio.Task[_Entry | None]) -> None:
        if self._looking.get(id) is task:
            del self._looking[id]
        if not task.cancelled():
            task.exception()  # whoever waits for it is told; if nobody does, the next one looks again

    async def _lookup(self, id: str) -> _Entry | None:
        since = _now()
        assert self._opened.tokens is not None
        known = await self._opened.tokens.find(id)
        if known is None:
            self._known.pop(id, None)
            return None
        caller = known.token.caller()
        before = self._known.get(id)
        if before is not None and before.admitted.caller == caller:
            admitted = before.admitted
        else:
            tasks = self._opened.tasks.scoped(actor=caller.name, source="api", workspace=caller.workspace)
            admitted = Admitted(caller, tasks, self._opened.tokens.access(caller))
        entry = _Entry(known, admitted, since)
        if self._looking.get(id) is asyncio.current_task():  # else it is to be looked up anew: this may tell of what was before
            self._known[id] = entry
            self._known.move_to_end(id)
            while len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
        return entry

    def forget(self, id: str) -> None:
        """Look a token up again before it is taken for anything: here it is known to have changed."""
        self._known.pop(id, None)
        self._looking.pop(id, None)

    @asynccontextmanager
    async def noting(self) -> AsyncIterator[None]:
        """Note meanwhile, off the path of any request, when tokens were last used, and what is left at the end."""
        if self._opened.tokens is None:
            yield
            return
        task = asyncio.create_task(self._note_again_and_again())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            for looking in list(self._looking.values()):
                with suppress(Exception):  # whoever asked was told
                    await looking
            await self._note(everything=True)

    async def _note_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(NOTED_SECONDS / 6)
            await self._note(everything=False)

    async def _note(self, *, everything: bool) -> None:
        assert self._opened.tokens is not None
        now = _now()
        due = {
            id: at for id, at in self._used.items() if everything or now - self._noted.get(id, -NOTED_SECONDS) >= NOTED_SECONDS
        }
        if not due:
            return
        try:
            await self._opened.tokens.used(due)
        except Exception as e:  # it is tried again, and nobody is to wait for it
            if self._notes:  # once for each time that it begins to fail
                if isinstance(e, TaskctlError):
                    _log.warning("when tokens were last used is not noted: %s", e.detail)
                else:
                    _log.exception("when tokens were last used is not noted")
            self._notes = False
            return
        self._notes = True
        for id, at in due.items():
            self._noted[id] = now
            if self._used.get(id) == at:
                del self._used[id]
        self._noted = {id: when for id, when in self._noted.items() if now - when < NOTED_SECONDS}


def _require(caller: Caller, needs: Needs) -> None:
    """Raise Forbidden if a caller lacks what a handler needs."""
    match needs:
        case "keeper":
            caller.require_keeper()
        case "tasks:read" | "tasks:write" | "admin":
            caller.require(needs)


def require_access(admitted: Admitted) -> AccessService:
    """Return the tokens and workspaces for a caller. Raises Forbidden where nobody is asked who they are."""
    if admitted.access is None:
        raise Forbidden("whoever asks here is not known, and makes no tokens; `taskctl serve --auth tokens` asks")
    return admitted.access


def _shown(request: web.Request) -> str:
    """Return the token that a request shows. Raises Unauthenticated if it shows none."""
    said = request.headers.getall("Authorization", ())
    if not said:
        raise Unauthenticated("this needs a token: Authorization: Bearer tc_...")
    scheme, _, token = said[0].strip().partition(" ")
    if len(said) > 1 or scheme.lower() != "bearer":
        raise Unauthenticated("one header was expected: Authorization: Bearer tc_...")
    return token.strip()


def _now() -> float:
    """Return the time by a clock that goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
