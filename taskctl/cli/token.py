"""`taskctl token`: who may use a server."""

import os
import sys
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from taskctl.access import AccessService, Minted, NewToken, Scope, Token, Tokens, id_of
from taskctl.cli.call import Call, command, noun
from taskctl.cli.output import FOR_PEOPLE, show, show_lines, show_records
from taskctl.errors import TaskctlError, UsageError

app = noun("Make and revoke the tokens that a server asks for. Where the database is at hand, no token is needed for that.")


@command(app)
def create(
    call: Call,
    name: Annotated[str, typer.Argument(help="What the log is to call whoever uses it.")],
    scope: Annotated[list[str], typer.Option(help="tasks:read, tasks:write or admin; may be repeated.")],
    expires: Annotated[str | None, typer.Option(help="A day, an instant or a distance, as 2027-12-01 or +90d.")] = None,
    file: Annotated[Path | None, typer.Option(help="A new file for it, for its owner alone; if there is one, make none.")] = None,
) -> None:
    """Make a token, and print it: this is the only time that it can be seen."""
    if call.settings.output == "ids" and file is None:
        raise UsageError("ids have no secret in them, and it could never be seen; -o table or -o json was expected, or --file")
    if file is not None and file.exists():
        call.say(f"{file} is there already; no token was made")
        return
    new = NewToken(name=name, scopes=cast("list[Scope]", scope), workspace=call.workspace, expires_at=_expiry(expires))

    async def mint(access: AccessService) -> Minted:
        return await access.mint(new)

    minted = call.access(mint)
    if file is not None:
        _write(file, minted.secret)
    if call.settings.output in FOR_PEOPLE:
        until = f" until {minted.token.expires_at:%Y-%m-%d %H:%M} UTC" if minted.token.expires_at else ""
        scopes = ", ".join(minted.token.scopes)
        call.say(f"created {name} ({minted.token.id}) in the workspace {minted.token.workspace}: {scopes}{until}")
        if file is None:
            if sys.stdout.isatty():
                call.say("keep it: it cannot be shown again")
            show_lines([minted.secret])
    elif call.settings.output == "ids":
        show([minted.token], call.settings)
    else:
        show_records([minted if file is None else {"token": minted.token}], call.settings, one=True)


def _write(file: Path, secret: str) -> None:
    """Write a secret into a new file that only its owner may read. Raises UsageError, which says what to do about the token."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with os.fdopen(descriptor, "w", encoding="ascii") as out:
            out.write(secret + "\n")
    except OSError as e:
        raise UsageError(f"{file} cannot be written: {e.strerror}; the token {id_of(secret)} is of no use, revoke it") from e


@command(app, "list")
def list_tokens(call: Call) -> None:
    """Show the tokens of a workspace, the newest first; those that are worth nothing any more, too."""

    async def ask(access: AccessService) -> Tokens:
        return await access.tokens(call.workspace)

    show(call.access(ask).items, call.settings, kind=Token)


@command(app)
def revoke(call: Call, ids: Annotated[list[str], typer.Argument(metavar="ID...", help="As `token list` shows them.")]) -> None:
    """Make tokens worth nothing, within 2 seconds on every server."""

    async def work(access: AccessService) -> list[Any]:
        done = []
        for id in dict.fromkeys(ids):
            try:
                await access.revoke(id)
            except TaskctlError as e:
                if len(ids) == 1:
                    raise
                call.problem(e)
            else:
                done.append(id)
        return done

    done = call.access(work)
    if call.settings.output not in FOR_PEOPLE:
        show_records([{"revoked": done}], call.settings, one=True)
    elif not call.quiet:
        show_lines([f"revoked {id}" for id in done])


def _expiry(text: str | None) -> datetime | None:
    """Return the instant that a text names; a day begins in the user's own zone."""
    if text is None:
        return None
    from taskctl.filters import when

    try:
        found = when(text, datetime.now().astimezone().date())
    except ValueError as e:
        raise UsageError(f"--expires: {e}") from None
    if not isinstance(found, datetime):
        found = datetime.combine(found, time()).astimezone()
    return found.astimezone(UTC)
