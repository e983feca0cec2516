"""`taskctl version`: which taskctl this is."""

import platform
import sqlite3

import typer

from taskctl import __version__
from taskctl.cli.call import Call, command
from taskctl.cli.output import FOR_PEOPLE, show_lines, show_object

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@command(app)
def version(call: Call) -> None:
    """Show which taskctl this is; with -v or as JSON, what it runs on, too."""
    if call.settings.output in FOR_PEOPLE and not call.verbose:
        show_lines([f"taskctl {__version__}"])
        return
    about = {"version": __version__, "python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    show_object(about, call.settings)
