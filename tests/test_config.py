"""Settings: where each comes from, what they may be, and that the manual has all of them."""

import re
from pathlib import Path
from typing import Any

import pytest

from taskctl import Settings, open_tasks
from taskctl.config import hosts_of, load, metrics_at, origins_of, proxies_of
from taskctl.errors import ConfigError

MANUAL = Path(__file__).parent.parent / "docs" / "settings.md"


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """Return an environment whose settings file is not there."""
    return {"TASKCTL_CONFIG": str(tmp_path / "config.toml")}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text, "utf-8")
    return path


def test_without_anything_the_defaults_hold(nowhere: dict[str, str]) -> None:
    loaded = load({}, nowhere)
    assert loaded.settings == Settings()
    assert set(loaded.origins) == set(Settings.__struct_fields__)
    assert set(loaded.origins.values()) == {"default"}
    assert loaded.remote is None


def test_each_setting_comes_from_the_highest_level_that_has_it(tmp_path: Path) -> None:
    file = written(tmp_path, 'port = 1\nhost = "file"\nworkspace = "file"\nsqlite_synchronous = "normal"')
    loaded = load({"port": "3", "host": None}, {"TASKCTL_PORT": "2", "TASKCTL_HOST": "environment"}, file)
    settings = loaded.settings
    assert (settings.port, settings.host, settings.workspace, settings.sqlite_synchronous) == (3, "environment", "file", "normal")
    assert [loaded.origins[name] for name in ("port", "host", "workspace", "output")] == [
        "flag",
        "environment",
        "file",
        "default",
    ]


def test_a_file_named_by_the_environment_is_read(tmp_path: Path) -> None:
    file = written(tmp_path, "port = 1234")
    assert load({}, {"TASKCTL_CONFIG": str(file)}).settings.port == 1234


