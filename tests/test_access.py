"""Tokens and workspaces: the same for whoever has the database, and for whoever has a server and a token."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, closing, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from taskctl import NewTask, Settings, TaskQuery, access, create_app, open_tasks, parse_filter
from taskctl.access import (
    OWNER,
    AccessService,
    Caller,
    Known,
    NewToken,
    Scope,
    TokenStore,
    hash_of,
    id_of,
    is_token,
    new_secret,
    redacted,
)
from taskctl.errors import Conflict, Forbidden, InvalidBody, NotFound, Unauthenticated, Unavailable
from taskctl.observe import Audited, Event, ignore
from taskctl.remote import RemoteAccess, RemoteTasks
from taskctl.server import admission
from taskctl.server.admission import Opened
from taskctl.server.app import make_app
from taskctl.server.requests import ADMISSION, OPENED
from taskctl.storage.sqlite import File
from taskctl.storage.threads import ThreadedSqlite
from taskctl.storage.tokens import SqlTokens
from tests.postgres import ask, database
from tests.support import Api, bearing, minted, problem_of


class Place(NamedTuple):
    """The store of a server, and what gives the tokens and workspaces for a caller: the same store, or the server."""

    url: str
    store: TokenStore
    access: Callable[[Caller, str], AbstractAsyncContextManager[AccessService]]


@asynccontextmanager
async def _place(settings: Settings, *, remote: bool) -> AsyncIterator[Place]:
    app = create_app(settings)
    async with TestClient[web.Request, web.Application](TestServer(app)) as api:
        store = app[OPENED].tokens
        assert store is not None

        @asynccontextmanager
        async def access(caller: Caller, secret: str) -> AsyncIterator[AccessService]:
            if not remote:
                yield store.access(caller)
                return
            async with RemoteTasks.open(str(api.make_url("/")), timeout=10, token=secret) as tasks:
                yield RemoteAccess(tasks)

        yield Place(settings.database_url, store, access)


@pytest.fixture(params=["sqlite", "postgres", "sqlite-remote", "postgres-remote"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    with database() if request.param.startswith("postgres") else nullcontext(f"sqlite:///{tmp_path}/tasks.db") as url:
        settings = Settings(database_url=url, auth="tokens")
        async with _place(settings, remote=request.param.endswith("remote")) as found:
            yield found


class Team:
    """Callers of a place, each with what they may use of it."""

    def __init__(self, place: Place, stack: AsyncExitStack) -> None:
        self._place = place
        self._stack = stack
        self._owner = place.store.access(OWNER._replace(name="ada"))
        self._number = 0

    async def one(self, *scopes: Scope, workspace: str = "default", expires_at: datetime | None = None) -> AccessService:
        self._number += 1
        new = NewToken(name=f"m{self._number}", scopes=scopes, workspace=workspace, expires_at=expires_at)
        minted = await self._owner.mint(new)
        return await self._stack.enter_async_context(self._place.access(minted.token.caller(), minted.secret))


@pytest.fixture
async def team(place: Place) -> AsyncIterator[Team]:
    async with AsyncExitStack() as stack:
        await place.store.access(OWNER).add_workspace("garden")
        yield Team(place, stack)


# ---------------------------------------------------------------------------------------------------------------- contract


async def test_a_token_is_told_once_and_then_known_by_its_id(team: Team, place: Place) -> None:
    admin = await team.one("admin")
    before = datetime.now(UTC)
    made = await admin.mint(NewToken(name="ci", scopes=["tasks:write", "tasks:read", "tasks:write"]))
    assert made.token.id == id_of(made.secret)
    assert made.token.scopes == ("tasks:read", "tasks:write")
    assert (made.token.workspace, made.token.created_by) == ("default", "m1")
    assert abs(made.token.created_at - before) < timedelta(minutes=1)
    assert made.token in (await admin.tokens()).items
    known = await place.store.find(made.token.id)
    assert known is not None
    assert is_token(made.secret, known.hash)
    assert made.secret not in repr(made)
    assert made.secret not in str(await admin.tokens())
    assert made.secret not in str(known)


async def test_a_name_is_free_again_once_its_token_is_worth_nothing(team: Team) -> None:
    admin = await team.one("admin")
    soon = datetime.now(UTC) + timedelta(seconds=1)
    for expires_at in (None, soon, None):
        made = await admin.mint(NewToken(name="ci", scopes=["tasks:read"], expires_at=expires_at))
        if expires_at is None:
            with pytest.raises(Conflict):
                await admin.mint(NewToken(name="ci", scopes=["tasks:read"]))
            await admin.revoke(made.token.id)
            await admin.revoke(made.token.id)
        else:
            await asyncio.sleep((soon - datetime.now(UTC)).total_seconds() + 0.01)
    named = [token for token in (await admin.tokens()).items if token.name == "ci"]
    assert [token.revoked_at is not None for token in named] == [True] * 3
    assert named[1].revoked_at == named[1].expires_at


async def test_a_token_makes_none_that_does_more_than_itself_or_outlives_it(team: Team) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    admin = await team.one("admin", expires_at=soon)
    await admin.mint(NewToken(name="a", scopes=["admin"], expires_at=soon))
    for later in (None, soon + timedelta(microseconds=1)):
        with pytest.raises(Forbidden):
            await admin.mint(NewToken(name="b", scopes=["tasks:read"], expires_at=later))
    for scope in ("tasks:read", "tasks:write"):
        other = await team.one(scope)
        for refused in (other.tokens(), other.mint(NewToken(name="c", scopes=["tasks:read"])), other.revoke("A" * 12)):
            with pytest.raises(Forbidden):
                await refused
    assert {token.name for token in (await admin.tokens()).items} == {"a", "m1", "m2", "m3"}


async def test_an_admin_has_a_workspace_of_their_own_and_those_of_default_have_all(team: Team) -> None:
    keeper, gardener = await team.one("admin"), await team.one("admin", workspace="garden")
    [own] = (await gardener.tokens()).items
    assert own in (await keeper.tokens("garden")).items
    [other] = (await keeper.tokens()).items
    assert (await gardener.tokens("garden")).items == (await gardener.tokens()).items
    for refused in (
        gardener.tokens("default"),
        gardener.tokens("nowhere"),
        gardener.mint(NewToken(name="x", scopes=["admin"], workspace="default")),
        gardener.workspaces(),
        gardener.add_workspace("meadow"),
    ):
        with pytest.raises(Forbidden):
            await refused
    with pytest.raises(NotFound):  # it might as well not be there
        await gardener.revoke(other.id)
    for missing in (
        keeper.tokens("nowhere"),
        keeper.mint(NewToken(name="x", scopes=["admin"], workspace="nowhere")),
        keeper.revoke("0" * 12),
    ):
        with pytest.raises(NotFound):
            await missing
    made = await keeper.mint(NewToken(name="m3", scopes=["tasks:read"], workspace="garden"))
    assert made.token.workspace == "garden"
    await keeper.revoke(made.token.id)
    assert [w.name for w in (await keeper.workspaces()).items] == ["default", "garden"]
    assert (await keeper.add_workspace("meadow")).name == "meadow"
    with pytest.raises(Conflict):
        await keeper.add_workspace("meadow")
    assert [w.name for w in (await keeper.workspaces()).items] == ["default", "garden", "meadow"]


async def test_workspaces_and_names_that_are_made_at_once_are_made_once(team: Team) -> None:
    keeper = await team.one("admin")
    work: list[Any] = [keeper.add_workspace(name) for name in ("a", "b", "c", "a", "b", "c")]
    work += [keeper.mint(NewToken(name=name, scopes=["tasks:read"])) for name in ("a", "b", "a", "b")]
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 5
    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception) and not isinstance(outcome, Conflict)]
    assert [w.name for w in (await keeper.workspaces()).items] == ["a", "b", "c", "default", "garden"]


async def test_a_caller_is_told_who_they_are(team: Team) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    me = await (await team.one("tasks:write", workspace="garden", expires_at=soon)).me()
    assert (me.name, me.workspace, me.scopes, me.expires_at) == ("m1", "garden", ("tasks:write",), soon)
    assert me.token is not None


# --------------------------------------------------------------------------------------------------------------- the secret


def test_secrets_differ_and_have_what_they_claim() -> None:
    made = {new_secret() for _ in range(1000)}
    assert len({id for id, _ in made}) == len({secret.split("_")[3] for _, secret in made}) == 1000
    for id, secret in made:
        assert id_of(secret) == id
        assert is_token(secret, hash_of(secret))
        assert secret not in hash_of(secret)


@given(st.integers(0, 69), st.characters(codec="utf-8"))
def test_a_slip_is_seen_without_asking_anybody(place: int, char: str) -> None:
    _, secret = new_secret()
    slipped = secret[:place] + char + secret[place + 1 :]
    assert (id_of(slipped) is None) == (slipped != secret)
    assert id_of(secret[:place]) is None


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_secret_is_taken_out_of_any_text(before: str, after: str) -> None:
    id, secret = new_secret()
    kept = secret.split("_")[3]
    shown = redacted(before + secret + after)
    assert kept not in shown
    assert id in shown
    assert kept[20:] not in redacted(before + secret[:40])


@pytest.mark.parametrize(
    ("fields", "pointers"),
    [
        ({"name": ""}, ["/name"]),
        ({"name": "a b"}, ["/name"]),
        ({"name": "x" * 65}, ["/name"]),
        ({"name": 7}, ["/name"]),
        ({"scopes": []}, ["/scopes"]),
        ({"scopes": "admin"}, ["/scopes"]),
        ({"scopes": ["tasks:read", "all"]}, ["/scopes/1"]),
        ({"scopes": None, "name": None}, ["/name", "/scopes"]),
        ({"workspace": "Upper"}, ["/workspace"]),
        ({"workspace": "a\n"}, ["/workspace"]),
        ({"expires_at": "2027-01-01"}, ["/expires_at"]),
        ({"expires_at": "2027-01-01T00:00:00"}, ["/expires_at"]),
        ({"expires_at": 5}, ["/expires_at"]),
    ],
)
def test_a_token_that_cannot_be_names_every_field_at_fault(fields: dict[str, Any], pointers: list[str]) -> None:
    with pytest.raises(InvalidBody) as raised:
        NewToken(**{"name": "ci", "scopes": ["tasks:read"], **fields})
    assert [error.pointer for error in raised.value.errors] == pointers


# ---------------------------------------------------------------------------------------------------------------- admission


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(admission, "_now", clock)
    return clock


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(database_url=f"sqlite:///{tmp_path}/tasks.db", auth="tokens")


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    async with TestClient[web.Request, web.Application](TestServer(create_app(settings))) as found:
        yield found


async def test_a_revocation_is_in_force_at_once_here_and_within_two_seconds_elsewhere(
    api: Api, settings: Settings, clock: Clock
) -> None:
    admin, token = await minted(api, "admin"), await minted(api, "tasks:read")
    async with TestClient[web.Request, web.Application](TestServer(create_app(settings))) as other:
        for server in (api, other):
            assert (await server.get("/api/v1/tasks", headers=bearing(token))).status == 200
        assert (await api.delete(f"/api/v1/tokens/{token.token.id}", headers=bearing(admin))).status == 204
        await problem_of(await api.get("/api/v1/tasks", headers=bearing(token)), 401, "unauthenticated")
        clock.now += admission.CHECKED_SECONDS
        problem = await problem_of(await other.get("/api/v1/tasks", headers=bearing(token)), 401, "unauthenticated")
        assert problem["reason"] == "revoked"


async def test_a_token_is_looked_up_again_in_passing_before_anybody_has_to_wait_for_it(api: Api, clock: Clock) -> None:
    token = await minted(api, "tasks:read")
    assert (await api.get("/api/v1/tasks", headers=bearing(token))).status == 200
    assert api.app is not None
    store = api.app[OPENED].tokens
    assert store is not None
    await store.access(OWNER).revoke(token.token.id)  # as another server would do it
    clock.now += admission.AGAIN_SECONDS
    assert (await api.get("/api/v1/tasks", headers=bearing(token))).status == 200
    await asyncio.gather(*api.app[ADMISSION]._looking.values())
    assert (await api.get("/api/v1/tasks", headers=bearing(token))).status == 401


class Flaky(SqlTokens):
    """The tokens of a database that may be away; it counts how often it was asked."""

    away = False
    asked = 0

    async def find(self, id: str) -> Known | None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("the database is away")
        return await super().find(id)


class Watched(NamedTuple):
    """A server, its tokens, and what it tells of them."""

    api: Api
    tokens: Flaky
    audited: list[Audited]


@pytest.fixture
async def watched(settings: Settings) -> AsyncIterator[Watched]:
    audited: list[Audited] = []
    file = File(Path(settings.database_url.removeprefix("sqlite:///")), synchronous="full", timeout=5.0, observer=ignore)
    driver = ThreadedSqlite(file)

    def observe(event: Event) -> None:
        if isinstance(event, Audited):
            audited.append(event)

    tokens = Flaky(driver, observe)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Opened]:
        async with open_tasks(settings=settings) as tasks:
            yield Opened(tasks, tokens=tokens)

    async with TestClient[web.Request, web.Application](TestServer(make_app(opened, observe))) as api:
        yield Watched(api, tokens, audited)
    await driver.close()


async def test_without_the_database_a_token_is_good_for_two_seconds_and_then_nobody_can_tell(
    watched: Watched, clock: Clock
) -> None:
    token = await minted(watched.api, "tasks:read")
    me = "/api/v1/me"
    assert (await watched.api.get(me, headers=bearing(token))).status == 200
    watched.tokens.away = True
    assert (await watched.api.get(me, headers=bearing(token))).status == 200
    clock.now += admission.CHECKED_SECONDS
    await problem_of(await watched.api.get(me, headers=bearing(token)), 503, "unavailable")
    await problem_of(await watched.api.get(me, headers=bearing(new_secret()[1])), 503, "unavailable")
    watched.tokens.away = False
    assert (await watched.api.get(me, headers=bearing(token))).status == 200


async def test_a_crowd_with_one_token_looks_it_up_once(watched: Watched) -> None:
    token = await minted(watched.api, "tasks:read")
    answers = await asyncio.gather(*(watched.api.get("/api/v1/me", headers=bearing(token)) for _ in range(50)))
    assert {answer.status for answer in answers} == {200}
    assert watched.tokens.asked == 1


async def test_what_happens_to_tokens_and_with_them_is_told(watched: Watched) -> None:
    admin = await minted(watched.api, "admin")
    by, slip, stranger = admin.token.id, admin.secret[:-1], new_secret()
    made = await (
        await watched.api.post("/api/v1/tokens", json={"name": "ci", "scopes": ["tasks:read"]}, headers=bearing(admin))
    ).json()
    id = made["token"]["id"]
    assert (await watched.api.get("/api/v1/me")).status == 401  # whoever shows nothing is nobody to be told of
    for shown in (slip, stranger[1], admin.secret[:20] + stranger[1][20:]):
        assert (await watched.api.get("/api/v1/me", headers=bearing(shown))).status == 401
    assert (await watched.api.delete(f"/api/v1/tokens/{id}", headers=bearing(admin))).status == 204
    assert (await watched.api.get("/api/v1/me", headers=bearing(made["secret"]))).status == 401
    assert [(event.action, event.token, event.by, event.why) for event in watched.audited] == [
        ("created", by, "", ""),
        ("created", id, by, ""),
        ("refused", "", "", "malformed"),
        ("refused", stranger[0], "", "unknown"),
        ("refused", "", "", "malformed"),
        ("revoked", id, by, ""),
        ("refused", id, "", "revoked"),
    ]
    assert {event.address for event in watched.audited if event.action == "refused"} == {"127.0.0.1"}
    assert {event.workspace for event in watched.audited if event.action != "refused"} == {"default"}
    assert (await watched.api.post("/api/v1/workspaces", json={"name": "garden"}, headers=bearing(admin))).status == 201
    assert watched.audited[-1] == Audited("workspace created", "", "garden", by)
    told = str(watched.audited)
    assert not [secret for secret in (slip, stranger[1], made["secret"]) if secret.split("_")[3] in told]


async def test_the_right_id_with_another_secret_is_as_unknown_as_any(watched: Watched) -> None:
    token, (_, other) = await minted(watched.api, "admin"), new_secret()
    bare = f"tc_api_{token.token.id}_{other.split('_')[3]}"
    forged = f"{bare}_{access._checksum(bare)}"
    assert id_of(forged) == token.token.id
    known = await problem_of(await watched.api.get("/api/v1/me", headers=bearing(forged)), 401, "unauthenticated")
    unknown = await problem_of(await watched.api.get("/api/v1/me", headers=bearing(other)), 401, "unauthenticated")
    assert {**known, "request_id": ""} == {**unknown, "request_id": ""}


@pytest.mark.parametrize("said", ["", "Bearer", "Bearer ", "Basic dTpw", "bearer {} {}", "{}", "Token {}", "Bearer  x{}"])
async def test_what_is_no_bearer_token_is_refused(watched: Watched, said: str) -> None:
    token = await minted(watched.api, "admin")
    answer = await watched.api.get("/api/v1/me", headers={"Authorization": said.replace("{}", token.secret)})
    await problem_of(answer, 401, "unauthenticated")
    both = [("Authorization", f"Bearer {token.secret}")] * 2
    assert (await watched.api.get("/api/v1/me", headers=both)).status == 401
    assert (await watched.api.get("/api/v1/me", headers={"Authorization": f"bEARER   {token.secret} "})).status == 200
    assert (await watched.api.get(f"/api/v1/me?token={token.secret}")).status == 401


async def test_when_a_token_was_last_used_is_noted_at_most_once_a_minute(watched: Watched, clock: Clock) -> None:
    token = await minted(watched.api, "tasks:read")
    assert watched.api.app is not None
    door, seen = watched.api.app[ADMISSION], list[datetime | None]()
    for seconds in (0, 0, admission.NOTED_SECONDS):
        clock.now += seconds
        assert (await watched.api.get("/api/v1/me", headers=bearing(token))).status == 200
        await door._note(everything=False)
        known = await watched.tokens.find(token.token.id)
        assert known is not None
        seen.append(known.token.last_used_at)
    assert seen[0] is not None
    assert seen[0] == seen[1] != seen[2]


async def test_what_is_left_to_be_noted_is_noted_at_the_end(settings: Settings) -> None:
    async with TestClient[web.Request, web.Application](TestServer(create_app(settings))) as api:
        token = await minted(api, "admin")
        assert (await api.get("/api/v1/me", headers=bearing(token))).status == 200
    async with TestClient[web.Request, web.Application](TestServer(create_app(settings))) as api:
        [shown] = (await (await api.get("/api/v1/tokens", headers=bearing(token))).json())["items"]
        assert shown["last_used_at"] is not None


# --------------------------------------------------------------------------------------------------------------- on the way


async def test_the_log_says_which_token_wrote_and_keys_are_its_own(api: Api) -> None:
    tokens = [await minted(api, "tasks:write") for _ in range(2)]
    for token in tokens:
        headers = {**bearing(token), "Idempotency-Key": "same"}
        for title in ("first", "first", "other"):
            answer = await api.post("/api/v1/tasks", json={"title": title}, headers=headers)
            assert answer.status == (201 if title == "first" else 422)
    items = (await (await api.get("/api/v1/changes", headers=bearing(tokens[0]))).json())["items"]
    assert [(change["actor"], change["source"]) for change in items] == [(token.token.name, "api") for token in tokens]


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_tokens_and_workspaces_take_no_idempotency_key(api: Api, method: str) -> None:
    admin = await minted(api, "admin")
    for path in ("tokens", "workspaces") if method == "POST" else (f"tokens/{admin.token.id}",):
        headers = {**bearing(admin), "Idempotency-Key": "x"}
        body = {"name": "x", "scopes": ["admin"]}
        answer = await api.request(method, f"/api/v1/{path}", json=body, headers=headers)
        await problem_of(answer, 400, "invalid_request")


async def test_a_secret_is_kept_by_nobody_on_the_way(api: Api) -> None:
    body = {"name": "ci", "scopes": ["tasks:read"]}
    answer = await api.post("/api/v1/tokens", json=body, headers=bearing(await minted(api, "admin")))
    assert answer.headers["Cache-Control"] == "no-store"


async def test_a_server_without_tokens_knows_nobody_and_makes_none(tmp_path: Path) -> None:
    app = create_app(Settings(database_url=f"sqlite:///{tmp_path}/tasks.db"))
    async with TestClient[web.Request, web.Application](TestServer(app)) as api:
        me = await (await api.get("/api/v1/me", headers=bearing("whatever"))).json()
        assert me == {"token": None, "name": None, "workspace": "default", "scopes": ["admin"], "expires_at": None}
        for method, path in (("GET", "tokens"), ("POST", "tokens"), ("GET", "workspaces"), ("DELETE", f"tokens/{'0' * 12}")):
            await problem_of(await api.request(method, f"/api/v1/{path}"), 403, "forbidden")


@pytest.mark.parametrize("filter", ["label:x or status:todo", "status:done or (label:x and milk)", "not label:x or not label:y"])
async def test_an_or_leads_out_of_no_workspace(place: Place, team: Team, filter: str) -> None:
    """The filter's OR once stood beside the workspace in the statement that counts."""
    query = TaskQuery(where=parse_filter(filter), count=True)
    async with AsyncExitStack() as stack:
        for workspace, titles in (("garden", ["mow"]), ("default", ["milk", "bread", "cheese"])):
            url, scoped = place.url, workspace
            tasks = await stack.enter_async_context(open_tasks(url, workspace=scoped))
            for title in titles:
                await tasks.add(NewTask(title=title))
        tasks = await stack.enter_async_context(open_tasks(place.url, workspace="garden"))
        page = await tasks.list(query)
    assert page.total == len(page.items) <= 1


