"""`taskctl serve`: the API."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from taskctl import wiring
from taskctl.cli.call import Call, command, let_go
from taskctl.errors import UsageError
from taskctl.observe import (
    CertificateKept,
    CertificateRenewed,
    DatabaseAway,
    DatabaseBack,
    Event,
    RedisAway,
    RedisBack,
    RedisRefuses,
    RequestDone,
)

if TYPE_CHECKING:
    import asyncio

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
    metrics: Annotated[bool | None, typer.Option(help="Tell Prometheus at /metrics what happens.")] = None,
    metrics_address: Annotated[str | None, typer.Option(help="HOST:PORT for /metrics alone.")] = None,
) -> None:
    """Serve the API, on 127.0.0.1:8080 and the same database as the commands, until SIGTERM or ctrl-C."""
    call = call.with_flags(
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
        metrics=metrics,
        metrics_address=metrics_address,
    )
    if call.loaded.remote:
        raise UsageError(f"a server serves a database, and {call.loaded.remote} is a server already")

    import asyncio
    import logging

    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")

    serving = False

    def observe(event: Event) -> None:
        match event:
            case RequestDone() if not call.quiet:
                line = f"{event.method} {event.path} {event.status} {event.seconds * 1000:.1f} ms {event.request_id}"
            case DatabaseAway(why) if serving:
                line = f"the database is away: {why}"
            case DatabaseBack(seconds) if serving:
                line = f"the database is back, after {seconds:.1f} s"
            case RedisAway(why):
                line = f"Redis is away: {why}"
            case RedisRefuses(why):
                line = f"Redis takes nothing new: {why}"
            case RedisBack(seconds) if serving:
                line = f"Redis is back, after {seconds:.1f} s"
            case CertificateRenewed():
                line = "the certificate was read again"
            case CertificateKept(why):
                line = f"the certificate stays as it was: {why}"
            case _:
                line = ""
        if line:
            try:
                print(line, file=sys.stderr, flush=True)
            except OSError:  # that nobody reads the log any more is no reason to fail a request
                let_go(sys.stderr)

    if wiring.open_to_strangers(call.settings):
        where = call.settings.host or "this machine"
        print(f"warning: whoever can reach {where} can read and change all tasks: no token is needed", file=sys.stderr)

    if call.settings.migrate == "auto":
        before, after = wiring.upgrade(call.settings)
        if before != after:
            call.say(f"the schema was {before or 'empty'}, and is {after}")

    def started(url: str) -> None:
        nonlocal serving
        serving = True
        database = wiring.shown_database(call.settings)
        call.say(f"taskctl serves {database} at {url}/api/v1; ctrl-C stops it")

    with asyncio.Runner(loop_factory=_quick_loop()) as runner:
        if runner.run(wiring.serve(call.settings, observer=observe, started=started)):
            raise KeyboardInterrupt


def _quick_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes an event loop that spends less on each request than asyncio's own, where there is one."""
    try:
        from uvloop import new_event_loop
    except ImportError:  # not on Windows
        return None
    return new_event_loop
