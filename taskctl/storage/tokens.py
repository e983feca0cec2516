"""Tokens and workspaces in a database."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, cast

from taskctl.access import (
    HOME,
    SCOPES,
    TOKEN_ID,
    AccessService,
    Caller,
    Known,
    Me,
    Minted,
    NewToken,
    Scope,
    Token,
    Tokens,
    Workspace,
    Workspaces,
    expired,
    hash_of,
    joined,
    me,
    new_secret,
    no_token,
    require_narrower,
    taken,
    workspace_name,
)
from taskctl.errors import NotFound, OutcomeUnknown, Unauthenticated
from taskctl.filters import micros
from taskctl.observe import Audited, Observer, ignore
from taskctl.storage.driver import Connection, Doubtful, Driver, T, Work
from taskctl.storage.migrations import outdated
from taskctl.storage.rows import instant

_MOMENTS: Final = "created_at", "expires_at", "last_used_at", "revoked_at"
_COLUMNS: Final = "id", "name", "created_by", "maker", "revoked_by"
_TOKENS: Final = (
    f"SELECT workspaces.name, hash, scopes, {', '.join(f'tokens.{name}' for name in (*_MOMENTS, *_COLUMNS))} "
    "FROM tokens JOIN workspaces ON workspaces.id = workspace_id"
)


class SqlTokens:
    """The tokens in a database, for whoever lets callers in."""

    def __init__(self, driver: Driver, observer: Observer = ignore) -> None:
        self._driver = driver
        self._observer = observer

    async def ready(self) -> None:
        [(revision,)] = await self._driver.fetch("SELECT version_num FROM alembic_version")
        if revision < "0005":
            raise outdated(revision)

    async def usable(self) -> bool:
        """Return whether there is a token that is worth something. Raises Unavailable."""
        now = self._driver.dialect.now
        sql = f"SELECT EXISTS (SELECT 1 FROM tokens WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > {now}))"
        [(found,)] = await self._driver.fetch(sql, name="access")
        return bool(found)

    def access(self, caller: Caller) -> AccessService:
        return SqlAccess(self._driver, caller, self._observer)

    async def find(self, id: str) -> Known | None:
        try:
            rows = await self._driver.fetch(f"{_TOKENS} WHERE (tokens.id = ?)", [id], fixed=True, name="token")
        except Exception:
            await self.ready()  # which tells of a schema that has no tokens yet
            raise
        return _known(rows[0]) if rows else None

    async def used(self, when: Mapping[str, datetime]) -> None:
        async def note(connection: Connection) -> None:
            for id, at in sorted(when.items()):  # in one order, so that two servers do not wait for each other
                # Another server may have noted a later use.
                sql = "UPDATE tokens SET last_used_at = ? WHERE id = ? AND (last_used_at IS NULL OR last_used_at < ?)"
                await connection.run(sql, [micros(at), id, micros(at)])

        await _write(self._driver, note)


class SqlAccess(AccessService):
    """The tokens and workspaces of a database, for one caller."""

    def __init__(self, driver: Driver, caller: Caller, observer: Observer) -> None:
        self._driver = driver
        self._caller = caller
        self._observer = observer

    async def me(self) -> Me:
        return me(self._caller)

    async def tokens(self, workspace: str | None = None) -> Tokens:
        self._caller.require("admin")
        place = self._caller.place(workspace)
        rows = await self._driver.fetch(
            f"{_TOKENS} WHERE (workspaces.name = ?) ORDER BY created_at DESC, tokens.id", [place], name="access"
        )
        if not rows:
            await self._driver.read(lambda connection: _workspace(connection, place))
        return Tokens(tuple(_known(row).token for row in rows))

    async def mint(self, new: NewToken) -> Minted:
        self._caller.require("admin")
        require_narrower(self._caller, new)
        place = self._caller.place(new.workspace)
        id, secret = new_secret()

        async def write(connection: Connection) -> Token:
            await connection.run(connection.dialect.lock, [place])
            workspace = await _workspace(connection, place)
            now = await self._require_good(connection)
            if new.expiry is not None and micros(new.expiry) <= now:
                raise expired()
            # An expired token is worth as little as a revoked one, and lets go of its name.
            await connection.run(
                "UPDATE tokens SET revoked_at = expires_at WHERE (workspace_id = ?) AND (name = ?) AND (revoked_at IS NULL) "
                "AND (expires_at <= ?)",
                [workspace, new.name, now],
            )
            sql = "SELECT 1 FROM tokens WHERE (workspace_id = ?) AND (name = ?) AND (revoked_at IS NULL)"
            if await connection.fetch(sql, [workspace, new.name], name="access"):
                raise taken("token in use called", new.name)
            token = Token(
                id=id,
                name=new.name,
                workspace=place,
                scopes=joined(new.scopes),
                created_at=instant(now),
                created_by=self._caller.name,
                maker=self._caller.token or None,
                expires_at=new.expiry,
                last_used_at=None,
                revoked_at=None,
                revoked_by=None,
            )
            expires = None if new.expiry is None else micros(new.expiry)
            row = id, workspace, new.name, hash_of(secret), " ".join(token.scopes), now, self._caller.name, token.maker, expires
            columns = "id", "workspace_id", "name", "hash", "scopes", "created_at", "created_by", "maker", "expires_at"
            await connection.insert("tokens", columns, [row])
            return token

        token = await self._write(write, Audited("created", id, place, self._caller.token))
        return Minted(token, secret)

    async def revoke(self, id: str) -> None:
        self._caller.require("admin")

        async def write(connection: Connection) -> str | None:
            now = await self._require_good(connection)
            if not TOKEN_ID.fullmatch(id):
                raise no_token(id)
            # Whoever else changes the row is waited for, a restore that puts another one in its place too; then it is looked at.
            await connection.run("UPDATE tokens SET id = id WHERE id = ?", [id])
            rows = await connection.fetch(f"{_TOKENS} WHERE (tokens.id = ?)", [id], name="access")
            token = _known(rows[0]).token if rows else None
            if token is None or not (self._caller.is_keeper or token.workspace == self._caller.workspace):
                raise no_token(id)
            if token.revoked_at is not None:
                return None
            await connection.run("UPDATE tokens SET revoked_at = ?, revoked_by = ? WHERE id = ?", [now, self._caller.name, id])
            return token.workspace

        await self._write(write, Audited("revoked", id, "", self._caller.token))

    async def workspaces(self) -> Workspaces:
        self._caller.require_keeper()
        rows = await self._driver.fetch("SELECT name FROM workspaces ORDER BY name", name="access")
        return Workspaces(tuple(Workspace(*row) for row in rows))

    async def add_workspace(self, name: str) -> Workspace:
        self._caller.require_keeper()
        name = workspace_name(name)

        async def write(connection: Connection) -> str:
            await self._require_good(connection)
            await connection.run(connection.dialect.lock, [HOME])  # so that no two are given the same number
            rows = await connection.fetch("SELECT id, name FROM workspaces", name="access")
            if name in (other for _, other in rows):
                raise taken("workspace", name)
            await connection.insert("workspaces", ("id", "name"), [(1 + max(number for number, _ in rows), name)])
            return name

        await self._write(write, Audited("workspace created", "", name, self._caller.token))
        return Workspace(name)

    async def _require_good(self, connection: Connection) -> int:
        """Return the time, if the caller's token is still good then: it was when the request began, which may be a while ago."""
        [(now,)] = await connection.fetch(f"SELECT {connection.dialect.now}", name="access")
        if self._caller.token:
            rows = await connection.fetch(f"{_TOKENS} WHERE (tokens.id = ?)", [self._caller.token], name="access")
            fault = _known(rows[0]).token.fault(instant(now)) if rows else ("unknown", "there is no such token any more")
            if fault:
                raise Unauthenticated(fault[1], reason=fault[0])
        return cast(int, now)

    async def _write(self, work: Work[T], told: Audited) -> T:
        """Run the work in a transaction, and tell what it has done; nothing if it returns None."""
        try:
            done = await _write(self._driver, work)
        except OutcomeUnknown:
            self._observer(told._replace(why="it is not known whether it happened"))
            raise
        if done is not None:
            self._observer(told._replace(workspace=told.workspace or str(done)))
        return done