async def test_whoever_guesses_is_soon_not_even_looked_at_and_good_tokens_behind_the_same_address_go_on(
    settings: Settings,
) -> None:
    limited = msgspec.structs.replace(settings, rate_limit_failures="3/minute", rate_limit_token="5/minute")
    async with TestClient[web.Request, web.Application](TestServer(create_app(limited))) as api:
        good, fresh = await minted(api, "tasks:read"), await minted(api, "tasks:read")
        answer = await api.get("/api/v1/me", headers=bearing(good))
        assert answer.headers["RateLimit-Policy"] == '"token";q=5;w=60'
        assert answer.headers["RateLimit"].startswith('"token";r=4;t=')
        for shown in (new_secret()[1], "tc_api_nonsense", new_secret()[1]):
            assert (await api.get("/api/v1/me", headers=bearing(shown))).status == 401
        for shown in (new_secret()[1], "tc_api_nonsense", fresh.secret):
            answer = await api.get("/api/v1/me", headers=bearing(shown))
            await problem_of(answer, 429, "too_many_requests")
            assert 0 < int(answer.headers["Retry-After"]) <= 60
        assert (await api.get("/api/v1/me")).status == 401  # nothing was shown, so nothing was guessed
        for left in (3, 2, 1, 0):
            answer = await api.get("/api/v1/tasks", headers=bearing(good))
            assert (answer.status, answer.headers["RateLimit"].split(";")[1]) == (200, f"r={left}")
        await problem_of(await api.get("/api/v1/tasks", headers=bearing(good)), 429, "too_many_requests")


