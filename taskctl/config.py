"""Settings, and where each of them came from: a flag, the environment, the file `config.toml`, or the default.

A setting has one name: `sqlite_synchronous` is `--sqlite-synchronous`, `TASKCTL_SQLITE_SYNCHRONOUS` and `sqlite_synchronous`
in the file. docs/settings.md lists them; a test fails for one that it does not explain.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec

from taskctl.errors import ConfigError

Output = Literal["table", "json", "ndjson", "ids"]
PREFIX: Final = "TASKCTL_"
LEVELS: Final = ("flag", "environment", "file", "default")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set. An empty `database_url` means the file in the user's data folder.

    Raises ConfigError for a value that cannot be used.
    """

    database_url: str = ""
    database_password_file: str = ""
    database_connections: int = 12
    server: str | None = None
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
    cache_bytes: int = 64 * 1024 * 1024
    redis_url: str = ""
    redis_password_file: str = ""
    redis_tasks: bool = False

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


class Loaded(NamedTuple):
    """Settings, the level that each of them came from, and the file of that level."""

    settings: Settings
    origins: Mapping[str, str]
    file: Path

    @property
    def remote(self) -> str | None:
        """The server's URL, if the tasks are on a server: the higher level of `server` and `database_url` decides."""
        if self.settings.server is None:
            return None
        ranks = [LEVELS.index(self.origins[name]) for name in ("server", "database_url")]
        return self.settings.server if ranks[0] < ranks[1] else None

    def placed(self, e: ConfigError) -> ConfigError:
        """Return the failure of a setting with where that was set: by which flag or variable, or in which file."""
        level = self.origins.get(e.setting, "default")
        return e if level == "default" else e.of(_where(level, e.setting, self.file))


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
    return Loaded(Settings(**values), origins, path)


def _value(name: str, value: Any, where: str) -> Any:
    kind = Settings.__annotations__[name]
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError:
        if allowed := get_args(kind):
            expected = "one of " + ", ".join(str(a) for a in allowed if isinstance(a, str))
        else:
            expected = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "a text")
        raise ConfigError(f"{where} must be {expected}, not {value!r}") from None


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
    if unknown := found.keys() - set(Settings.__struct_fields__):
        raise ConfigError(f"{path} sets {min(unknown)!r}, which is not a setting")
    return found


def default_file() -> Path:
    """Return where `config.toml` is looked for."""
    from platformdirs import user_config_path

    return user_config_path("taskctl", appauthor=False) / "config.toml"


def default_database() -> Path:
    """Return the database file in the user's data folder."""
    from platformdirs import user_data_path

    return user_data_path("taskctl", appauthor=False) / "tasks.db"
