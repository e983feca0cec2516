"""Settings, and where each of them came from: a flag, the environment, the file `config.toml`, or the default.

A setting has one name: `sqlite_synchronous` is `--sqlite-synchronous`, `TASKCTL_SQLITE_SYNCHRONOUS` and `sqlite_synchronous`
in the file. docs/settings.md lists them; a test fails for one that it does not explain.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec

from taskctl.errors import ConfigError

Output = Literal["table", "wide", "json", "ndjson", "yaml", "csv", "ids"]
PREFIX: Final = "TASKCTL_"
TOKEN: Final = "TASKCTL_TOKEN"  # noqa: S105  # the name of a variable
TOKEN_WAYS: Final = f"`taskctl auth login` stores a token, {TOKEN} holds one, and token_file names a file that does"
LEVELS: Final = ("flag", "environment", "file", "default")

_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_NAME: Final = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_ORIGIN: Final = re.compile(rf"[a-z][a-z0-9+.-]*://(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?")
_ADDRESS: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/@\[\]]+)):([0-9]{1,5})")
_USUAL: Final = {"http": ":80", "https": ":443"}


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set. An empty `database_url` means the file in the user's data folder.

    Raises ConfigError for a value that cannot be used.
    """

    database_url: str = ""
    database_password_file: str = ""
    database_connections: int = 12
    server: str | None = None
    token_file: str = ""
    ca_file: str = ""
    allow_http: bool = False
    workspace: str = "default"
    output: Output = "table"
    color: bool = True
    sqlite_synchronous: Literal["full", "normal"] = "full"
    database_timeout: float = 5.0
    server_timeout: float = 30.0
    host: str = "127.0.0.1"
    port: int = 8080
    migrate: Literal["auto", "check", "off"] = "check"
    drain_seconds: float = 0.0
    auth: Literal["none", "tokens"] = "none"
    allow_anonymous: bool = False
    allowed_hosts: str = ""
    cors_origins: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    trusted_proxies: str = ""
    rate_limit_token: str = "6000/minute"  # noqa: S105  # it is none
    rate_limit_address: str = "6000/minute"
    rate_limit_failures: str = "10/minute"
    cache_bytes: int = 64 * 1024 * 1024
    redis_url: str = ""
    redis_password_file: str = ""
    redis_tasks: bool = False
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    metrics: bool = True
    metrics_address: str = ""
    tracing: bool = False

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={_shown(getattr(self, name))!r}" for name in self.__struct_fields__)
        return f"Settings({shown})"

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port must be from 0 to 65535, not {self.port}")
        if not 2 <= self.database_connections <= 1000:
            raise ConfigError(f"database_connections must be from 2 to 1000, not {self.database_connections}")
        if self.cache_bytes < 0:
            raise ConfigError(f"cache_bytes must be 0 or more, not {self.cache_bytes}")
        if self.redis_url and not self.cache_bytes:
            raise ConfigError("redis_url names a second cache behind that of the server, and cache_bytes is 0")
        for name in ("database_timeout", "server_timeout", "drain_seconds"):
            if not 0 <= getattr(self, name) <= 3600:
                raise ConfigError(f"{name} must be from 0 to 3600 seconds, not {getattr(self, name):g}")
        if bool(self.tls_cert) != bool(self.tls_key):
            there, missing = ("tls_cert", "tls_key") if self.tls_cert else ("tls_key", "tls_cert")
            raise ConfigError(f"{there} is set, and {missing} is not; TLS needs both")
        if self.metrics_address and not self.metrics:
            raise ConfigError("metrics_address is an address for the metrics, and metrics is false")
        for look in (hosts_of, origins_of, proxies_of, metrics_at):
            look(self)
        for name, usual in zip(self.__struct_fields__, self.__struct_defaults__, strict=True):
            if name.startswith("rate_limit_") and (said := getattr(self, name)) != usual:  # the usual one is known to be good
                _require_limit(name, said)


def hosts_of(settings: Settings) -> frozenset[str]:
    """Return the names in `allowed_hosts`, in lower case; `*.example.com` and `*` stand as they are.

    Raises ConfigError for what is no name.
    """
    expected = "names such as tasks.example.com or *.example.com, without a port, or *"
    return _each(settings, "allowed_hosts", expected, lambda said: said if said == "*" or _NAME.fullmatch(said) else None)