async def test_a_request_whose_body_comes_late_is_held_to_what_its_token_is_worth_then(api: Api) -> None:
    for path, body in (("tokens", {"name": "backdoor", "scopes": ["admin"]}), ("tasks", {"title": "stolen"})):
        thief, begun, go_on = await minted(api, "admin"), asyncio.Event(), asyncio.Event()

        async def slowly(body: Any = body, begun: asyncio.Event = begun, go_on: asyncio.Event = go_on) -> AsyncIterator[bytes]:
            whole = msgspec.json.encode(body)
            yield whole[:-1]
            begun.set()
            await go_on.wait()
            yield whole[-1:]

        headers = {**bearing(thief), "Content-Type": "application/json"}
        sent = asyncio.create_task(api.post(f"/api/v1/{path}", data=slowly(), headers=headers))
        await begun.wait()
        assert (await api.get("/api/v1/me", headers=bearing(thief))).status == 200
        admin = await minted(api, "admin")
        assert (await api.delete(f"/api/v1/tokens/{thief.token.id}", headers=bearing(admin))).status == 204
        go_on.set()
        await problem_of(await sent, 401, "unauthenticated")
    assert await (await api.get("/api/v1/tasks", headers=bearing(admin))).json() == {"items": [], "next_cursor": None}
    made = (await (await api.get("/api/v1/tokens", headers=bearing(admin))).json())["items"]
    assert "backdoor" not in [token["name"] for token in made]