async def _workspace(connection: Connection, name: str) -> int:
    """Return the number of a workspace. Raises NotFound."""
    rows = await connection.fetch("SELECT id FROM workspaces WHERE name = ?", [name], name="access")
    if not rows:
        raise NotFound(f"there is no workspace {name!r:.100}")
    return cast(int, rows[0][0])


async def _write(driver: Driver, work: Work[T]) -> T:
    try:
        return await driver.write(work)
    except Doubtful as e:
        raise OutcomeUnknown("the connection to the database broke during the commit: look whether it has happened") from e


def _known(row: Any) -> Known:
    workspace, hashed, scopes, *rest = row
    created, *moments = (None if moment is None else instant(moment) for moment in rest[: len(_MOMENTS)])
    id, name, created_by, maker, revoked_by = rest[len(_MOMENTS) :]
    expires, last_used, revoked = moments
    assert created is not None
    return Known(
        Token(
            id=id,
            name=name,
            workspace=workspace,
            # A newer server may know more of them; here they allow nothing.
            scopes=joined(cast("Scope", scope) for scope in scopes.split() if scope in SCOPES),
            created_at=created,
            created_by=created_by,
            maker=maker,
            expires_at=expires,
            last_used_at=last_used,
            revoked_at=revoked,
            revoked_by=revoked_by,
        ),
        hashed,
    )
