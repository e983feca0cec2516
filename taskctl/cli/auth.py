"""`taskctl auth`: which tokens the command line shows to which servers."""

import sys
import warnings
from getpass import GetPassWarning, getpass
from typing import Annotated

import typer

from taskctl.access import Login, id_of
from taskctl.cli.call import Call, command, noun, report
from taskctl.cli.output import show, show_lines
from taskctl.errors import Unauthenticated, Unavailable, UsageError

app = noun("Log in to servers that ask for a token.")
_Server = Annotated[str | None, typer.Argument(metavar="[SERVER]", help="https://HOST; else the one that --server names.")]
_MOST = 65536


@command(app)
def login(call: Call, place: _Server = None) -> None:
    """Ask for a token, or read it from stdin, and store it for a server."""
    import asyncio

    from taskctl import logins

    url = _placed(call, place, "login")
    secret = _secret(logins.require_place(url, call.settings))
    try:
        found = asyncio.run(logins.login(url, secret, call.settings, call.observer))
    except Unauthenticated as e:  # what helps other commands has just been tried
        report(e.told(f"{e.detail}; nothing was stored"))
        raise typer.Exit(e.exit_code) from None
    if found.source is None:
        call.say(f"{found.server} asks for no token; nothing was stored")
    elif call.settings.output == "table" and not call.quiet:
        until = f", until {found.expires_at:%Y-%m-%d %H:%M} UTC" if found.expires_at else ""
        who = f"{found.name} in the workspace {found.workspace}: {', '.join(found.scopes)}{until}"
        show_lines([f"logged in to {found.server} as {who}", f"the token {found.token} is in {found.source}"])
    for token in call.loaded.tokens:
        call.say(f"{token.where} is set, and goes before what is stored")
    if call.settings.output != "table":
        show([found], call.settings, one=True)


@command(app)
def logout(call: Call, place: _Server = None) -> None:
    """Forget the token for a server. It stays good until it is revoked."""
    from taskctl import logins

    url = _placed(call, place, "logout")
    if logins.logout(url):
        call.say("forgotten; it stays good until it is revoked (`taskctl token revoke`)")
    else:
        call.say("there is no token stored for it")


@command(app)
def status(call: Call, place: _Server = None) -> None:
    """Show each token that is stored or named, or the one for SERVER alone, and ask its server what it is good for."""
    import asyncio

    from taskctl import logins

    if place is not None:
        _placed(call, place, "status")
    everywhere = call.loaded.origins["server"] != "flag"
    found = asyncio.run(logins.status(call.loaded, call.observer, everywhere=everywhere))
    if not found:
        raise Unauthenticated("no token is stored, and no server is named; `taskctl auth login SERVER` stores one")
    show(found, call.settings)
    if call.settings.output == "table":
        for login in found:
            if login.detail is not None:
                call.say(f"{login.server}: {login.detail}")
    if any(not _fine(login) for login in found):
        raise typer.Exit(Unauthenticated.exit_code)
    if any(login.state == "unavailable" for login in found):
        raise typer.Exit(Unavailable.exit_code)


def _fine(login: Login) -> bool:
    return login.state in ("good", "not needed", "unavailable")


def _placed(call: Call, place: str | None, verb: str) -> str:
    """Return the address of the server that the call is about. verb: of the command, for who has named none."""
    if place is not None and call.loaded.origins["server"] == "flag":
        raise UsageError("a server is named twice, by --server and without; one place at a time")
    call.add_flags(server=place)
    if not call.loaded.remote:
        raise UsageError(f"which server? taskctl auth {verb} https://HOST, --server, or TASKCTL_SERVER")
    return call.loaded.remote


def _secret(server: str) -> str:
    """Return the token that the user types without being seen, or that stdin has."""
    if sys.stdin.isatty():
        with warnings.catch_warnings():
            warnings.simplefilter("error", GetPassWarning)
            try:
                text = getpass(f"Token for {server}: ")
            except GetPassWarning:
                raise UsageError("this terminal would show the token; pipe it in") from None
            except EOFError:
                text = ""
    else:
        text = sys.stdin.buffer.read(_MOST).decode("ascii", "replace")
    secret = text.strip()
    if id_of(secret) is None:
        said = "no token was given" if not secret else "this is no token: a character is wrong or missing"
        raise UsageError(f"{said}; tc_api_... was expected")
    return secret