def origins_of(settings: Settings) -> frozenset[str]:
    """Return the origins in `cors_origins` as browsers write them, or `*`. Raises ConfigError for what is no origin."""

    def origin(said: str) -> str | None:
        if said == "*":
            return said
        if not _ORIGIN.fullmatch(said):
            return None
        return said.removesuffix(_USUAL.get(said.partition(":")[0], "/"))

    found = _each(settings, "cors_origins", "origins such as https://app.example.com, without a path, or *", origin)
    if "*" in found and len(found) > 1:
        raise ConfigError("cors_origins must be either origins or *, not both")
    return found


def proxies_of(settings: Settings) -> frozenset[str]:
    """Return the addresses and networks in `trusted_proxies`, all as networks. Raises ConfigError for what is neither."""

    def network(said: str) -> str | None:
        from ipaddress import ip_network

        try:
            return str(ip_network(said))
        except ValueError:
            return None

    return _each(settings, "trusted_proxies", "addresses and networks such as 10.0.0.7 or 10.1.0.0/16", network)


def metrics_at(settings: Settings) -> tuple[str, int] | None:
    """Return the host and the port in `metrics_address`, None if it is not set. Raises ConfigError for what is no address."""
    if not (said := settings.metrics_address):
        return None
    found = _ADDRESS.fullmatch(said)
    if found is None or not 1 <= int(found[3]) <= 65535:
        raise ConfigError(f"metrics_address must be HOST:PORT, as 127.0.0.1:9100 or [::1]:9100, not {said!r}")
    return found[1] or found[2], int(found[3])


def _each(settings: Settings, name: str, expected: str, understood: Callable[[str], str | None]) -> frozenset[str]:
    """Return the understood parts of a setting that has several, with commas between them."""
    said = getattr(settings, name)
    parts = [part.strip() for part in said.lower().split(",")] if said else []
    found = [understood(part) for part in parts]
    if None in found:
        raise ConfigError(f"{name} must be {expected}, with commas between them, and not {parts[found.index(None)]!r}")
    return frozenset(part for part in found if part is not None)


def _require_limit(name: str, said: str) -> None:
    """Raise ConfigError for what is no limit of a rate."""
    if said in ("", "off"):
        return

    from limits import parse_many

    try:
        [limit] = parse_many(said)
    except ValueError:  # none, or several
        limit = None
    if limit is None or not 1 <= limit.amount <= 10**9 or limit.get_expiry() > 366 * 86400:
        raise ConfigError(f"{name} must be a limit such as 6000/minute or 100/10 seconds, or off, not {said!r}")


def _shown(value: object) -> object:
    """Return a value as it may be shown: of an address nothing in which a password can be."""
    if not isinstance(value, str) or "://" not in value:
        return "what was given" if "://" in str(value) else value
    scheme, _, rest = value.partition("://")
    if "password" in rest.lower():
        return f"{scheme}://[secret]"
    user, at, place = rest.rpartition("@")
    return f"{scheme}://[secret]@{place}" if at and ":" in user else value


class NamedToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token for a server, or the file that has it, as it was named at one level.

    where: how it is named. server: the one that it belongs to, named at the same level or a lower one; None if none is.
    """

    where: str
    secret: str = ""
    file: str = ""
    server: str | None = None

    def __repr__(self) -> str:
        return f"NamedToken({self.where!r})"


class Loaded(NamedTuple):
    """Settings, the level that each of them came from, and the file of that level.

    tokens: those that were named, of the highest level first.
    """

    settings: Settings
    origins: Mapping[str, str]
    file: Path
    tokens: Sequence[NamedToken] = ()

    @property
    def remote(self) -> str | None:
        """The server's URL, if the tasks are on a server: the higher level of `server` and `database_url` decides."""
        if self.settings.server is None:
            return None
        ranks = [LEVELS.index(self.origins[name]) for name in ("server", "database_url")]
        return self.settings.server if ranks[0] < ranks[1] else None

    @property
    def workspace(self) -> str | None:
        """The workspace that was named, None if none was: then it is for the place to say."""
        return None if self.origins["workspace"] == "default" else self.settings.workspace

    def where(self, name: str) -> str:
        """Return where a setting was set: by which flag or variable, or in which file. It was set somewhere."""
        return _where(self.origins[name], name, self.file)

    def placed(self, e: ConfigError) -> ConfigError:
        """Return the failure of a setting with where that was set: by which flag or variable, or in which file."""
        return e if self.origins.get(e.setting, "default") == "default" else e.of(self.where(e.setting))


