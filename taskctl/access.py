"""Who may do what: tokens, their scopes and workspaces; the rules as pure functions, and `AccessService`.

A token is `tc_<kind>_<id>_<secret>_<checksum>`: the id finds it, the secret (256 bits) proves it, and the checksum tells
a slip of the pen from a token without asking anybody, as scanners for secrets do. Only a hash of it is ever stored.
"""

import hashlib
import hmac
import re
import secrets
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias, cast, get_args
from urllib.parse import unquote

import msgspec

from taskctl.errors import Conflict, FieldError, Forbidden, InvalidBody, InvalidRequest, NotFound
from taskctl.fields import Refused, due

Scope: TypeAlias = Literal["tasks:read", "tasks:write", "admin"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
"""From the narrowest to the widest; each includes those before it."""
HOME: Final = "default"
"""The workspace that every database has. Its admins look after the others."""
KIND: Final = "api"
"""The kind of token that there is: for programs and people who use the API."""

_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID, _SECRET, _CHECKSUM = 12, 43, 6
TOKEN_ID: Final = re.compile(rf"[0-9A-Za-z]{{{_ID}}}")
_TOKEN: Final = re.compile(rf"tc_([a-z]+)_([0-9A-Za-z]{{{_ID}}})_[0-9A-Za-z]{{{_SECRET}}}_([0-9A-Za-z]{{{_CHECKSUM}}})")
# However often a client has percent-encoded it, and cut off as it may be.
_UNDERSCORE: Final = "(?:_|%(?:25)*5[Ff])"
_SECRETS: Final = re.compile(
    rf"(tc{_UNDERSCORE}[a-z]+{_UNDERSCORE}[0-9A-Za-z]{{{_ID}}}){_UNDERSCORE}[0-9A-Za-z]+(?:{_UNDERSCORE}[0-9A-Za-z]*)?"
)
# Rather too much than too little: nobody keeps people from writing a password with a slash in it into an address, or an @.
# JSON stays JSON: an escape of it is taken as a whole, and no match goes beyond a quote that may end a text of it, or begins
# behind one. Linear in the text, which may be a stranger's: what follows an opening cannot fail, and is not looked at twice.
_NO_END: Final = r'"(?=[^\s,:}\]])'
_PASSWORD: Final = re.compile(rf"""(://[^\s/?#@:"']*:)((?:[^\s"\\]+|\\.|{_NO_END})+)""")
_OPENING: Final = rf"""(?:'|\\"|{_NO_END})"""
_PARAMETER: Final = re.compile(
    rf"""(password(?:[ \t]*=[ \t]*{_OPENING}?|(?:'|\\?")[ \t]*[:=][ \t]*{_OPENING}))"""
    rf"""(?:(?<=')(?:[^'"\\\n]+|\\\\'|\\.|{_NO_END})*"""  # \\' is what JSON makes of \', which ends nothing
    r"""|(?<=\\")(?:[^"\\\n]+|\\\\\\"|\\[^"\n])*"""
    r"""|(?<=")(?:[^"\\\n]+|\\.)*"""
    r"""|(?<!['"])(?:[^\s&"'\\]+|\\.)+)""",
    re.IGNORECASE,
)
TOKEN_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@+-]{0,62}[A-Za-z0-9])?")
WORKSPACE_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_WORKSPACE_RULE: Final = "must be 1 to 64 of a-z 0-9 . _ -, and begin and end with a letter or a digit"


# ------------------------------------------------------------------------------------------------------------- the secret


def new_secret() -> tuple[str, str]:
    """Return the id of a new token, and the token itself: the only time that it is to be had."""
    id = "".join(secrets.choice(_DIGITS) for _ in range(_ID))
    bare = f"tc_{KIND}_{id}_{_base62(secrets.randbits(256), _SECRET)}"
    return id, f"{bare}_{_checksum(bare)}"


def id_of(token: str) -> str | None:
    """Return the id in a token, None if it cannot be one: it has another form, or a character is not what it was."""
    found = _TOKEN.fullmatch(token)
    return found[2] if found and found[3] == _checksum(token[: -_CHECKSUM - 1]) else None


