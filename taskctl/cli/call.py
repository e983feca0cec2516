"""One call of the command line: the options that every command has, the settings they lead to, and how it fails."""

import functools
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TextIO, TypeAlias, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from taskctl import config, wiring
from taskctl.access import AccessService
from taskctl.cli.terminal import tell, tell_json, tell_lines
from taskctl.errors import ConfigError, Forbidden, TaskctlError, Unauthenticated, UsageError
from taskctl.observe import Event, Exchanged, Observer, StatementDone, ignore
from taskctl.tasks import Source, TaskService

T = TypeVar("T")
Flags: TypeAlias = Mapping[str, Any]

PARTLY = 8
"""The exit code of a command that worked for some of what it was given, and not for all."""


def _json_wanted(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Return whether the output is to be JSON, as far as can be told of a command line that is not understood."""
    line = " ".join(arguments).replace("=", " ")
    return bool(re.search(r"(^| )(-o ?|--output )(nd)?json( |$)", line)) or environment.get("TASKCTL_OUTPUT") in JSON


JSON = ("json", "ndjson")
_shown_as_json = _json_wanted(sys.argv[1:], os.environ)


def _shared(  # a signature only: what stands in it stands behind every command
    server: Annotated[
        str | None, typer.Option(help="Work on the tasks of this server, http://HOST:PORT or https://HOST.")
    ] = None,
    token_file: Annotated[str | None, typer.Option(help="The file with the token for that server.")] = None,
    ca_file: Annotated[str | None, typer.Option(help="The CAs that may vouch for that server, in PEM.")] = None,
    allow_http: Annotated[bool | None, typer.Option(help="Send the token to another machine in the clear.")] = None,
    database_url: Annotated[str | None, typer.Option(help="Work on this database, sqlite:///PATH or postgresql://…")] = None,
    database_password_file: Annotated[str | None, typer.Option(help="The file with the password of the database.")] = None,
    workspace: Annotated[str | None, typer.Option(help="Which of the database's workspaces.")] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="table, wide, json, ndjson, yaml, csv or ids.")] = None,
    color: Annotated[bool | None, typer.Option("--color/--no-color", help="Colours, on a terminal.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but data and problems.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell on stderr what is done.")] = False,
    sqlite_synchronous: Annotated[str | None, typer.Option(help="full (safe at a power cut) or normal.")] = None,
    database_timeout: Annotated[str | None, typer.Option(help="Seconds to wait for the database.")] = None,
    server_timeout: Annotated[str | None, typer.Option(help="Seconds to wait for a server's answer.")] = None,
) -> None: ...


_SHARED = inspect.signature(_shared).parameters


def shared_options(function: Callable[..., T]) -> Callable[..., T]:
    """Give a function of a `typer.Context` and `Flags` the shared options, and hand it those that were given."""
    [context, _, *own] = inspect.signature(function, eval_str=True).parameters.values()

    @functools.wraps(function)
    def wrapper(**values: Any) -> T:
        flags = {name: values.pop(name) for name in _SHARED}
        # `--no-color` is a False that was given; --quiet and --verbose are False when they are not.
        given = {n: v for n, v in flags.items() if v is not None and (v is not False or n not in ("quiet", "verbose"))}
        return function(values.pop(context.name), given, **values)

    parameters = [context, *own, *_SHARED.values()]
    wrapper.__signature__ = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in parameters])  # type: ignore[attr-defined]
    return wrapper


class Call:
    """What a command works with: its settings, its output, and the tasks."""

    def __init__(self, flags: Flags) -> None:
        self.quiet: bool = flags.get("quiet", False)
        self.verbose: bool = flags.get("verbose", False)
        self.failed = False
        self._flags = {n: v for n, v in flags.items() if n not in ("quiet", "verbose")}
        self.loaded = config.load(self._flags)

    @property
    def settings(self) -> config.Settings:
        """What is set, by flags and otherwise."""
        return self.loaded.settings

    def tasks(self, command: Callable[[TaskService], Coroutine[Any, Any, T]], source: Source = "cli") -> T:
        """Run the command on the tasks that the settings name."""
        return wiring.run_command(command, self.loaded, actor=_user(), source=source, observer=self.observer)

    def access(self, command: Callable[[AccessService], Coroutine[Any, Any, T]]) -> T:
        """Run the command on the tokens and workspaces of the place that the settings name."""
        return wiring.run_access(command, self.loaded, actor=_user(), observer=self.observer)

    def add_flags(self, **flags: object) -> None:
        """Take in the flags that only this command has; None is one that was not given."""
        self._flags |= {name: value for name, value in flags.items() if value is not None}
        self.loaded = config.load(self._flags)

    @property
    def observer(self) -> Observer:
        """Who is told what happens meanwhile."""
        return _tell if self.verbose else ignore

    def require_database(self, why: str) -> None:
        """Raise UsageError if a server is named. why: what needs a database."""
        if self.loaded.remote:
            remedy = "leave it out" if self.loaded.origins["server"] == "flag" else "unset it, or add --database-url"
            raise UsageError(f"{self.loaded.where('server')} names the server {self.loaded.remote}, and {why}; {remedy}")

    def say(self, message: str) -> None:
        """Tell somebody who looks on; not data, so it goes to stderr."""
        if not self.quiet:
            tell(message)

    def problem(self, failure: TaskctlError) -> None:
        """Report the failure of one of several; the command goes on, and ends with the code that says so."""
        self.failed = True
        report(failure)


class Light:
    """A command or group that lets texts, and what was not given, through as they are; whole numbers without bounds, too.

    typer asks pydantic about every parameter, given or not, and importing that takes longer than all the rest of a command
    (docs/decisions/0005). The rest goes the usual way.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]  # of the class that this is mixed into
        for param in params:
            if "get_runtime_param" not in vars(param):
                lighter = _AsItIs(param.type_descriptor.annotation, param.get_runtime_param)
                param.get_runtime_param = lambda lighter=lighter: lighter
        return params


