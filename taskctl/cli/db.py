"""`taskctl db`: the database under the tasks."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from taskctl import wiring
from taskctl.cli.call import Call, command, noun
from taskctl.cli.output import FOR_PEOPLE, show_lines, show_object

if TYPE_CHECKING:
    from taskctl.storage.backup import Counts

app = noun("Look after the database, and fill it.")

_AT_HOME = "this is done where the database is"


@command(app)
def upgrade(
    call: Call,
    sql: Annotated[bool, typer.Option("--sql", help="Print the statements instead, and change nothing.")] = False,
) -> None:
    """Bring the schema to this version. It is safe to run at any time, and by several at once."""
    call.require_database(_AT_HOME)
    if sql:
        print(wiring.upgrade_statements(call.settings), end="")
        return
    before, after = wiring.upgrade(call.settings)
    if call.settings.output in FOR_PEOPLE:
        if not call.quiet:
            show_lines(
                [f"the schema is {after} already" if before == after else f"the schema was {before or 'empty'}, and is {after}"]
            )
    else:
        show_object({"before": before, "after": after}, call.settings)


@command(app)
def current(call: Call) -> None:
    """Show the revision of the schema, and the one that this version needs."""
    call.require_database(_AT_HOME)
    found, needed = wiring.current(call.settings)
    shown = "none: the database is empty" if found is None and call.settings.output in FOR_PEOPLE else found
    show_object({"current": shown, "needed": needed}, call.settings)


@command(app)
def check(call: Call) -> None:
    """Examine the database: its schema, its file, its log. The exit code is 1 if anything is wrong."""
    call.require_database(_AT_HOME)
    found = wiring.check(call.settings)
    show_object(dict(found), call.settings)
    if any(what != "ok" for what in found.values()):
        raise typer.Exit(1)


@command(app)
def seed(
    call: Call,
    count: Annotated[int, typer.Option(min=1, help="How many tasks.")] = 1000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same tasks.")] = 1,
) -> None:
    """Add sample tasks, the same ones for the same count, seed and day."""
    from taskctl.seed import sample
    from taskctl.seed import seed as add

    samples = sample(count, seed, datetime.now(UTC).date())
    with _progress(call, "seeding") as progress:
        added = call.tasks(lambda tasks: add(tasks, samples, lambda size: progress(size, count)), source="seed")
    if call.settings.output not in FOR_PEOPLE:
        show_object({"added": added}, call.settings)
    elif not call.quiet:
        show_lines([f"added {_many(added, 'task')}"])


@command(app)
def backup(call: Call, file: Annotated[str, typer.Argument(help="A file that is not there yet; - is stdout.")]) -> None:
    """Write all that is in the database, at one moment, to a file that any database can be filled with."""
    call.require_database(_AT_HOME)
    with _progress(call, "backing up") as progress:
        counts = wiring.backup(call.settings, file, progress)
    if file == "-":
        call.say(_told("backed up", counts))
    else:
        _show(call, "backed up", counts)


@command(app)
def restore(
    call: Call,
    file: Annotated[str, typer.Argument(help="What `db backup` wrote; - is stdin.")],
    force: Annotated[bool, typer.Option("--force", help="Replace all that is in the database.")] = False,
) -> None:
    """Fill the database with what is in a backup. Readers of its log have to begin anew."""
    call.require_database(_AT_HOME)
    with _progress(call, "restoring") as progress:
        restored = wiring.restore(call.settings, file, progress, force=force)
    _show(call, "restored", restored.counts)
    if restored.tokens_removed:
        call.say(f"removed {_many(restored.tokens_removed, 'token')}, with the workspaces that the backup does not have")
    if restored.tokens_kept:
        call.say(f"kept {_many(restored.tokens_kept, 'token')} of the database")
    else:
        call.say("no tokens came along, a backup has none: where a server asks for them, `taskctl token create` makes new ones")


def _show(call: Call, done: str, counts: "Counts") -> None:
    if call.settings.output not in FOR_PEOPLE:
        show_object(counts._asdict(), call.settings)
    elif not call.quiet:
        show_lines([_told(done, counts)])


def _told(done: str, counts: "Counts") -> str:
    return (
        f"{done} {_many(counts.tasks, 'task')} with {_many(counts.entries, 'change')}, in {_many(counts.workspaces, 'workspace')}"
    )


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


@contextmanager
def _progress(call: Call, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar, on a terminal, and yield what moves it: told how many more are done, and how many there are in all."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, no_color=not call.settings.color)
    shown = sys.stderr.isatty() and not call.quiet
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not shown, transient=True) as progress:
        bar = progress.add_task(what, total=None)
        yield lambda size, total: progress.update(bar, advance=size, total=total)