def hash_of(token: str) -> str:
    """Return what is stored of a token. Its secret has 256 random bits, so a quick hash is as good as a slow one."""
    return hashlib.sha256(token.encode()).hexdigest()


def is_token(token: str, hashed: str) -> bool:
    """Return whether this is the token with that hash; it takes as long if it is not."""
    return hmac.compare_digest(hash_of(token), hashed)


def has_secret(address: str) -> bool:
    """Return whether the secret of a token is in the address of a request, however its characters are encoded."""
    return _SECRETS.search(address) is not None or _SECRETS.search(unquote(address)) is not None


def redacted(text: str) -> str:
    """Return a text, or JSON, with the secrets in it taken out.

    These are those of tokens (which they were can still be told), and passwords: in addresses, `scheme://user:password@host`, and
    behind a name that ends so, `password=...`, in quotes or not.
    """
    if "tc_" in text or "tc%" in text:
        text = _SECRETS.sub(r"\1_[secret]", text)
    if "://" in text:
        text = _PASSWORD.sub(_without_password, text)
    if "password" in text.lower():
        text = _PARAMETER.sub(r"\1[secret]", text)
    return text


PATH_MAX: Final = 200
"""Characters of an address that are told."""
ENCODED_MAX: Final = 8
"""How often an address may be encoded and still be told: it is decoded as often to see whether there is a secret in it."""


def told_path(raw: str) -> str:
    """Return the path of a request as it may be told: encoded, unless there is a secret in it that could be hidden so."""
    # First of all, because strangers choose how long it is. Twice as much, so that what is taken out of it leaves enough.
    told = raw[: 2 * PATH_MAX]
    plain = _decoded(told)
    if plain is None:
        return "…"
    # Where it was cut off, an @ may have followed that makes a password of what is before it.
    whole = plain if told == raw else f"{plain}@"
    if (safe := redacted(whole)) != whole:
        told = safe
    return told if len(raw) <= 2 * PATH_MAX and len(told) <= PATH_MAX else f"{told[: PATH_MAX - 1]}…"


def _decoded(path: str) -> str | None:
    """Return a path as it is when it has been decoded until nothing changes any more; None if that takes too long."""
    for _ in range(ENCODED_MAX + 1):
        if "%" not in path or (plain := unquote(path)) == path:
            return path
        path = plain
    return None


def _without_password(address: re.Match[str]) -> str:
    password, _, host = address[2].rpartition("@")
    return f"{address[1]}[secret]@{host}" if password else address[0]


def _checksum(bare: str) -> str:
    return _base62(zlib.crc32(bare.encode()), _CHECKSUM)


def _base62(number: int, width: int) -> str:
    digits = ""
    while number:
        number, rest = divmod(number, 62)
        digits = _DIGITS[rest] + digits
    return digits.rjust(width, "0")


# ------------------------------------------------------------------------------------------------------------- the callers


class Caller(NamedTuple):
    """Who asks for something: with which token ("" where none is needed), called what, in which workspace, allowed what."""

    token: str
    name: str | None
    workspace: str
    scopes: tuple[Scope, ...]
    expires_at: datetime | None = None

    def may(self, scope: Scope) -> bool:
        """Return whether a scope is included in those of the caller."""
        return any(SCOPES.index(own) >= SCOPES.index(scope) for own in self.scopes)

    def require(self, scope: Scope) -> None:
        """Raise Forbidden if a scope is not included in those of the caller."""
        if not self.may(scope):
            raise Forbidden(f"this needs the scope {scope}, and the token has {', '.join(self.scopes)}", scope=scope)

    def require_keeper(self) -> None:
        """Raise Forbidden if the caller does not look after all workspaces."""
        self.require("admin")
        if not self.is_keeper:
            raise Forbidden(f"only an admin of the workspace {HOME!r} may see and make workspaces")

    @property
    def is_keeper(self) -> bool:
        """Whether the caller looks after all workspaces."""
        return self.workspace == HOME and self.may("admin")

    def place(self, workspace: str | None) -> str:
        """Return which workspace is meant, the caller's own if none is named.

        Raises Forbidden for one that is not theirs, InvalidRequest for what is the name of none.
        """
        if workspace is not None and not WORKSPACE_NAME.fullmatch(workspace):
            raise InvalidRequest(f"workspace {_WORKSPACE_RULE}", parameter="workspace")
        if workspace is not None and workspace != self.workspace and not self.is_keeper:
            raise Forbidden(f"only an admin of the workspace {HOME!r} may name another one")
        return self.workspace if workspace is None else workspace


