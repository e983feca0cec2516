"""`taskctl project`: the projects in use."""

from taskctl.cli.call import Call, command, noun
from taskctl.cli.output import show
from taskctl.tasks import Tally

app = noun("The projects in use.")


@app.callback()
def group() -> None:
    """Make this a group, though it has one command."""


@command(app, "list")
def list_(call: Call) -> None:
    """List the projects, with their tasks counted by status."""
    show(call.tasks(lambda tasks: tasks.projects()).items, call.settings, kind=Tally)
