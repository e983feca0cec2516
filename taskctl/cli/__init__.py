"""The command line. One module per noun; each is imported when its noun is used, so that every command starts quickly."""

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.main import get_command

from taskctl import __version__
from taskctl.cli.call import Flags, LightGroup, fail, reader_gone, shared_options

_NOUNS: Mapping[str, str] = {
    noun: f"taskctl.cli.{noun}"
    for noun in (
        "task",
        "project",
        "label",
        "stats",
        "serve",
        "db",
        "api",
        "cache",
        "auth",
        "token",
        "workspace",
        "metrics",
        "version",
    )
}


class _Nouns(LightGroup):
    """The group of all nouns; looking one up imports it."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: dict[str, Any] = dict.fromkeys(_NOUNS)  # the names alone serve for suggestions

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002  # the signature of the class above
        if self.commands.get(cmd_name) is None and cmd_name in _NOUNS:
            self.commands[cmd_name] = get_command(import_module(_NOUNS[cmd_name]).app)
        return self.commands.get(cmd_name)


app = typer.Typer(cls=_Nouns, no_args_is_help=True, rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"taskctl {__version__}")
        raise typer.Exit


_Version = Annotated[bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show which taskctl this is.")]


@app.callback()
@shared_options
def root(context: typer.Context, flags: Flags, version: _Version = False) -> None:  # noqa: ARG001
    """Tasks on the command line, on a server, and in between.

    `taskctl task add Buy milk` writes into a file of your own, which is made when it is first needed; with --server, or
    TASKCTL_SERVER set, the same commands work on a server's tasks.
    """
    context.obj = flags


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    try:
        code = app(standalone_mode=False, prog_name="taskctl")
        sys.stdout.flush()
    except BrokenPipeError:
        code = reader_gone()
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as e:
        code = fail(e)
    sys.exit(code if isinstance(code, int) else 0)
