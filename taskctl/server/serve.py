"""Serving the application by itself: sockets, signals, and the order in which it stops."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address

from aiohttp import web

from taskctl.errors import ConfigError, MethodNotAllowed, NotFound, Unavailable
from taskctl.observe import CertificateKept, CertificateRenewed, Observer, ignore
from taskctl.server.app import answer, request_id_of
from taskctl.server.doors import DOORS, Doors
from taskctl.server.edge import Connection
from taskctl.server.requests import OBSERVER, STATE
from taskctl.server.scrape import Scrape, scraped
from taskctl.server.tls import Certificate

HANDSHAKE_SECONDS = 10.0
"""How long a client may take until the connection is encrypted."""
LINGER_SECONDS = 0.5
"""After the listening socket is closed: requests that were on their way into accepted connections still arrive."""
STOP_SECONDS = 30.0
"""How long requests in flight may take to finish."""

HURRY_SECONDS = 1.0
"""The same, when somebody waits at a terminal."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach what listens on a host: all its addresses are of the loopback interface.

    A name that cannot be resolved counts as one; listening on it will fail.
    """
    try:
        found = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return True
    return all(ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


@asynccontextmanager
async def serving_alone(scrape: Scrape, host: str, port: int) -> AsyncIterator[None]:
    """Serve `/metrics`, and nothing else, at an address of its own meanwhile. Raises Unavailable if it cannot listen there."""
    doors = Doors(hosts={"*"})

    async def only(request: web.BaseRequest) -> web.StreamResponse:
        request_id = request_id_of(request)
        if request.path != "/metrics":
            response = answer(NotFound("there is nothing at this address but /metrics"), request_id)
        elif request.method not in ("GET", "HEAD"):
            response = answer(MethodNotAllowed(f"{request.method} does not fit here", allow=["GET", "HEAD"]), request_id)
        else:
            response = scraped(request, scrape)
            response.headers["X-Request-Id"] = request_id
        doors.leave(request, response)
        return response

    server = web.Server(only)
    loop = asyncio.get_running_loop()
    try:
        listening = await loop.create_server(lambda: Connection(server, ignore, doors), host, port)
    except OSError as e:
        raise Unavailable(f"cannot listen on {host} port {port} for /metrics: {e.strerror}") from e
    try:
        yield
    finally:
        listening.close()
        await server.shutdown(HURRY_SECONDS)


async def serve(
    app: web.Application,
    *,
    host: str,
    port: int,
    drain_seconds: float,
    tls: tuple[str, str] | None,
    started: Callable[[str], None],
) -> bool:
    """Serve until SIGTERM or SIGINT, and return whether it was SIGINT.

    tls: the files with the certificate and its key; SIGHUP has them read again, and does nothing without them. started: is called
    with the server's URL when it listens. SIGTERM makes it unready, goes on accepting for `drain_seconds` (so that load balancers
    notice), closes the socket, finishes what is in flight, and closes the service. SIGINT, somebody's ctrl-C, leaves out the
    waiting.

    Raises Unavailable if the address cannot be listened on, ConfigError for files that cannot be used.
    """
    observer = app[OBSERVER]
    certificate = Certificate(*tls) if tls else None
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=STOP_SECONDS)
    stop: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda number: None if stop.done() else stop.set_result(number), number)
    loop.add_signal_handler(signal.SIGHUP, _renew, certificate, observer)
    try:
        await runner.setup()
        server = runner.server
        assert server is not None
        try:
            listening = await loop.create_server(
                lambda: Connection(server, observer, app[DOORS]),
                host,
                port,
                backlog=128,
                ssl=certificate.context if certificate else None,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if certificate else None,
            )
        except OSError as e:
            raise Unavailable(f"cannot listen on {host} port {port}: {e.strerror}") from e
        started(f"{'https' if certificate else 'http'}://{_authority(listening.sockets[0].getsockname())}")
        interrupted = await stop == signal.SIGINT
        app[STATE].draining = True
        if not interrupted:
            await asyncio.sleep(drain_seconds)
        listening.close()
        if interrupted:
            await server.shutdown(HURRY_SECONDS)
        else:
            await asyncio.sleep(LINGER_SECONDS)
            # cleanup() no longer listens to clients that are still sending, so wait for these here.
            deadline = loop.time() + STOP_SECONDS
            while app[STATE].in_flight and loop.time() < deadline:  # noqa: ASYNC110  # once in the life of a process
                await asyncio.sleep(0.02)
        return interrupted
    finally:
        await runner.cleanup()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)


def _renew(certificate: Certificate | None, observer: Observer) -> None:
    if certificate is None:  # whoever renews certificates may tell all servers so, and must end none
        return
    try:
        certificate.renew()
    except ConfigError as e:
        observer(CertificateKept(e.detail))
    else:
        observer(CertificateRenewed())


def _authority(address: tuple[str, int, int, int] | tuple[str, int]) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