async def test_what_is_about_tokens_is_done_by_a_token_that_is_good_when_it_is_done(place: Place) -> None:
    """It may have been good when the request began."""
    owner = place.store.access(OWNER)
    token = (await owner.mint(NewToken(name="was", scopes=["admin"]))).token
    stale = place.store.access(token.caller())
    await owner.revoke(token.id)
    for attempt in (
        stale.mint(NewToken(name="x", scopes=["admin"])),
        stale.revoke(token.id),
        stale.add_workspace("meadow"),
    ):
        with pytest.raises(Unauthenticated):
            await attempt


async def test_many_guesses_at_once_are_no_more_than_one_after_the_other(watched: Watched, settings: Settings) -> None:
    limited = msgspec.structs.replace(settings, rate_limit_failures="10/minute")
    async with TestClient[web.Request, web.Application](TestServer(create_app(limited))) as api:
        guesses = (api.get("/api/v1/me", headers=bearing(new_secret()[1])) for _ in range(100))
        statuses = [answer.status for answer in await asyncio.gather(*guesses)]
        assert (statuses.count(401), statuses.count(429)) == (10, 90)


async def test_whoever_has_a_token_that_was_good_once_does_not_guess(settings: Settings) -> None:
    limited = msgspec.structs.replace(settings, rate_limit_failures="3/minute")
    async with TestClient[web.Request, web.Application](TestServer(create_app(limited))) as api:
        old = await minted(api, "tasks:read")
        assert api.app is not None
        store = api.app[OPENED].tokens
        assert store is not None
        await store.access(OWNER).revoke(old.token.id)
        for _ in range(20):
            assert (await api.get("/api/v1/me", headers=bearing(old))).status == 401
        assert (await api.get("/api/v1/me", headers=bearing(await minted(api, "tasks:read")))).status == 200


