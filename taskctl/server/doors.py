"""What surrounds every request: for which host it is, which pages may read its answer, where it comes from, how many there are.

docs/security.md says what for.
"""

import re
import socket
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final

from aiohttp import web

from taskctl.errors import Misdirected
from taskctl.server import names

if TYPE_CHECKING:
    from taskctl.server.rates import Rates

CSP: Final = names.SECURITY_POLICY
_CORP: Final = names.RESOURCE_POLICY
CLOSED: Final[Mapping[str, str]] = {
    names.SERVER: "taskctl",
    names.CONTENT_TYPE_OPTIONS: "nosniff",
    CSP: "default-src 'none'; frame-ancestors 'none'",
    names.REFERRER_POLICY: "no-referrer",
    _CORP: "same-origin",
}
"""On every answer, but a page has a Content-Security-Policy of its own, and _CORP is not for origins that may read it."""
_HSTS: Final = {"Strict-Transport-Security": "max-age=31536000"}
PROBES: Final = ("/livez", "/readyz", "/metrics")
"""Who asks these goes by whatever name or address the machine has at the moment, and often; they tell nothing of any task."""

METHODS: Final = "GET, HEAD, POST, PUT, PATCH, DELETE"
ASKED_WITH: Final = (
    "Authorization, Cache-Control, Content-Type, Idempotency-Key, If-Match, If-None-Match, Prefer, X-Request-Id, X-Taskctl-Seq"
)
TOLD: Final = (
    "Accept, Accept-Encoding, Accept-Patch, Allow, Cache-Status, ETag, Idempotency-Replayed, Link, Location, Preference-Applied, "
    "RateLimit, RateLimit-Policy, Retry-After, Server-Timing, WWW-Authenticate, X-Request-Id, X-Taskctl-Seq"
)
_PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": METHODS,
    "Access-Control-Allow-Headers": ASKED_WITH,
    "Access-Control-Max-Age": "600",
    "Cache-Control": "no-store",
}
_HOSTS_KEPT: Final = 256


class Doors:
    """What a server is told about those who may come in, and whom it believes.

    host: the setting, a name that it goes by; hosts: more of them, `*.example.com`, `*`; origins: those whose pages may use the
    API, or `*`; proxies: networks whose word about the client's address is taken; https: whether it is served by HTTPS only;
    rates: how much may be asked for, None for any number.
    """

    def __init__(
        self,
        *,
        host: str = "localhost",
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
        proxies: Iterable[str] = (),
        https: bool = False,
        rates: "Rates | None" = None,
    ) -> None:
        self._any = "*" in hosts
        self._names = {"localhost", host.lower(), socket.gethostname().lower()} | {h for h in hosts if not h.startswith("*")}
        self._below = tuple(h[1:] for h in hosts if h.startswith("*."))
        self._origins = frozenset(origins)
        self._proxies = tuple(map(ip_network, proxies))
        self._https = https
        self.rates = rates
        self._verdicts: dict[str, Mapping[str, str] | None] = {}

    # ------------------------------------------------------------------------------------------------------- on the way in

    def enter(self, request: web.Request, route: str) -> web.Response | None:
        """Return the answer to a request that only asks whether another one may come; None for any other.

        route: the template of its address. Raises Misdirected, TooManyRequests.
        """
        if not route.endswith(PROBES):
            self.count(request)
            if self._headers_at(host := request.headers.get(names.HOST, "")) is None:
                raise Misdirected(f"the server does not go by {host!r:.300}; the setting allowed_hosts adds names")
        if (
            self._origins
            and request.method == "OPTIONS"
            and "Access-Control-Request-Method" in request.headers
            and self._allowed(request.headers.get("Origin"))
        ):
            return web.Response(status=204, headers=_PREFLIGHT)
        return None

    def count(self, request: web.BaseRequest) -> None:
        """Count a request for the address that it is from. Raises TooManyRequests if it is one too many."""
        if self.rates is not None:
            self.rates.asked(self.address_of(request))

    def _headers_at(self, host: str) -> Mapping[str, str] | None:
        """Return the headers of all answers at a Host, None if the server does not go by it."""
        try:
            return self._verdicts[host]
        except KeyError:
            if len(self._verdicts) >= _HOSTS_KEPT:
                self._verdicts.clear()
            verdict = self._verdicts[host] = self._judged(host)
            return verdict

    def _judged(self, host: str) -> Mapping[str, str] | None:
        if host == "" or _address(host) is not None:  # a page from elsewhere has a name, and it is sent along
            return CLOSED
        name = re.sub(r":[0-9]*$", "", host).lower().removesuffix(".")
        if not (self._any or name in self._names or name.endswith(self._below)):
            return None
        # A browser would hold all ports of a name to it, and on localhost there are others.
        return {**CLOSED, **_HSTS} if self._https and name != "localhost" else CLOSED

    # ------------------------------------------------------------------------------------------------------ on the way out

    def leave(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Give an answer the headers that it needs on its way."""
        headers = response.headers
        own = headers.get(CSP)
        headers.update(self._headers_at(request.headers.get(names.HOST, "")) or CLOSED)
        if own is not None:
            headers[CSP] = own
        if self._origins:
            self._tell_pages(request.headers.get("Origin"), response)

    def _tell_pages(self, origin: str | None, response: web.StreamResponse) -> None:
        headers = response.headers
        if "*" not in self._origins:
            headers["Vary"] = f"{headers['Vary']}, Origin" if "Vary" in headers else "Origin"
        if allowed := self._allowed(origin):
            headers["Access-Control-Allow-Origin"] = allowed
            headers["Access-Control-Expose-Headers"] = TOLD
            del headers[_CORP]

    def _allowed(self, origin: str | None) -> str | None:
        """Return which origin may read the answer to one that asks."""
        return "*" if "*" in self._origins else origin if origin in self._origins else None

    # ---------------------------------------------------------------------------------------------------------- where from

    def address_of(self, request: web.BaseRequest) -> str:
        """Return the address of the client, "" if it is on a socket that has none.

        That is the peer's, unless the peer is a trusted proxy; then it is the last one in `X-Forwarded-For` that is no trusted
        proxy itself. Whatever stands before that one may be made up.
        """
        remote = request.remote or ""
        if not self._proxies and ":" not in remote:  # as nearly always: there is nothing to be looked into
            return remote
        peer = _address(remote)
        if peer is None or not self._proxies:
            return str(peer or "")
        said = ",".join(request.headers.getall("X-Forwarded-For", ())).split(",")
        while said and any(peer in network for network in self._proxies):
            entry = said.pop().strip()
            before = _address(entry)
            if before is None or "%" in entry:  # a zone means nothing on another machine
                break
            peer = before
        return str(peer)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Return an address, which may have a port or be in brackets, None for anything else. An IPv4 one stays one inside IPv6."""
    if found := _PORT.fullmatch(text):
        text = found[1] or found[2]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


_PORT: Final = re.compile(r"\[([^\]]*)\](?::[0-9]*)?|([0-9.]+):[0-9]*")

DOORS: Final = web.AppKey("taskctl.doors", Doors)


def address_of(request: web.Request) -> str:
    """Return the address of the client, as `Doors.address_of`."""
    return request.app[DOORS].address_of(request)