class LightGroup(Light, TyperGroup):
    """A group of commands."""


class LightCommand(Light, TyperCommand):
    """A command."""


def noun(help: str) -> typer.Typer:
    """Return the group of a noun's commands."""
    return typer.Typer(cls=LightGroup, no_args_is_help=True, rich_markup_mode=None, add_completion=False, help=help)


class _AsItIs(NamedTuple):
    annotation: Any
    usual: Callable[[], Any]

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if self.annotation in (str, list[str]) or not isinstance(value, str):
            return value
        if self.annotation is int and param.type_descriptor.parameter_info.min is None and re.fullmatch("[0-9]{1,18}", value):
            return int(value)
        return self.usual().coerce(value, param=param, ctx=ctx)


def command(app: typer.Typer, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command. Its first parameter is the `Call`; the others are its arguments and options."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        [_, *own] = inspect.signature(function, eval_str=True).parameters.values()

        def run(context: typer.Context, flags: Flags, **values: Any) -> int:
            global _shown_as_json
            call = Call({**(context.find_root().obj or {}), **flags})
            _shown_as_json = call.settings.output in JSON
            try:
                function(call, **values)
            except (Unauthenticated, Forbidden) as e:
                if not call.loaded.remote:
                    raise
                from taskctl.logins import advised

                raise advised(e, call.loaded) from None
            except BrokenPipeError:  # typer would make it a 1
                return reader_gone()
            except ConfigError as e:
                raise call.loaded.placed(e) from None
            return PARTLY if call.failed else 0

        run.__name__, run.__doc__ = function.__name__, function.__doc__
        context, flags = list(inspect.signature(run).parameters.values())[:2]
        run.__signature__ = inspect.Signature([context, flags, *[p.replace(kind=p.KEYWORD_ONLY) for p in own]])  # type: ignore[attr-defined]
        app.command(name, cls=LightCommand)(shared_options(run))
        return function

    return register


def _user() -> str | None:
    """Return the name of who runs the command, None where the system has none for them."""
    from getpass import getuser

    try:
        return getuser()
    except (KeyError, OSError):
        return None


def _tell(event: Event) -> None:
    match event:
        case StatementDone(sql, rows, seconds, _, failed):
            tell(f"{seconds * 1000:8.2f} ms {'     failed' if failed else f'{rows:6} rows'}  {sql}")
        case Exchanged(method, url, status, seconds, request_id, token_from):
            token = f"token from {token_from}" if token_from else "no token"
            tell(f"{seconds * 1000:8.2f} ms  {method} {url}  {status or 'no answer'}  request {request_id or '-'}, {token}")


def report(failure: TaskctlError) -> None:
    """Write a failure to stderr: a line, or a problem document where the output is JSON."""
    if _shown_as_json:
        from taskctl.wire import encode, problem

        more = {"request_id": failure.request_id} if failure.request_id else {}
        tell_json(encode(problem(failure, **more)))
    else:
        tell(f"taskctl: {failure.detail}")


def let_go(stream: TextIO) -> None:
    """Let what is written to a stream go nowhere, now that its reader has gone, as `head` does."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def reader_gone() -> int:
    """Let go of stdout, and return the exit code of a program that SIGPIPE ended."""
    let_go(sys.stdout)
    return 141


def fail(e: Exception) -> int:
    """Report what ended the command, and return its exit code."""
    if isinstance(e, TaskctlError):
        report(e)
        return e.exit_code
    if isinstance(e, typer.TyperException):
        return _misused(e)
    tell_lines("".join(traceback.format_exception(e)).rstrip())
    return TaskctlError.exit_code


def _misused(e: Any) -> int:
    """Report a command line that cannot be understood."""
    context = getattr(e, "ctx", None)
    if type(e).__name__ == "NoArgsIsHelpError":  # its message is the help
        tell_lines(e.format_message())
        return UsageError.exit_code
    if getattr(e, "option_name", None) == "--token":
        report(UsageError(f"there is no --token, because others see what stands on a command line: {config.TOKEN_WAYS}"))
        return UsageError.exit_code
    hint = f" (see {context.command_path} --help)" if context is not None else ""
    report(UsageError(e.format_message() + hint))
    return UsageError.exit_code
