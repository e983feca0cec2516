"""`taskctl stats`: the workspace in numbers."""

import typer

from taskctl.cli.call import Call, command
from taskctl.cli.output import show_stats

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@command(app)
def stats(call: Call) -> None:
    """Show how many tasks there are of each status, how many are overdue, and what was done in the last 30 days."""
    from tzlocal import get_localzone_name

    zone = get_localzone_name() or "UTC"
    show_stats(call.tasks(lambda tasks: tasks.stats(zone=zone)), call.settings)
