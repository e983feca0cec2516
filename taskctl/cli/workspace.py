"""`taskctl workspace`: separate sets of tasks in one database."""

from typing import Annotated

import typer

from taskctl.access import AccessService, Workspace, Workspaces
from taskctl.cli.call import Call, command, noun
from taskctl.cli.output import FOR_PEOPLE, show, show_lines

app = noun("Make and list workspaces: tasks, log and tokens of their own in one database.")


@command(app)
def create(call: Call, name: Annotated[str, typer.Argument(help="1 to 64 of a-z 0-9 . _ -")]) -> None:
    """Make a workspace."""

    async def add(access: AccessService) -> Workspace:
        return await access.add_workspace(name)

    made = call.access(add)
    if call.settings.output not in FOR_PEOPLE:
        show([made], call.settings, one=True)
    elif not call.quiet:
        show_lines([f"created the workspace {made.name}"])


@command(app, "list")
def list_workspaces(call: Call) -> None:
    """Show the workspaces."""

    async def ask(access: AccessService) -> Workspaces:
        return await access.workspaces()

    show(call.access(ask).items, call.settings, kind=Workspace)
