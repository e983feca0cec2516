"""`taskctl token`: who may use a server."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import IO, Annotated, Any, Final, cast

import typer

from taskctl.access import AccessService, Minted, NewToken, Scope, Token, Tokens
from taskctl.cli.call import Call, command, noun
from taskctl.cli.output import FOR_PEOPLE, show, show_lines, show_records
from taskctl.errors import InvalidBody, NotFound, TaskctlError, UsageError

app = noun("Make and revoke the tokens that a server asks for. Where the database is at hand, no token is needed for that.")

_OPTIONS: Final = {"scopes": "--scope", "expires_at": "--expires", "workspace": "--workspace", "name": "NAME"}
_FIELD: Final = re.compile(f"^(?:{'|'.join(_OPTIONS)})(?= )")
_DISTANCE: Final = re.compile(r"([+-]\d{1,5})([hdwmy])")
_HOURS: Final = {"h": 1, "d": 24, "w": 7 * 24}
_LOCAL: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d)?")


@command(app)
def create(
    call: Call,
    name: Annotated[str, typer.Argument(help="What the log is to call whoever uses it.")],
    scope: Annotated[list[str], typer.Option(help="tasks:read, tasks:write or admin; may be repeated.")],
    expires: Annotated[
        str | None, typer.Option(help="2027-12-01 and tomorrow end with that day; 2027-12-01T15:00, +2h, +90d.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="A new file for it, which its owner alone may read.")] = None,
    if_missing: Annotated[bool, typer.Option("--if-missing", help="If the --file is there already, make no token.")] = False,
) -> None:
    """Make a token, and print it: this is the only time that it can be seen."""
    if call.settings.output == "ids" and file is None:
        raise UsageError("ids have no secret in them, and it could never be seen; -o table or -o json was expected, or --file")
    if if_missing and file is None:
        raise UsageError("--if-missing is about a --file, and none is named")
    try:
        new = NewToken(name=name, scopes=cast("list[Scope]", scope), workspace=call.loaded.workspace, expires_at=_expiry(expires))
    except InvalidBody as e:
        raise _in_options(e) from None
    if file is not None and if_missing and _is_written(file):
        call.say(f"{file} is there already; no token was made")
        return

    async def mint(access: AccessService) -> Minted:
        return await access.mint(new)

    with _new(file) if file is not None else nullcontext() as out:
        try:
            minted = call.access(mint)
        except InvalidBody as e:
            raise _in_options(e) from None
        if out is not None:
            try:
                out.write(minted.secret + "\n")
                out.close()
            except OSError as e:
                id = minted.token.id
                raise UsageError(f"{file} cannot be written: {e.strerror}; the token {id} is of no use, revoke it") from e
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


def _in_options(e: InvalidBody) -> TaskctlError:
    """Return what is wrong with a new token in the words of whoever has typed it."""
    return e.told("; ".join(_FIELD.sub(lambda found: _OPTIONS[found[0]], error.detail) for error in e.errors) or e.detail)


def _is_written(file: Path) -> bool:
    """Return whether there is a token in a file. Raises UsageError for one that was begun: nobody would ever finish it."""
    try:
        if file.is_file() and file.stat().st_size == 0:
            raise UsageError(f"{file} is there, and empty, as one that was left while a token was made; remove it")
    except OSError as e:
        raise UsageError(f"{file} cannot be read: {e.strerror}") from None
    return os.path.lexists(file)


@contextmanager
def _new(file: Path) -> Iterator[IO[str]]:
    """Make a file that only its owner may read; if what follows fails, it is gone again.

    It is there before the token is, because a token that cannot be written anywhere is of no use. Raises UsageError.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    except FileExistsError:
        raise UsageError(f"{file} is there already, and no token was made; with --if-missing that would be fine") from None
    except OSError as e:
        raise UsageError(f"{file} cannot be written: {e.strerror}; no token was made") from None
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as out:
            yield out
    except BaseException:
        file.unlink(missing_ok=True)
        raise


@command(app, "list")
def list_tokens(call: Call) -> None:
    """Show the tokens of a workspace, the newest first; those that are worth nothing any more, too."""

    async def ask(access: AccessService) -> Tokens:
        return await access.tokens(call.loaded.workspace)

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
                if isinstance(e, NotFound):
                    e = e.told(f"{e.detail}; `taskctl token list` shows the ids")
                if len(ids) == 1:
                    raise e from None
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
    """Return the instant that a text names, in the user's own zone; of a day that is its end."""
    if text is None:
        return None
    try:
        return _instant(text, datetime.now().astimezone()).astimezone(UTC)
    except OverflowError:
        raise UsageError(f"--expires: {text} leads out of the calendar") from None
    except ValueError as e:
        raise UsageError(f"--expires: {str(e).replace('(+3d', '(+2h, +3d')}") from None


def _instant(text: str, now: datetime) -> datetime:
    from taskctl.filters import when

    if found := _DISTANCE.fullmatch(text.lower()):
        if hours := _HOURS.get(found[2]):
            return now + timedelta(hours=hours * int(found[1]))
        return datetime.combine(when(text, now.date()), now.time()).astimezone()  # months have no one length
    if _LOCAL.fullmatch(text):
        return datetime.fromisoformat(text.upper()).astimezone()
    day = when(text, now.date())
    return day if isinstance(day, datetime) else datetime.combine(day + timedelta(days=1), time()).astimezone()