@pytest.mark.parametrize(
    ("name", "said", "value"),
    [
        ("port", "80", 80),
        ("drain_seconds", "2.5", 2.5),
        ("database_timeout", "3", 3.0),
        ("color", "false", False),
        ("color", "1", True),
        ("output", "ndjson", "ndjson"),
        ("server", "http://x", "http://x"),
    ],
)
def test_texts_become_values(nowhere: dict[str, str], name: str, said: str, value: object) -> None:
    found = [
        getattr(load({name: said}, nowhere).settings, name),
        getattr(load({}, {**nowhere, f"TASKCTL_{name.upper()}": said}).settings, name),
    ]
    assert found == [value, value]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("port", "http"),
        ("port", "-1"),
        ("port", "65536"),
        ("port", "8080.5"),
        ("output", "xml"),
        ("sqlite_synchronous", "off"),
        ("database_timeout", "soon"),
        ("database_timeout", "-1"),
        ("server_timeout", "3601"),
        ("drain_seconds", "nan"),
        ("server_timeout", "inf"),
        ("color", "blue"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_as_it_was_said(nowhere: dict[str, str], name: str, said: str) -> None:
    for flags, environment in (({name: said}, nowhere), ({}, {**nowhere, f"TASKCTL_{name.upper()}": said})):
        with pytest.raises(ConfigError) as caught:
            load(flags, environment)
        assert name in caught.value.detail.lower().replace("-", "_")
        assert caught.value.exit_code == 2


def test_an_empty_variable_is_one_that_is_not_set_and_an_empty_flag_is_a_value(nowhere: dict[str, str]) -> None:
    assert load({}, {**nowhere, "TASKCTL_PORT": "", "TASKCTL_SERVER": ""}).settings == Settings()
    with pytest.raises(ConfigError, match="--port"):
        load({"port": ""}, nowhere)
    for name in ("server", "database_url"):
        with pytest.raises(ConfigError, match="must name a place, and is empty"):
            load({"server": "http://h", "database_url": "sqlite:///a.db", name: ""}, nowhere)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour = 1", "colour"),
        ("[server]\nport = 1", "server"),
        ("port = [1]", "port"),
        ("color = 'maybe'", "color"),
        ("port =", "TOML"),
        ("port = 1\nport = 2", "TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError, match=said) as caught:
        load({}, {}, file)
    assert str(file) in caught.value.detail


def test_files_that_cannot_be_read_are_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'host = "\xff"')
    for name in ("missing.toml", "latin.toml", "."):
        with pytest.raises(ConfigError, match="cannot be read"):
            load({}, {}, tmp_path / name)


@pytest.mark.parametrize(
    ("flags", "environment", "text", "remote"),
    [
        ({"server": "http://flag"}, {"TASKCTL_DATABASE_URL": "sqlite:///x"}, "", "http://flag"),
        ({"database_url": "sqlite:///x"}, {"TASKCTL_SERVER": "http://environment"}, "", None),
        ({}, {"TASKCTL_SERVER": "http://environment"}, 'database_url = "sqlite:///x"', "http://environment"),
        ({}, {"TASKCTL_DATABASE_URL": "sqlite:///x"}, 'server = "http://file"', None),
        ({}, {}, 'server = "http://file"', "http://file"),
        ({}, {}, 'database_url = "sqlite:///x"', None),
    ],
)
def test_of_a_server_and_a_database_the_one_at_the_higher_level_counts(
    tmp_path: Path, flags: dict[str, Any], environment: dict[str, str], text: str, remote: str | None
) -> None:
    assert load(flags, environment, written(tmp_path, text)).remote == remote


def test_a_server_and_a_database_at_one_level_are_refused_at_each_level(tmp_path: Path) -> None:
    both = {"server": "http://x", "database_url": "sqlite:///x"}
    empty = written(tmp_path, "")
    with pytest.raises(ConfigError, match="one place at a time"):
        load(both, {}, empty)
    with pytest.raises(ConfigError, match="one place at a time"):
        load({}, {f"TASKCTL_{name.upper()}": value for name, value in both.items()}, empty)
    with pytest.raises(ConfigError, match="one place at a time"):
        load({}, {}, written(tmp_path, "".join(f'{name} = "{value}"\n' for name, value in both.items())))


def test_no_color_is_obeyed_unless_a_flag_says_otherwise(nowhere: dict[str, str]) -> None:
    assert load({}, {**nowhere, "NO_COLOR": "1"}).settings.color is False
    assert load({}, {**nowhere, "NO_COLOR": ""}).settings.color is True
    assert load({"color": True}, {**nowhere, "NO_COLOR": "1"}).settings.color is True
    assert load({"color": False}, nowhere).settings.color is False


def test_settings_check_themselves_wherever_they_are_made() -> None:
    wrong: list[dict[str, Any]] = [{"port": -1}, {"drain_seconds": float("nan")}, {"database_timeout": -0.1}]
    for values in wrong:
        with pytest.raises(ConfigError):
            Settings(**values)


def test_the_manual_explains_every_setting_and_no_other() -> None:
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in MANUAL.read_text("utf-8").splitlines()
        if re.match(r"\| *`[a-z_]+` *\|", line)
    ]
    assert [row[0].strip("`") for row in rows] == list(Settings.__struct_fields__)
    defaults = Settings()
    for name, flag, variable, default, meaning in rows:
        plain = name.strip("`")
        assert variable == f"`TASKCTL_{plain.upper()}`"
        assert f"`--{plain.replace('_', '-')}" in flag
        assert meaning
        value = getattr(defaults, plain)
        if value not in ("", None):
            shown = (
                {True: "true", False: "false"}[value]
                if isinstance(value, bool)
                else f"{value:g}"
                if isinstance(value, float)
                else value
            )
            assert re.search(rf"(?<![\w.]){re.escape(str(shown))}(?!\w)", default), (name, default)