async def test_a_memory_between_them_keeps_the_answers_for_two_tokens_apart(api: Api) -> None:
    answer = await api.get("/api/v1/tasks", headers=bearing(await minted(api, "tasks:read")))
    assert {name.strip() for name in answer.headers["Vary"].split(",")} == {"Prefer", "Authorization"}
    reader = bearing(await minted(api, "tasks:read"))
    for path, headers, status in (("me", reader, 200), ("me", {}, 401), ("tokens", reader, 403), ("nothing", reader, 404)):
        answer = await api.get(f"/api/v1/{path}", headers=headers)
        assert (answer.status, answer.headers["Vary"]) == (status, "Authorization")
    assert "Vary" not in (await api.get("/livez", headers=reader)).headers


async def test_a_later_use_is_not_taken_back_by_an_earlier_one_of_another_server(place: Place) -> None:
    token = (await place.store.access(OWNER).mint(NewToken(name="t", scopes=["tasks:read"]))).token
    now = datetime.now(UTC)
    for at in (now, now - timedelta(seconds=59)):
        await place.store.used({token.id: at})
    known = await place.store.find(token.id)
    assert known is not None
    assert known.token.last_used_at == now


async def test_a_token_that_could_never_be_used_is_not_made(team: Team) -> None:
    admin = await team.one("admin")
    with pytest.raises(InvalidBody) as raised:
        await admin.mint(NewToken(name="t", scopes=["tasks:read"], expires_at="2020-01-01T00:00:00Z"))
    assert [error.pointer for error in raised.value.errors] == ["/expires_at"]


