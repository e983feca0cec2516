"""Where a PostgreSQL database is: `postgresql://` URLs with every parameter of libpq, passwords from files, several hosts.

Failures to connect are told in our words. What libpq says about them may name what nobody outside should read.
"""

import asyncio
import ipaddress
import os
import random
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, cast

import psycopg2
from psycopg2.extensions import parse_dsn

from taskctl.errors import ConfigError, Unavailable

_DEFAULTS = {
    "application_name": "taskctl",
    "client_encoding": "UTF8",
    # A peer that has gone without a word is noticed by the operating system, too.
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}


class Place(NamedTuple):
    """A database: libpq's parameters, and a file that holds the password, read at every connect so that it may change."""

    params: Mapping[str, str]
    password_file: str

    def __repr__(self) -> str:
        return f"Place({self.shown!r})"

    @property
    def shown(self) -> str:
        """The address as it may be shown: no password, no parameters."""
        user = f"{self.params['user']}@" if "user" in self.params else ""
        hosts = self.params.get("host") or self.params.get("hostaddr") or ""
        ports = self.params.get("port", "")
        each = hosts.split(",")
        if "," in ports:
            each = [f"{h}:{p}" if p else h for h, p in zip(each, ports.split(","), strict=False)]
        elif ports:
            each = [f"{h}:{ports}" for h in each]
        return f"postgresql://{user}{','.join(each)}/{self.params.get('dbname', '')}"

    def secrets(self) -> dict[str, str]:
        """Return the password from its file, if there is one. Raises Unavailable if it cannot be read."""
        if not self.password_file:
            return {}
        try:
            return {"password": Path(self.password_file).read_text("utf-8").rstrip("\r\n")}
        except (OSError, UnicodeDecodeError) as e:
            why = getattr(e, "strerror", None) or "it is not text"
            raise Unavailable(f"the password of the database cannot be read from {self.password_file}: {why}") from e

    async def targets(self) -> list[dict[str, str]]:
        """Return the parameters of each server to try, one after another, with its name looked up.

        libpq would look names up while the event loop waits, and would wait for the first of several hosts for ever. Raises
        Unavailable if no host is known.
        """
        params = {**_DEFAULTS, **self.params, **self.secrets()}
        hosts = params.get("host", os.environ.get("PGHOST", "")).split(",")
        if hosts == [""] or params.keys() & {"hostaddr", "service"} or params.get("target_session_attrs") == "prefer-standby":
            return [params]
        ports = params.get("port", os.environ.get("PGPORT", "")).split(",")
        found: list[dict[str, str]] = []
        for number, host in enumerate(hosts):
            port = ports[number] if len(ports) == len(hosts) else ports[0]
            one = {**params, "host": host, **({"port": port} if port else {})}
            found += [{**one, "hostaddr": address} if address else one for address in await _addresses(host)]
        if not found:
            raise Unavailable(f"no address is known of {' or '.join(hosts)}, where the database should be")
        if params.get("load_balance_hosts") == "random":
            random.shuffle(found)
        return found

    def connect_params(self, **more: str) -> dict[str, Any]:
        """Return the parameters for libpq as it is."""
        return {**_DEFAULTS, "connect_timeout": "5", **self.params, **self.secrets(), **more}

    def connect(self) -> "closing[Any]":
        """Connect, and wait for it; for commands that do nothing else. Raises Unavailable."""
        try:
            return closing(psycopg2.connect(**self.connect_params()))
        except psycopg2.OperationalError as e:
            raise Unavailable(self.told(e)) from e

    def revision(self) -> str | None:
        """Return the revision of the database's tables, None if there are none. Raises Unavailable."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('alembic_version'), current_setting('server_encoding')")
            table, encoding = cursor.fetchone()
            if encoding != "UTF8":
                raise Unavailable(self.wrong_encoding(encoding))
            if table is None:
                return None
            try:
                cursor.execute("SELECT version_num FROM alembic_version")
            except psycopg2.errors.InsufficientPrivilege as e:
                raise Unavailable(f"the user of the database {self.shown} may not read its tables") from e
            row = cursor.fetchone()
            return None if row is None else str(row[0])

    def wrong_encoding(self, encoding: str) -> str:
        """Return why a database with another encoding will not do."""
        return f"the database {self.shown} has the encoding {encoding}, and UTF8 is needed: createdb -E UTF8 -T template0"

    def answered(self, e: BaseException) -> bool:
        """Return whether it was a server that runs which did not let us in."""
        return "FATAL" in str(e) and not re.search("starting up|shutting down|recovery", str(e))

    def told(self, e: BaseException) -> str:
        """Return why it could not be connected to."""
        words = str(e)
        for pattern, told in _REASONS:
            if re.search(pattern, words):
                return f"the database {self.shown} {told}"
        return f"the database {self.shown} cannot be connected to"


_REASONS: Sequence[tuple[str, str]] = (
    ("Connection refused|No such file or directory", "cannot be reached: the connection is refused"),
    ("no password supplied", "wants a password, and none was given (database_password_file names a file with one)"),
    ("password|authentication|pg_hba|role .* does not exist|not permitted to log in", "refuses the login"),
    ("database .* does not exist", "does not exist"),
    ("starting up|shutting down|recovery mode|not yet accepting", "is starting or stopping"),
    ("too many clients|connection slots|too many connections", "has no connection left for us"),
    ("read-only|hot standby|not in hot|server is in", "has no server that takes writes"),
    ("SSL|certificate|root.crt", "cannot be reached over TLS as it is set"),
    ("timeout|timed out", "has not answered in time"),
    ("closed the connection|reset by peer|terminating connection", "closed the connection"),
    ("could not translate|Name or service", "is at a host that nobody knows"),
    ("unreachable|No route", "cannot be reached over the network"),
)


_ESCAPED = "an @ or a / in a user's name or a password is written %40 or %2F"
_VALUES = {
    "connect_timeout": ("[0-9]{0,4}", "connect_timeout must be a whole number of seconds"),
    "port": ("[0-9]{0,5}", f"a port must be a number ({_ESCAPED})"),
    "host": ("[^@]*|@.*", f"a host cannot have an @ in it ({_ESCAPED})"),
    "dbname": ("[^@]*", f"the name of the database cannot have an @ in it ({_ESCAPED})"),
    "sslmode": ("|disable|allow|prefer|require|verify-ca|verify-full", "there is no such sslmode"),
    "target_session_attrs": (
        "|any|read-write|read-only|primary|standby|prefer-standby",
        "there are no such target_session_attrs",
    ),
}
"""What libpq would find only when it connects, and would tell with parts of a password that was not escaped."""


def place(url: str, password_file: str) -> Place:
    """Return the place that a `postgresql://` URL names. Raises ConfigError."""
    try:
        params = cast(dict[str, str], parse_dsn(url))
    except psycopg2.Error as e:
        why = str(e).strip().partition("\n")[0]
        parameter = re.search('invalid URI query parameter: ("[^"]*")', why)
        told = f"{parameter[1]} is not a parameter of libpq" if parameter else "it is not well formed"
        raise ConfigError(f"the address of the PostgreSQL database cannot be used: {told}") from None
    for name, (pattern, told) in _VALUES.items():
        values = params.get(name, "").split(",") if name in ("host", "port") else [params.get(name, "")]
        if not all(re.fullmatch(pattern, value) for value in values):
            raise ConfigError(f"the address of the PostgreSQL database cannot be used: {told}")
    if "password" in params and password_file:
        raise ConfigError("the password of the database is named twice, in its address and in a file")
    return Place(params, password_file)


async def _addresses(host: str) -> list[str]:
    """Return the addresses of a host: an empty one for what needs no looking up, nothing if it is not known."""
    if not host or host.startswith(("/", "@")):
        return [""]
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return [""]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=1)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
