"""`taskctl serve`: the API."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from taskctl import wiring
from taskctl.cli.call import Call, command
from taskctl.errors import TaskctlError

if TYPE_CHECKING:
    import asyncio

    from taskctl.logs import Logs

GARBAGE = 20_000
"""After so many new objects the collector looks for circles among them; Python's own number is 700."""

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@command(app)
def serve(
    call: Call,
    host: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
    port: Annotated[str | None, typer.Option(help="The port to listen on; 0 takes a free one.")] = None,
    migrate: Annotated[str | None, typer.Option(help="auto upgrades the schema, check refuses an old one, off waits.")] = None,
    database_connections: Annotated[str | None, typer.Option(help="Connections to PostgreSQL, at most.")] = None,
    drain_seconds: Annotated[str | None, typer.Option(help="After SIGTERM, seconds to go on accepting.")] = None,
    auth: Annotated[str | None, typer.Option(help="tokens lets in whoever has one, none lets in everybody.")] = None,
    allow_anonymous: Annotated[bool | None, typer.Option(help="Serve everybody on any address, without tokens.")] = None,
    allowed_hosts: Annotated[str | None, typer.Option(help="More names that the server goes by, with commas.")] = None,
    cors_origins: Annotated[str | None, typer.Option(help="Origins whose pages may use the API, with commas.")] = None,
    tls_cert: Annotated[str | None, typer.Option(help="The file with the certificate and its chain.")] = None,
    tls_key: Annotated[str | None, typer.Option(help="The file with its key.")] = None,
    trusted_proxies: Annotated[str | None, typer.Option(help="Proxies whose X-Forwarded-For is believed, with commas.")] = None,
    rate_limit_token: Annotated[str | None, typer.Option(help="Requests of one token, as 6000/minute; or off.")] = None,
    rate_limit_address: Annotated[str | None, typer.Option(help="Requests of one address; or off.")] = None,
    rate_limit_failures: Annotated[str | None, typer.Option(help="Worthless tokens of one address; or off.")] = None,
    cache_bytes: Annotated[str | None, typer.Option(help="Memory for answers, in bytes; 0 keeps none.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="A Redis that several servers share as a second cache.")] = None,
    redis_password_file: Annotated[str | None, typer.Option(help="The file with its password.")] = None,
    redis_tasks: Annotated[bool | None, typer.Option(help="Keep single tasks in it, too, not only lists.")] = None,
    log_format: Annotated[str | None, typer.Option(help="console or json.")] = None,
    log_level: Annotated[str | None, typer.Option(help="The least that is told: debug, info, warning or error.")] = None,
    metrics: Annotated[bool | None, typer.Option(help="Tell Prometheus at /metrics what happens.")] = None,
    metrics_address: Annotated[str | None, typer.Option(help="HOST:PORT for /metrics alone.")] = None,
    tracing: Annotated[bool | None, typer.Option(help="Send traces by OpenTelemetry; needs taskctl[otel].")] = None,
) -> None:
    """Serve the API, on 127.0.0.1:8080 and the same database as the commands, until SIGTERM or ctrl-C."""
    call.add_flags(
        host=host,
        port=port,
        drain_seconds=drain_seconds,
        migrate=migrate,
        database_connections=database_connections,
        auth=auth,
        allow_anonymous=allow_anonymous,
        allowed_hosts=allowed_hosts,
        cors_origins=cors_origins,
        tls_cert=tls_cert,
        tls_key=tls_key,
        trusted_proxies=trusted_proxies,
        rate_limit_token=rate_limit_token,
        rate_limit_address=rate_limit_address,
        rate_limit_failures=rate_limit_failures,
        cache_bytes=cache_bytes,
        redis_url=redis_url,
        redis_password_file=redis_password_file,
        redis_tasks=redis_tasks,
        log_format=log_format,
        log_level=log_level,
        metrics=metrics,
        metrics_address=metrics_address,
        tracing=tracing,
    )
    call.require_database("`serve` needs a database")

    logs = _logs(call)
    try:
        _serve(call, logs)
    except Exception as e:
        # For people it is told as any command's failure is.
        if call.settings.log_format == "console" or isinstance(e, typer.Exit):
            raise
        logs.failed(e)
        raise typer.Exit(e.exit_code if isinstance(e, TaskctlError) else TaskctlError.exit_code) from None


def _logs(call: Call) -> Logs:
    from taskctl.logs import Logs

    level = call.settings.log_level
    if call.quiet and level in ("debug", "info"):
        level = "warning"
    elif call.verbose:
        level = "debug"
    logs = Logs(call.settings.log_format, level)
    logs.take_over()
    return logs


def _serve(call: Call, logs: Logs) -> None:
    import asyncio

    settings = call.settings
    if wiring.open_to_strangers(settings):
        where = settings.host or "this machine"
        told = f"whoever can reach {where} can read and change all tasks: no token is needed"
        logs.say(f"warning: {told}", "open to everybody", "error", host=settings.host)
    if wiring.tokens_in_the_clear(settings):
        told = (
            "tokens come in the clear, and whoever is on the way can read them, unless a proxy in front speaks TLS (--tls-cert)"
        )
        logs.say(f"warning: {told}", "tokens in the clear", "warning", host=settings.host)
    if settings.migrate == "auto":
        before, after = wiring.upgrade(settings)
        if before != after:
            logs.say(f"the schema was {before or 'empty'}, and is {after}", "upgraded", before=before, after=after)

    def started(url: str) -> None:
        _collect_less()
        logs.started(wiring.shown_database(settings), url)

    with asyncio.Runner(loop_factory=_quick_loop()) as runner:
        if runner.run(wiring.serve(settings, observer=logs.observe, started=started)):
            raise KeyboardInterrupt


def _collect_less() -> None:
    """Have the garbage collector pass over what is there when the server begins, and come less often after that.

    The modules stay to the end, and so, nearly always, does what is added: answers that are remembered.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE)


def _quick_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes an event loop that spends less on each request than asyncio's own, where there is one."""
    try:
        from uvloop import new_event_loop
    except ImportError:  # not on Windows
        return None
    return new_event_loop