def load(flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ, file: Path | None = None) -> Loaded:
    """Return the settings. `flags` holds those given on the command line; `file` is looked for in its usual place if None.

    Raises ConfigError for a value or a file that cannot be used, and for a server and a database named at the same level.
    """
    path = file or Path(environment.get(f"{PREFIX}CONFIG") or default_file())
    levels: dict[str, Mapping[str, Any]] = {
        "flag": {name: value for name, value in flags.items() if value is not None},
        "environment": {
            name: environment[variable]
            for name in Settings.__struct_fields__
            if environment.get(variable := PREFIX + name.upper())
        },
        "file": _read(path) if file or path.is_file() else {},
    }
    if "NO_COLOR" in environment and environment["NO_COLOR"] and "color" not in levels["flag"]:
        levels["environment"] = {**levels["environment"], "color": False}
    for name in ("server", "database_url"):
        if levels["flag"].get(name) == "":  # as by a variable of a script that is not set; it must not lead to another place
            raise ConfigError(f"{_where('flag', name, path)} must name a place, and is empty")
    for level, given in levels.items():
        if given.get("server") and given.get("database_url"):
            raise ConfigError(f"a server and a database are both named ({_where(level, 'server', path)}); one place at a time")
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.__struct_fields__, "default")
    for level in reversed(LEVELS[:-1]):
        for name, value in levels[level].items():
            values[name] = _value(name, value, _where(level, name, path))
            origins[name] = level
    return Loaded(Settings(**values), origins, path, _tokens(levels, environment.get(TOKEN, ""), path))


def _tokens(levels: Mapping[str, Mapping[str, Any]], secret: str, path: Path) -> list[NamedToken]:
    found = []
    for index, level in enumerate(LEVELS[:-1]):
        server = next((named for lower in LEVELS[index:-1] if (named := levels[lower].get("server"))), None)
        file = levels[level].get("token_file")
        if secret and level == "environment":
            if file:
                raise ConfigError(f"{TOKEN} and {_where(level, 'token_file', path)} are both set; one token at a time")
            found.append(NamedToken(where=TOKEN, secret=secret, server=server))
        elif file:
            found.append(NamedToken(where=_where(level, "token_file", path), file=file, server=server))
    return found


def _value(name: str, value: Any, where: str) -> Any:
    kind = Settings.__annotations__[name]
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError:
        if allowed := get_args(kind):
            expected = "one of " + ", ".join(str(a) for a in allowed if isinstance(a, str))
        else:
            expected = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "a text")
        raise ConfigError(f"{where} must be {expected}, not {_shown(value)!r}") from None


def _where(level: str, name: str, path: Path) -> str:
    match level:
        case "flag":
            return "--" + name.replace("_", "-")
        case "environment":
            return PREFIX + name.upper()
        case _:
            return f"{name} in {path}"


def _read(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"the settings in {path} cannot be read: {getattr(e, 'strerror', None) or e}") from None
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{path} is not TOML: {e}") from None
    if "token" in found:
        raise ConfigError(f"{path} sets 'token', and a secret does not belong there: {TOKEN_WAYS}")
    if unknown := found.keys() - set(Settings.__struct_fields__):
        from difflib import get_close_matches

        name = min(unknown)
        meant = get_close_matches(name, Settings.__struct_fields__, 1)
        raise ConfigError(f"{path} sets {name!r}, which is not a setting" + (f"; did you mean {meant[0]}?" if meant else ""))
    return found


def default_file() -> Path:
    """Return where `config.toml` is looked for."""
    from platformdirs import user_config_path

    return user_config_path("taskctl", appauthor=False) / "config.toml"


def default_database() -> Path:
    """Return the database file in the user's data folder."""
    from platformdirs import user_data_path

    return user_data_path("taskctl", appauthor=False) / "tasks.db"