@pytest.mark.parametrize(
    ("name", "said", "understood"),
    [
        ("allowed_hosts", "Tasks.Example.com, *.example.org", {"tasks.example.com", "*.example.org"}),
        ("allowed_hosts", "*", {"*"}),
        ("allowed_hosts", "", set()),
        ("cors_origins", "https://App.example.com:443,http://[::1]:3000", {"https://app.example.com", "http://[::1]:3000"}),
        ("cors_origins", "http://a:80 , http://b:8080", {"http://a", "http://b:8080"}),
        ("cors_origins", "https://a:80", {"https://a:80"}),
        ("cors_origins", "*", {"*"}),
        ("cors_origins", "", set()),
        ("trusted_proxies", "10.0.0.7, 10.1.0.0/16,2001:DB8::/32", {"10.0.0.7/32", "10.1.0.0/16", "2001:db8::/32"}),
        ("trusted_proxies", "", set()),
    ],
)
def test_what_has_several_parts_is_taken_apart(name: str, said: str, understood: set[str]) -> None:
    look = {"allowed_hosts": hosts_of, "cors_origins": origins_of, "trusted_proxies": proxies_of}[name]
    values: dict[str, Any] = {name: said}
    assert look(Settings(**values)) == understood


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *(("allowed_hosts", said) for said in ("a:8080", "http://a", "a,,b", "a b", "*a", "a.*", "[::1]", ".a", "a,")),
        *(
            ("cors_origins", said)
            for said in ("app.example.com", "https://a/", "https://a/b", "null", "*,https://a", "https://*.a")
        ),
        *(("cors_origins", said) for said in ("https://u@a", "https://a:b", "https://")),
        *(("trusted_proxies", said) for said in ("proxy", "10.0.0.7/8", "10.0.0.256", "10.0.0.1:80", "*")),
        *(
            ("rate_limit_token", said)
            for said in ("10", "0/minute", "ten/minute", "1/fortnight", "1/minute;2/hour", "1/400 days")
        ),
        *((f"rate_limit_{which}", "-1/minute") for which in ("address", "failures")),
        *((name, "x.pem") for name in ("tls_cert", "tls_key")),
    ],
)
def test_what_could_let_in_the_wrong_ones_is_refused_when_settings_are_made(name: str, said: str) -> None:
    values: dict[str, Any] = {name: said}
    with pytest.raises(ConfigError, match=name):
        Settings(**values)


@pytest.mark.parametrize("said", ["", "off", "100/10 seconds", "1 per hour", "5/second"])
def test_limits_of_rates_are_in_plain_words(said: str) -> None:
    for which in ("token", "address", "failures"):
        values: dict[str, Any] = {f"rate_limit_{which}": said}
        assert getattr(Settings(**values), f"rate_limit_{which}") == said


async def test_the_library_names_the_setting_that_an_address_is_from_and_none_for_one_that_it_was_given(tmp_path: Path) -> None:
    file = f"sqlite:///{tmp_path}/tasks.db"
    for setting, settings in (
        ("database_url", Settings(database_url="http://[")),
        ("database_url", Settings(database_url="mysql://")),
        ("redis_url", Settings(database_url=file, redis_url="redis://")),
    ):
        with pytest.raises(ConfigError, match=f"^{setting}: .*the address of"):
            async with open_tasks(settings=settings, cached=True):
                pass
    for url in ("http://[", "mysql://", "postgresql://["):
        with pytest.raises(ConfigError) as caught:
            async with open_tasks(url):
                pass
        assert not caught.value.detail.startswith("database_url")


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("", None),
        ("127.0.0.1:9100", ("127.0.0.1", 9100)),
        ("metrics.internal:65535", ("metrics.internal", 65535)),
        ("[::1]:9100", ("::1", 9100)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
    ],
)
def test_an_address_for_the_metrics_is_a_host_and_a_port(said: str, found: object) -> None:
    assert metrics_at(Settings(metrics_address=said)) == found


@pytest.mark.parametrize(
    "said",
    [
        ":9100",
        "9100",
        "localhost",
        "localhost:",
        "localhost:0",
        "localhost:65536",
        "::1:9100",
        "[::1]",
        "http://h:1",
        "h:1/metrics",
        "h :1",
    ],
)
def test_anything_else_is_no_address(said: str) -> None:
    with pytest.raises(ConfigError, match="metrics_address must be HOST:PORT"):
        Settings(metrics_address=said)


def test_metrics_that_are_off_need_no_address() -> None:
    with pytest.raises(ConfigError, match="metrics is false"):
        Settings(metrics_address="localhost:9100", metrics=False)
