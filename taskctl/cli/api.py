"""`taskctl api`: any request to a server, for what has no command of its own."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from taskctl import wiring
from taskctl.access import has_secret
from taskctl.cli.call import JSON, Call, command
from taskctl.cli.output import show_bytes, show_json, show_lines, show_text
from taskctl.cli.terminal import tell_json
from taskctl.config import TOKEN_WAYS
from taskctl.errors import UsageError, by_status

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_NO_TOKEN = f"no token belongs on a command line, where others see it: {TOKEN_WAYS}"


@command(app)
def api(
    call: Call,
    method: Annotated[str, typer.Argument(help="GET, POST, PUT, PATCH, DELETE or HEAD.")],
    path: Annotated[str, typer.Argument(help="Below /api/v1, as '/tasks?limit=5'; or beside it, as /readyz.")],
    data: Annotated[str | None, typer.Option("--data", "-d", help="The body; @FILE reads it from a file, - from stdin.")] = None,
    header: Annotated[list[str] | None, typer.Option("--header", "-H", help="A header, as 'If-Match: \"3\"'.")] = None,
    include: Annotated[bool, typer.Option("--include", "-i", help="Print the status and the headers, too.")] = False,
) -> None:
    """Send a request to a server, and print its answer as it comes."""
    from taskctl.wire import PROBLEM, error_of

    if has_secret(path):
        raise UsageError(_NO_TOKEN)
    headers = list(map(_header, header or []))
    body = _body(data)
    if body is not None and "content-type" not in {name.lower() for name, _ in headers}:
        headers.append(("Content-Type", "application/json"))
    answer = wiring.call_api(call.loaded, method.upper(), path, headers, body, call.observer)
    if include:
        show_lines([f"HTTP {answer.status}", *(f"{name}: {value}" for name, value in answer.headers.items()), ""])
    is_problem = answer.headers.get("Content-Type", "").startswith(PROBLEM)
    failure = None
    if is_problem:  # the answer to a HEAD has no words
        cls = by_status(answer.status)
        failure = (
            error_of(answer.body) if answer.body else cls(f"{cls.title}: the answer was {answer.status}, without more words")
        )
        failure.request_id = failure.request_id or answer.headers.get("X-Request-Id", "")
    if failure is not None and not include and (call.settings.output not in JSON or not answer.body):
        raise failure
    ends = b"" if not answer.body or answer.body.endswith(b"\n") else b"\n"
    if failure is not None and not include:
        if not call.quiet:
            tell_json(answer.body.rstrip())
    elif not sys.stdout.isatty():
        show_bytes(answer.body + ends)
    elif "json" in answer.headers.get("Content-Type", ""):
        show_json(answer.body + ends)
    else:
        show_text((answer.body + ends).decode("utf-8", "backslashreplace"))
    if answer.status >= 400:
        raise typer.Exit(failure.exit_code if failure is not None else 1)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or set("\r\n") & set(text):
        raise UsageError(f"{text!r} is not a header; NAME: VALUE was expected")
    if name.strip().lower() == "authorization" or has_secret(value):
        raise UsageError(_NO_TOKEN)
    return name.strip(), value.strip()


def _body(data: str | None) -> bytes | None:
    if data is None:
        return None
    if data == "-":
        return sys.stdin.buffer.read()
    if not data.startswith("@"):
        return data.encode("utf-8", "surrogateescape")
    try:
        return Path(data[1:]).read_bytes()
    except OSError as e:
        raise UsageError(f"{data[1:]} cannot be read: {e.strerror}") from None