async def test_whoever_made_and_revoked_a_token_is_known(team: Team) -> None:
    admin = await team.one("admin")
    me = await admin.me()
    made = await admin.mint(NewToken(name="t", scopes=["tasks:read"]))
    await admin.revoke(made.token.id)
    [found] = [token for token in (await admin.tokens()).items if token.name == "t"]
    assert (found.created_by, found.maker, found.revoked_by) == (me.name, me.token, me.name)


@pytest.mark.parametrize("name", ["%00", "Upper", "a%20b", "-", "x" * 65])
async def test_what_can_be_no_workspace_is_refused(api: Api, name: str) -> None:
    answer = await api.get(f"/api/v1/tokens?workspace={name}", headers=bearing(await minted(api, "admin")))
    assert (await problem_of(answer, 400, "invalid_request"))["parameter"] == "workspace"


async def test_a_scope_of_a_newer_server_allows_nothing_and_breaks_nothing(watched: Watched) -> None:
    token = await minted(watched.api, "tasks:read")
    await watched.tokens._driver.write(_newer(token.token.id))
    assert (await watched.api.get("/api/v1/tasks", headers=bearing(token))).status == 403
    admin = await minted(watched.api, "admin")
    assert (await watched.api.get("/api/v1/tokens", headers=bearing(admin))).status == 200


