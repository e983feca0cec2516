"""`taskctl db`: the database under the tasks."""

import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from taskctl import wiring
from taskctl.cli.call import Call, command, noun
from taskctl.cli.output import show_lines, show_object
from taskctl.errors import UsageError

app = noun("Look after the database, and fill it.")


@command(app)
def upgrade(call: Call) -> None:
    """Bring the schema to this version. It is safe to run at any time, and by several at once."""
    _local(call)
    before, after = wiring.upgrade(call.settings)
    if call.settings.output == "table":
        if not call.quiet:
            show_lines(
                [f"the schema is {after} already" if before == after else f"the schema was {before or 'empty'}, and is {after}"]
            )
    else:
        show_object({"before": before, "after": after}, call.settings)


@command(app)
def current(call: Call) -> None:
    """Show the revision of the schema, and the one that this version needs."""
    _local(call)
    found, needed = wiring.current(call.settings)
    show_object({"current": found, "needed": needed}, call.settings)


@command(app)
def check(call: Call) -> None:
    """Examine the database: its schema, its file, its log. The exit code is 1 if anything is wrong."""
    _local(call)
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
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from taskctl.seed import sample
    from taskctl.seed import seed as add

    samples = sample(count, seed, datetime.now(UTC).date())
    console = Console(stderr=True, no_color=not call.settings.color)
    shown = sys.stderr.isatty() and not call.quiet
    columns = (TextColumn("seeding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not shown, transient=True) as progress:
        bar = progress.add_task("seeding", total=count)
        added = call.tasks(lambda tasks: add(tasks, samples, lambda size: progress.advance(bar, size)), source="seed")
    if call.settings.output != "table":
        show_object({"added": added}, call.settings)
    elif not call.quiet:
        show_lines([f"added {added} tasks"])


def _local(call: Call) -> None:
    if call.loaded.remote:
        raise UsageError(f"this is done where the database is, not through the server {call.loaded.remote}")