OWNER: Final = Caller("", None, HOME, ("admin",))
"""Whoever has the database itself in their hands."""


# --------------------------------------------------------------------------------------------------- tokens and workspaces


class NewToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token to be made.

    name: what the log will call whoever uses it; no two tokens in use have the same in one workspace. scopes: at least one.
    workspace: the maker's own if it is None. expires_at: from when on it is worth nothing, None for never; it may be written as
    a text, too (RFC 3339).

    Raises InvalidBody, which names every field at fault.
    """

    name: str
    scopes: Iterable[Scope]
    workspace: str | None = None
    expires_at: datetime | str | None = None

    def __post_init__(self) -> None:
        errors = []
        for field, read in _READ.items():
            try:
                msgspec.structs.force_setattr(self, field, read(getattr(self, field)))
            except Refused as e:
                errors.append(FieldError(f"/{field}{e.inner}", e.code, f"{field} {e.detail}"))
        if errors:
            raise InvalidBody("; ".join(e.detail for e in errors), errors=errors)

    @property
    def expiry(self) -> datetime | None:
        """When it expires."""
        return cast("datetime | None", self.expires_at)


def _name(value: object) -> str:
    if isinstance(value, str) and TOKEN_NAME.fullmatch(value):
        return value
    raise Refused("format", "must be 1 to 64 of A-Z a-z 0-9 . _ @ + -, and begin and end with a letter or a digit")


def _scopes(value: object) -> tuple[Scope, ...]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise Refused("type", "must be a list")
    given = tuple(value)
    if not given:
        raise Refused("empty", f"must name at least one of {', '.join(SCOPES)}")
    for index, scope in enumerate(given):
        if scope not in SCOPES:
            raise Refused("value", f"must be of {', '.join(SCOPES)}", f"/{index}")
    return joined(set(given))


def _place(value: object) -> str | None:
    if value is None or (isinstance(value, str) and WORKSPACE_NAME.fullmatch(value)):
        return value
    raise Refused("format", _WORKSPACE_RULE)


def _expiry(value: object) -> datetime | None:
    found = due(value)
    if found is None or isinstance(found, datetime):
        return found
    raise Refused("format", 'must be an instant such as "2026-12-01T15:00:00Z"')


_READ: Final[Mapping[str, Callable[[object], object]]] = {
    "name": _name,
    "scopes": _scopes,
    "workspace": _place,
    "expires_at": _expiry,
}


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a token.

    last_used_at is up to a minute behind. created_by, revoked_by: the name of the token with which that was done, or of the user
    who did it on the database. maker: the id of the token that made it, None for a user.
    """

    id: str
    name: str
    workspace: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    created_by: str | None
    maker: str | None
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None

    def fault(self, now: datetime) -> tuple[str, str] | None:
        """Return why it is worth nothing any more, for programs and for people; None if it is good."""
        if self.revoked_at is not None:
            return "revoked", "the token has been revoked"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired", f"the token expired at {self.expires_at:%Y-%m-%dT%H:%M:%SZ}"
        return None

    def caller(self) -> Caller:
        """Return who uses it."""
        return Caller(self.id, self.name, self.workspace, self.scopes, self.expires_at)


class Minted(msgspec.Struct, frozen=True):
    """A token that was made, and its secret, which is told this once."""

    token: Token
    secret: str

    def __repr__(self) -> str:
        return f"Minted({self.token!r})"


class Tokens(msgspec.Struct, frozen=True):
    """The tokens of a workspace, revoked and expired ones too, the newest first."""

    items: tuple[Token, ...]


class Workspace(msgspec.Struct, frozen=True):
    """A workspace: tasks, log and tokens of their own."""

    name: str


class Workspaces(msgspec.Struct, frozen=True):
    """The workspaces, by name."""

    items: tuple[Workspace, ...]


class Me(msgspec.Struct, frozen=True):
    """Who the caller is. token, name and expires_at are None on a server that needs no token."""

    token: str | None
    name: str | None
    workspace: str
    scopes: tuple[Scope, ...]
    expires_at: datetime | None


