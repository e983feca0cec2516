"""Tokens and workspaces in a database."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, cast

import msgspec

from taskctl.access import (
    HOME,
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
    hash_of,
    joined,
    me,
    new_secret,
    no_token,
    require_narrower,
    taken,
    workspace_name,
)
from taskctl.errors import NotFound, OutcomeUnknown
from taskctl.filters import micros
from taskctl.storage.driver import Connection, Doubtful, Driver, T, Work
from taskctl.storage.migrations import outdated
from taskctl.storage.rows import instant

_COLUMNS: Final = "id", "name", "scopes", "created_at", "created_by", "expires_at", "last_used_at", "revoked_at"
_TOKENS: Final = (
    f"SELECT workspaces.name, {', '.join(f'tokens.{name}' for name in _COLUMNS)}, hash "
    "FROM tokens JOIN workspaces ON workspaces.id = workspace_id"
)


class SqlTokens:
    """The tokens in a database, for whoever lets callers in."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def ready(self) -> None:
        """Raise SchemaOutdated if the database is older than tokens are."""
        [(revision,)] = await self._driver.fetch("SELECT version_num FROM alembic_version")
        if revision < "0005":
            raise outdated(revision)

    def access(self, caller: Caller) -> AccessService:
        return SqlAccess(self._driver, caller)

    async def find(self, id: str) -> Known | None:
        rows = await self._driver.fetch(f"{_TOKENS} WHERE (tokens.id = ?)", [id], fixed=True, name="token")
        return _known(rows[0]) if rows else None

    async def used(self, when: Mapping[str, datetime]) -> None:
        async def note(connection: Connection) -> None:
            for id, at in sorted(when.items()):  # in one order, so that two servers do not wait for each other
                await connection.run("UPDATE tokens SET last_used_at = ? WHERE id = ?", [micros(at), id])

        await _write(self._driver, note)


class SqlAccess(AccessService):
    """The tokens and workspaces of a database, for one caller."""

    def __init__(self, driver: Driver, caller: Caller) -> None:
        self._driver = driver
        self._caller = caller

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
            [(now,)] = await connection.fetch(f"SELECT {connection.dialect.now}", name="access")
            # An expired token is worth as little as a revoked one, and lets go of its name.
            await connection.run(
                "UPDATE tokens SET revoked_at = expires_at WHERE workspace_id = ? AND name = ? AND revoked_at IS NULL "
                "AND expires_at <= ?",
                [workspace, new.name, now],
            )
            sql = "SELECT 1 FROM tokens WHERE workspace_id = ? AND name = ? AND revoked_at IS NULL"
            if await connection.fetch(sql, [workspace, new.name], name="access"):
                raise taken("token in use called", new.name)
            token = Token(
                id=id,
                name=new.name,
                workspace=place,
                scopes=joined(new.scopes),
                created_at=instant(now),
                created_by=self._caller.name,
                expires_at=new.expiry,
                last_used_at=None,
                revoked_at=None,
            )
            expires = None if new.expiry is None else micros(new.expiry)
            row = id, workspace, new.name, hash_of(secret), " ".join(token.scopes), now, self._caller.name, expires
            columns = "id", "workspace_id", "name", "hash", "scopes", "created_at", "created_by", "expires_at"
            await connection.insert("tokens", columns, [row])
            return token

        return Minted(await _write(self._driver, write), secret)

    async def revoke(self, id: str) -> None:
        self._caller.require("admin")

        async def write(connection: Connection) -> None:
            sql = "SELECT workspaces.name FROM tokens JOIN workspaces ON workspaces.id = workspace_id WHERE (tokens.id = ?)"
            rows = await connection.fetch(sql, [id], name="access") if TOKEN_ID.fullmatch(id) else []
            if not rows or not (self._caller.is_keeper or rows[0][0] == self._caller.workspace):
                raise no_token(id)
            sql = f"UPDATE tokens SET revoked_at = {connection.dialect.now} WHERE id = ? AND revoked_at IS NULL"
            await connection.run(sql, [id])

        await _write(self._driver, write)

    async def workspaces(self) -> Workspaces:
        self._caller.require_keeper()
        rows = await self._driver.fetch("SELECT name FROM workspaces ORDER BY name", name="access")
        return Workspaces(tuple(Workspace(*row) for row in rows))

    async def add_workspace(self, name: str) -> Workspace:
        self._caller.require_keeper()
        name = workspace_name(name)

        async def write(connection: Connection) -> None:
            await connection.run(connection.dialect.lock, [HOME])  # so that no two are given the same number
            rows = await connection.fetch("SELECT id, name FROM workspaces", name="access")
            if name in (other for _, other in rows):
                raise taken("workspace", name)
            await connection.insert("workspaces", ("id", "name"), [(1 + max(number for number, _ in rows), name)])

        await _write(self._driver, write)
        return Workspace(name)


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
    workspace, id, name, scopes, created, by, *moments, hashed = row
    expires, last_used, revoked = (None if moment is None else instant(moment) for moment in moments)
    return Known(
        Token(
            id=id,
            name=name,
            workspace=workspace,
            scopes=msgspec.convert(scopes.split(), tuple[Scope, ...]),
            created_at=instant(created),
            created_by=by,
            expires_at=expires,
            last_used_at=last_used,
            revoked_at=revoked,
        ),
        hashed,
    )
