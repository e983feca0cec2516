"""Which token goes to which server: the one that was named for it, else the one that is stored for its origin.

The command line imports this for servers only, and the HTTP client with it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from taskctl.access import SCOPES, Login, id_of
from taskctl.config import Loaded, NamedToken, Settings, default_file
from taskctl.credentials import Credential, Credentials, origin_of, read_token, token_in
from taskctl.errors import ConfigError, Forbidden, TaskctlError, Unauthenticated
from taskctl.observe import Observer, ignore
from taskctl.remote import RemoteAccess, RemoteTasks, api_address, require_private


class Chosen(NamedTuple):
    """The token for a server, None if there is none; and those that were named and are not for it. named: not stored."""

    credential: Credential | None
    withheld: tuple[NamedToken, ...]
    named: bool = False


def choose(url: str, named: Sequence[NamedToken]) -> Chosen:
    """Return the token for a server. Raises ConfigError, Unavailable for one that is named or stored and cannot be had."""
    origin = _origin(url)
    withheld: list[NamedToken] = []
    for token in named:
        if token.server is None or _origin(token.server) == origin:
            secret = token_in(token.secret, token.where) if token.secret else read_token(token.file, token.where)
            return Chosen(Credential(secret, token.where), tuple(withheld), named=True)
        withheld.append(token)
    return Chosen(_stored().find(origin), tuple(withheld))


def named_by(settings: Settings, token: str) -> list[NamedToken]:
    """Return the tokens that a program has named."""
    if token:
        return [NamedToken(where="token", secret=token)]
    return [NamedToken(where="token_file", file=settings.token_file)] if settings.token_file else []


@asynccontextmanager
async def open_remote(
    url: str, settings: Settings, credential: Credential | None, observer: Observer = ignore
) -> AsyncIterator[RemoteTasks]:
    """Open a server's tasks with a token. Raises ConfigError for an address or a setting that cannot be used."""
    async with RemoteTasks.open(
        url,
        timeout=settings.server_timeout,
        token=credential.secret if credential is not None else "",
        token_from=credential.source if credential is not None else "",
        observer=observer,
        ca_file=settings.ca_file,
        allow_http=settings.allow_http,
    ) as remote:
        yield remote


def require_place(url: str, settings: Settings) -> str:
    """Return a server's address as it is shown. Raises ConfigError for one that is none, or that no token may be sent to."""
    require_private(api_address(url), allow_http=settings.allow_http)
    return _shown(url)


async def login(url: str, secret: str, settings: Settings, observer: Observer) -> Login:
    """Store a token for a server that knows it. Raises Unauthenticated if it does not, and what `RemoteTasks` does.

    For a server that asks for no token nothing is stored.
    """
    async with open_remote(url, settings, Credential(secret, "what was given"), observer) as remote:
        me = await RemoteAccess(remote).me()
    needed = me.token is not None
    return Login(
        server=_shown(url),
        token=me.token,
        name=me.name,
        workspace=me.workspace,
        scopes=me.scopes,
        expires_at=me.expires_at,
        source=await asyncio.to_thread(_stored().keep, _shown(url), secret) if needed else None,
        state="good" if needed else "not needed",
    )


def logout(url: str) -> bool:
    """Forget the token that is stored for a server, and return whether there was one. Raises ConfigError, Unavailable."""
    return _stored().drop(_origin(url))


async def status(loaded: Loaded, observer: Observer, *, everywhere: bool) -> list[Login]:
    """Return what the token for the server that is named is good for; everywhere: and after it every other one that is stored."""
    store, settings = _stored(), loaded.settings
    asked, shown = [], ""
    if loaded.remote:
        chosen = choose(loaded.remote, loaded.tokens)
        asked.append(_ask(loaded.remote, settings, chosen.credential, observer))
        shown = "" if chosen.named else _origin(loaded.remote)
    for origin, entry in store.entries().items() if everywhere else ():
        if origin == shown:
            continue
        try:
            asked.append(_ask(entry.url, settings, store.find(origin), observer))
        except TaskctlError as e:
            asked.append(_told(entry.url, e))
    return list(await asyncio.gather(*asked))


async def _told(url: str, failure: TaskctlError) -> Login:
    return Login(server=_shown(url), state="unavailable", detail=failure.detail)


async def _ask(url: str, settings: Settings, credential: Credential | None, observer: Observer) -> Login:
    """Return what a server says of a token, or of nobody."""
    known = Login(
        server=_shown(url),
        token=id_of(credential.secret) if credential is not None else None,
        source=credential.source if credential is not None else None,
        state="good",
    )
    try:
        if credential is not None:
            require_private(api_address(url), allow_http=settings.allow_http)
    except ConfigError as e:
        known.state, known.detail = "withheld", e.detail
        return known
    try:
        async with open_remote(url, settings, credential, observer) as remote:
            me = await RemoteAccess(remote).me()
    except Unauthenticated as e:
        known.state = "none" if credential is None else str(e.extra.get("reason", "refused"))
        known.detail = e.detail
    except TaskctlError as e:
        known.state, known.detail = "unavailable", e.detail
    else:
        known.state = "good" if me.token is not None else "not needed"
        known.name, known.workspace, known.scopes, known.expires_at = me.name, me.workspace, me.scopes, me.expires_at
    return known


def advised(failure: TaskctlError, loaded: Loaded) -> TaskctlError:
    """Return the failure of a server to let us in, with what helps."""
    said = [failure.detail]
    if isinstance(failure, Unauthenticated) and loaded.remote:
        chosen, place = choose(loaded.remote, loaded.tokens), _shown(loaded.remote)
        said += [f"{token.where} was not sent, it belongs to {_origin(token.server or '')}" for token in chosen.withheld]
        if chosen.credential is not None:
            said.append(f"the token is from {chosen.credential.source}")
        said.append(f"`taskctl auth login {place}` stores {'another' if chosen.credential is not None else 'a token'}")
        if chosen.credential is None:
            said.append("the first one is made where the database is, with `taskctl token create`")
    elif isinstance(failure, Forbidden) and failure.extra.get("scope") in SCOPES:
        said.append(f"an admin makes one that may with `taskctl token create NAME --scope {failure.extra['scope']}`")
    return failure.told("; ".join(said))


def _stored() -> Credentials:
    return Credentials(default_file().parent)


def _origin(url: str) -> str:
    return origin_of(api_address(url))


def _shown(url: str) -> str:
    return api_address(url).removesuffix("/api/v1")