def _newer(id: str) -> Any:
    async def write(connection: Any) -> None:
        await connection.run("UPDATE tokens SET scopes = 'tasks:dream' WHERE id = ?", [id])

    return write


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_on_a_schema_without_tokens_nobody_is_let_in_and_nothing_is_ready(kind: str, tmp_path: Path) -> None:
    with database() if kind == "postgres" else nullcontext(f"sqlite:///{tmp_path}/tasks.db") as url:
        async with open_tasks(url) as tasks:
            await tasks.stats()
        older = "ALTER TABLE tokens RENAME TO gone", "UPDATE alembic_version SET version_num = '0004'"
        newer = "ALTER TABLE gone RENAME TO tokens", "UPDATE alembic_version SET version_num = '0005'"
        _run(url, older)
        try:
            settings = Settings(database_url=url, auth="tokens", migrate="off")
            async with TestClient[web.Request, web.Application](TestServer(create_app(settings))) as api:
                await problem_of(await api.get("/readyz"), 503, "schema_outdated")
                answer = await api.get("/api/v1/me", headers=bearing(new_secret()[1]))
                await problem_of(answer, 503, "schema_outdated")
        finally:
            _run(url, newer)


def _run(url: str, statements: Sequence[str]) -> None:
    if url.startswith("postgresql"):
        ask(url, *statements)
        return
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as raw:
        for statement in statements:
            raw.execute(statement)
        raw.commit()