class Login(msgspec.Struct, kw_only=True):
    """What is known of our token for a server, and where it is from.

    state: `good`; `not needed` on a server that asks for none; `none` if it asks and there is none; `withheld` if it is not sent
    in the clear; `unavailable` if the server could not be asked; else why it is refused: `revoked`, `expired`, `unknown`. detail:
    the same in a sentence, unless it is fine.
    """

    server: str
    token: str | None = None
    name: str | None = None
    workspace: str | None = None
    scopes: tuple[Scope, ...] = ()
    expires_at: datetime | None = None
    source: str | None = None
    state: str
    detail: str | None = None


class Known(NamedTuple):
    """A token, and the hash of its secret."""

    token: Token
    hash: str


class TokenStore(Protocol):
    """Where tokens are, for whoever lets callers in."""

    async def ready(self) -> None:
        """Return if tokens can be looked up; raise Unavailable or SchemaOutdated, with the reason, if not."""

    async def find(self, id: str) -> Known | None:
        """Return the token with this id, whatever has become of it. Raises Unavailable, SchemaOutdated."""

    async def used(self, when: Mapping[str, datetime]) -> None:
        """Note when tokens, by their ids, were last used. Raises Unavailable."""

    def access(self, caller: Caller) -> "AccessService":
        """Return the tokens and workspaces for a caller."""


def expired() -> InvalidBody:
    """Return the failure to make a token that is worth nothing from the beginning."""
    said = "expires_at is past"
    return InvalidBody(said, errors=[FieldError("/expires_at", "past", said)])


def me(caller: Caller) -> Me:
    """Return what a caller is told about itself."""
    return Me(caller.token or None, caller.name, caller.workspace, caller.scopes, caller.expires_at)


def require_narrower(caller: Caller, new: NewToken) -> None:
    """Raise Forbidden if a token would outdo the caller who makes it: in scopes, or in time."""
    for scope in new.scopes:
        caller.require(scope)
    if caller.expires_at is not None and (new.expiry is None or new.expiry > caller.expires_at):
        raise Forbidden(f"a token cannot make one that outlives it; it expires at {caller.expires_at:%Y-%m-%dT%H:%M:%SZ}")


def workspace_name(name: object) -> str:
    """Return the name of a workspace. Raises InvalidBody for what cannot be one."""
    if isinstance(name, str) and WORKSPACE_NAME.fullmatch(name):
        return name
    said = f"name {_WORKSPACE_RULE}"
    raise InvalidBody(said, errors=[FieldError("/name", "format", said)])


def no_token(id: str) -> NotFound:
    """Return the failure to find a token."""
    return NotFound(f"there is no token {redacted(id)}")


def taken(what: str, name: str) -> Conflict:
    """Return the failure to give a name twice."""
    return Conflict(f"there is a {what} {name!r} already", name=name)


def joined(scopes: Iterable[Scope]) -> tuple[Scope, ...]:
    """Return scopes in their order."""
    return tuple(sorted(scopes, key=SCOPES.index))


class AccessService(ABC):
    """The tokens and workspaces of a place, for one caller."""

    @abstractmethod
    async def me(self) -> Me:
        """Return who the caller is."""

    @abstractmethod
    async def tokens(self, workspace: str | None = None) -> Tokens:
        """Return the tokens of a workspace, the caller's own if it is None. Raises Forbidden, NotFound."""

    @abstractmethod
    async def mint(self, new: NewToken) -> Minted:
        """Make a token. Raises Forbidden, Conflict (the name is in use), NotFound (no such workspace)."""

    @abstractmethod
    async def revoke(self, id: str) -> None:
        """Make a token worth nothing, within 2 seconds on every server. One that is revoked already stays so.

        What it has made stays good: `Token.maker` tells which that are. Raises Forbidden, NotFound.
        """

    @abstractmethod
    async def workspaces(self) -> Workspaces:
        """Return the workspaces. Raises Forbidden."""

    @abstractmethod
    async def add_workspace(self, name: str) -> Workspace:
        """Make a workspace. Raises Forbidden, Conflict (there is one), InvalidBody (what cannot be a name)."""
