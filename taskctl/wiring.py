"""The composition root: which parts make a service. The only module that names implementations.

What is slow to import is imported where it is used: a local command needs no event loop, no web framework, no alembic.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

from taskctl import __version__
from taskctl.access import OWNER
from taskctl.config import Loaded, Settings, default_database, hosts_of, metrics_at, origins_of, proxies_of
from taskctl.errors import ConfigError, Unavailable, UsageError
from taskctl.log import Log
from taskctl.observe import Event, Gauges, NobodyAdmitted, Observer, Reading, ignore, unread
from taskctl.tasks import Source, TaskService

if TYPE_CHECKING:
    from aiohttp import web
    from opentelemetry.trace import TracerProvider

    from taskctl.access import AccessService
    from taskctl.cache.feed import Lease
    from taskctl.log import Step
    from taskctl.remote import Answered, RemoteTasks
    from taskctl.server.scrape import Scrape
    from taskctl.storage.backup import Counts, Restored
    from taskctl.storage.committer import Told
    from taskctl.storage.driver import Driver
    from taskctl.storage.libpq import Place
    from taskctl.storage.postgres import Postgres
    from taskctl.storage.sqlite import File
    from taskctl.tracing import Tracing

T = TypeVar("T")


@asynccontextmanager
async def open_tasks(
    url: str | None = None,
    *,
    workspace: str = "default",
    actor: str | None = None,
    source: Source = "library",
    settings: Settings | None = None,
    observer: Observer = ignore,
    checked: bool = True,
    cached: bool = False,
    token: str | None = None,
) -> AsyncIterator[TaskService]:
    """Open the tasks of a place: `sqlite:///tasks.db`, `postgresql://HOST/DATABASE`, or the `https://` address of a server.

    url: the place; without one, the `database_url` of the settings. workspace: which tasks there. actor, source: who writes,
    as the log will tell. checked: whether to see now that there are tasks to be had; otherwise the first use tells.
    cached: whether answers are remembered, as `taskctl serve` does it: for a process that lives long and reads much.
    token: for a server that asks for one; else the one in the settings' `token_file`, or what `taskctl auth login` has stored.

    Raises ConfigError for an address or a token that cannot be used, Unavailable or SchemaOutdated if there are no tasks.
    """
    settings = settings or Settings()
    url = url or settings.database_url
    tracing = _tracing(url, None) if settings.tracing else None
    if tracing is not None:
        observer = _both(observer, tracing.observe)
    if url.startswith(("http://", "https://")):
        import asyncio

        from taskctl.logins import choose, named_by, open_remote

        _require_no_workspace(workspace)
        _require_address(url, _database_setting(url, settings))
        chosen = await asyncio.to_thread(choose, url, named_by(settings, token or ""))  # it reads files, or asks the keyring
        async with open_remote(url, settings, chosen.credential, observer) as remote:
            yield tracing.around(remote) if tracing is not None else remote
    elif token is not None:
        raise ConfigError("a database asks for no token; leave it out")
    else:
        opened = _open_database(url, settings, workspace, actor, source, observer, checked=checked, cached=cached)
        async with opened as (tasks, _):
            yield tracing.around(tasks) if tracing is not None else tasks


def _tracing(url: str, provider: TracerProvider | None) -> Tracing:
    """Return what makes spans of what happens at a place. Raises ConfigError if OpenTelemetry is not installed."""
    from taskctl.tracing import Tracing

    return Tracing(__version__, "postgresql" if is_postgres(url) else "sqlite", provider)


@asynccontextmanager
async def _open_database(
    url: str,
    settings: Settings,
    workspace: str,
    actor: str | None,
    source: Source,
    observer: Observer,
    *,
    checked: bool,
    cached: bool,
    gauges: Gauges = unread,
) -> AsyncIterator[tuple[TaskService, Driver]]:
    """Open the tasks of a database, and give the database itself with them, for what are no tasks.

    gauges: is told what can be read of all this at any time.
    """
    from taskctl.storage.committer import Committer, nobody
    from taskctl.storage.flights import Flights
    from taskctl.storage.ledger import Ledger
    from taskctl.storage.sql import Questions, SqlTasks

    driver: Driver
    ledger: Ledger
    if is_postgres(url):
        from taskctl.storage.foresight import Foresight

        postgres, readers = _postgres(url, settings, observer)
        driver, ledger, width, file = postgres, Foresight(postgres), 2, None
        gauges("taskctl_database_connections", lambda: postgres.connections)
        gauges("taskctl_database_connection_waiters", lambda: postgres.waiters)
    else:
        from taskctl.storage.threads import READERS, ThreadedSqlite

        file = _file(url, settings, observer)
        driver, readers = ThreadedSqlite(file), READERS
        ledger, width = Ledger(driver), 1
    questions = Questions(driver)
    flights = Flights(questions, observer, width=readers, patience=max(settings.database_timeout, 1.0))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(driver.close)
        stack.push_async_callback(flights.close)
        remember: Remember = _as_it_is
        watch: Callable[[str], Told] = nobody
        if cached:
            opened = await stack.enter_async_context(_cache(questions, file, settings, observer, gauges))
            remember, watch = opened
        committer = Committer(ledger, observer, width=width, patience=settings.database_timeout, watch=watch)
        stack.push_async_callback(committer.close)
        gauges("taskctl_commit_waiting_operations", lambda: committer.waiting)
        tasks = SqlTasks(flights.ask, committer.submit, workspace=workspace, actor=actor, source=source)
        if checked:
            await tasks.ready()
        yield remember(tasks, workspace), driver


Remember: TypeAlias = "Callable[[TaskService, str], TaskService]"


def _as_it_is(tasks: TaskService, workspace: str) -> TaskService:
    """Remember nothing."""
    del workspace
    return tasks


@asynccontextmanager
async def _cache(
    log: Log, file: File | None, settings: Settings, observer: Observer, gauges: Gauges
) -> AsyncIterator[tuple[Remember, Callable[[str], Told]]]:
    """Open the memories; give what puts them before a service, and what is to be told of whatever is written.

    file: of the database, if it is one: whether somebody has written to that is known at any time.
    """
    from taskctl.cache.feed import POLL_SECONDS, Feed, Moments
    from taskctl.cache.memory import Memory
    from taskctl.cache.tasks import Cache, CachedTasks

    async with AsyncExitStack() as stack:
        shared = None
        if settings.redis_url:
            from taskctl.cache.redis import Redis

            with _value_of("redis_url"):
                shared = redis = Redis(settings.redis_url, password_file=settings.redis_password_file, observer=observer)
            gauges("taskctl_redis_breaker_open", lambda: float(redis.open))
            gauges("taskctl_redis_dropped_total", lambda: redis.dropped)
            stack.push_async_callback(shared.close)
        lease: Lease = Moments()
        if file is not None:
            from taskctl.storage.sqlite import Unmoved

            lease = stack.enter_context(closing(Unmoved(file)))
        memory = Memory(settings.cache_bytes)
        cache = Cache(memory, shared, singles=settings.redis_tasks)
        feed = Feed(log, lease, every=None if file is not None else POLL_SECONDS, observer=observer, lost=memory.clear)
        gauges("taskctl_cache_requests_total", lambda: _asked(cache.asked))
        gauges("taskctl_cache_entries", lambda: len(memory))
        gauges("taskctl_cache_bytes", lambda: memory.bytes)
        gauges("taskctl_feed_followed_workspaces", lambda: feed.workspaces)
        if file is None:  # a file is looked at when somebody asks, so nothing is missed if the lease is not held before
            gauges("taskctl_feed_lease_held", lambda: float(feed.held))
            gauges("taskctl_feed_lag_seconds", lambda: feed.lag)

        def watch(workspace: str) -> Told:
            following = feed.followed(workspace)  # of the history that the write begins in

            def told(steps: Sequence[Step]) -> None:
                try:
                    cache.written(workspace, steps, feed.written(workspace, steps, following))
                except BaseException:  # then it is not known what has changed
                    feed.forget()
                    raise

            return told

        if shared is not None:
            shared.listen(feed.wake)
        feed.start()
        try:
            yield lambda tasks, workspace: CachedTasks(tasks, workspace, feed, cache), watch
        finally:
            await feed.close()


def _asked(asked: Mapping[str, int]) -> Reading:
    """Return how often the cache was asked, by what answered and why."""
    hits = ("memory", "redis")
    return {(why, "hit") if why in hits else ("database", why): count for why, count in asked.items()}


def _postgres(url: str, settings: Settings, observer: Observer) -> tuple[Postgres, int]:
    """Return the driver of a PostgreSQL database, and how many statements that read it takes at once."""
    from taskctl.storage.postgres import Postgres

    readers, writers = settings.database_connections - (w := max(1, settings.database_connections // 3)), w
    timeout = max(settings.database_timeout, 0.1)
    return Postgres(_place(url, settings), readers=readers, writers=writers, timeout=timeout, observer=observer), readers


def is_postgres(url: str) -> bool:
    """Return whether a URL is that of a PostgreSQL database, and not of a file."""
    return url.startswith(("postgresql://", "postgres://"))


@contextmanager
def _value_of(setting: str) -> Iterator[None]:
    """Have what is wrong with a value say which setting it is the value of."""
    try:
        yield
    except ConfigError as e:
        raise e.of(setting) from None


def _database_setting(url: str, settings: Settings) -> str:
    """Return the name of the setting that an address is from; nothing if the program itself has given it."""
    return "database_url" if url == settings.database_url else ""


def _require_address(url: str, setting: str) -> None:
    """Raise ConfigError for what is no address of a server. setting: the one that it is from, if any."""
    from taskctl.remote import api_address

    with _value_of(setting):
        api_address(url)


@asynccontextmanager
async def _open_remote(url: str, loaded: Loaded, observer: Observer, *, checked: bool = True) -> AsyncIterator[RemoteTasks]:
    """Open the server of a command. checked: whether to see first that it shows us the workspace that was named, if one was."""
    from taskctl.logins import choose, open_remote

    _require_address(url, "server")
    async with open_remote(url, loaded.settings, choose(url, loaded.tokens).credential, observer) as remote:
        if checked and loaded.workspace is not None:
            await remote.require_workspace(loaded.workspace)
        yield remote


@asynccontextmanager
async def _open_inline(settings: Settings, actor: str | None, source: Source, observer: Observer) -> AsyncIterator[TaskService]:
    """Open a database for one command: nothing in it suspends, so no event loop is needed."""
    from taskctl.storage.ledger import Ledger
    from taskctl.storage.sql import Questions, SqlTasks
    from taskctl.storage.sqlite import InlineSqlite

    driver = InlineSqlite(_file(settings.database_url, settings, observer))
    ask, submit = Questions(driver).answer, Ledger(driver).submit
    try:
        yield SqlTasks(ask, submit, workspace=settings.workspace, actor=actor, source=source)
    finally:
        await driver.close()


def run_command(
    command: Callable[[TaskService], Coroutine[Any, Any, T]],
    loaded: Loaded,
    *,
    actor: str | None,
    source: Source = "cli",
    observer: Observer = ignore,
) -> T:
    """Run a command on the tasks that the settings name, local or remote, and return what it returns."""
    settings = loaded.settings

    async def remote(url: str) -> T:
        async with _open_remote(url, loaded, observer) as tasks:
            return await command(tasks)

    async def database() -> T:
        url, workspace = settings.database_url, settings.workspace
        opened = _open_database(url, settings, workspace, actor, source, observer, checked=False, cached=False)
        async with opened as (tasks, _):
            return await command(tasks)

    async def local() -> T:
        async with _open_inline(settings, actor, source, observer) as tasks:
            return await command(tasks)

    if url := loaded.remote:
        import asyncio

        return asyncio.run(remote(url))
    if is_postgres(settings.database_url):
        import asyncio

        return asyncio.run(database())

    from taskctl.storage.sqlite import drive

    return drive(local())


def _require_no_workspace(workspace: str) -> None:
    from taskctl.remote import NOT_THEIRS

    if workspace != "default":
        raise ConfigError(NOT_THEIRS)


def run_access(
    command: Callable[[AccessService], Coroutine[Any, Any, T]], loaded: Loaded, *, actor: str | None, observer: Observer = ignore
) -> T:
    """Run a command on the tokens and workspaces of the database or the server that the settings name.

    Whoever has the database may do everything with it. Raises Unavailable, SchemaOutdated, and what the command does.
    """
    if url := loaded.remote:
        import asyncio

        from taskctl.remote import RemoteAccess

        async def remote(url: str) -> T:
            # Here the workspace that is named is the one whose tokens are meant.
            async with _open_remote(url, loaded, observer, checked=False) as tasks:
                return await command(RemoteAccess(tasks))

        return asyncio.run(remote(url))

    from taskctl.storage.tokens import SqlTokens

    async def database(driver: Driver) -> T:
        tokens = SqlTokens(driver)
        await tokens.ready()
        return await command(tokens.access(OWNER._replace(name=actor)))

    return _run_on_database(database, loaded.settings)


def call_api(
    loaded: Loaded, method: str, path: str, headers: Sequence[tuple[str, str]], body: bytes | None, observer: Observer = ignore
) -> Answered:
    """Send a request to the server that the settings name, as it is, and return its answer, whatever it is."""
    import asyncio

    async def call(url: str) -> Answered:
        async with _open_remote(url, loaded, observer) as remote:
            return await remote.raw(method, path, headers, body)

    if not loaded.remote:
        raise UsageError("this speaks to a server, and none is named: --server http://HOST:PORT, or TASKCTL_SERVER")
    return asyncio.run(call(loaded.remote))


def database_path(url: str) -> Path:
    """Return the file that a `sqlite:///` URL names: three slashes for a relative path, four for an absolute one."""
    if not url:
        return default_database()
    try:
        parts = urlsplit(url)
    except ValueError:  # half of a bracket
        parts = urlsplit("")
    if parts.scheme != "sqlite":
        raise ConfigError(
            f"{_shown(url)} is not the address of a database; sqlite:///PATH or postgresql://HOST/DATABASE was expected"
        )
    if parts.netloc or not parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigError(f"{_shown(url)} names no file; sqlite:///PATH was expected (four slashes for an absolute PATH)")
    path = unquote(parts.path.removeprefix("/"))
    if path == ":memory:" or "\0" in path:  # each connection would have a memory of its own
        raise ConfigError(f"{_shown(url)} names no file; sqlite:///PATH was expected")
    return Path(path)


def shown_database(settings: Settings) -> str:
    """Return the address of the database as it may be shown."""
    if is_postgres(settings.database_url):
        return _place(settings.database_url, settings).shown
    return f"sqlite:///{database_path(settings.database_url)}"


def _shown(url: str) -> str:
    """Return an address that is not understood as it may be shown: not at all if there may be a password in it."""
    return "what was given" if "@" in url or "password" in url.lower() else url


def _place(url: str, settings: Settings) -> Place:
    from taskctl.storage.libpq import place

    with _value_of(_database_setting(url, settings)):
        return place(url, settings.database_password_file)


def _file(url: str, settings: Settings, observer: Observer) -> File:
    from taskctl.storage.sqlite import File

    with _value_of(_database_setting(url, settings)):
        path = database_path(url)
    if not url:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as e:
            raise Unavailable(f"the folder {path.parent} cannot be made: {e.strerror}") from e
    return File(path, synchronous=settings.sqlite_synchronous, timeout=settings.database_timeout, observer=observer)


def upgrade(settings: Settings) -> tuple[str | None, str]:
    """Bring the database's schema to this version; return the revisions before and after."""
    from taskctl.storage.migrations.upgrade import upgrade_postgres, upgrade_sqlite

    if is_postgres(settings.database_url):
        return upgrade_postgres(_place(settings.database_url, settings))
    return upgrade_sqlite(_file(settings.database_url, settings, ignore))


def upgrade_statements(settings: Settings) -> str:
    """Return the SQL that `upgrade` would run on the database as it is now. Nothing is run."""
    from taskctl.storage.migrations.upgrade import statements

    return statements("postgresql" if is_postgres(settings.database_url) else "sqlite", current(settings)[0])


def check(settings: Settings) -> dict[str, str]:
    """Examine the database, and return what was found under each heading; "ok" where nothing is wrong."""
    from taskctl.storage.checks import check_postgres, check_sqlite

    if not is_postgres(settings.database_url):
        return check_sqlite(_file(settings.database_url, settings, ignore))
    revision, _ = current(settings)
    return _run_on_database(lambda driver: check_postgres(driver, revision), settings)


def backup(settings: Settings, file: str, progress: Callable[[int, int], None]) -> Counts:
    """Write all that is in the database, at one moment, to a new file ("-": to stdout), and return how much that was.

    progress is told how many rows more are done, and how many there are in all.
    """
    from taskctl.storage.backup import backup, writing

    if not is_postgres(settings.database_url) and current(settings)[0] is None:
        raise Unavailable(f"there is no database {database_path(settings.database_url)} yet")
    with writing(file) as write:
        return _run_on_database(lambda driver: backup(driver, write, progress), settings)


def restore(settings: Settings, file: str, progress: Callable[[int, int], None], *, force: bool) -> Restored:
    """Fill the database with what is in a backup ("-": on stdin), and return how much that was.

    The tables are made if there are none. force: replace what is in the database; without it that raises Conflict.
    """
    from taskctl.storage.backup import reading, restore

    with reading(file) as source:
        if is_postgres(settings.database_url) and current(settings)[0] is None:
            upgrade(settings)
        return _run_on_database(lambda driver: restore(driver, source, progress, force=force), settings)


def _run_on_database(command: Callable[[Driver], Coroutine[Any, Any, T]], settings: Settings) -> T:
    """Run a command on the database as such, and return what it returns."""

    async def run(driver: Driver) -> T:
        try:
            return await command(driver)
        finally:
            await driver.close()

    async def postgres() -> T:
        return await run(_postgres(settings.database_url, settings, ignore)[0])

    if is_postgres(settings.database_url):
        import asyncio

        return asyncio.run(postgres())

    from taskctl.storage.sqlite import InlineSqlite, drive

    return drive(run(InlineSqlite(_file(settings.database_url, settings, ignore))))


def current(settings: Settings) -> tuple[str | None, str]:
    """Return the revision of the database's schema (None if it is empty or not there yet), and the one that is needed."""
    from taskctl.storage.checks import revision_of
    from taskctl.storage.migrations import HEAD

    if is_postgres(settings.database_url):
        return _place(settings.database_url, settings).revision(), HEAD
    return revision_of(_file(settings.database_url, settings, ignore)), HEAD


def create_app(settings: Settings | None = None) -> web.Application:
    """Return the API as an aiohttp application, to be served or mounted in another one with `add_subapp`.

    It opens its database when it starts and closes it when it is cleaned up; it touches no signal, logger or event loop.
    """
    return build_app(settings or Settings(), ignore)


def build_app(settings: Settings, observer: Observer, provider: TracerProvider | None = None) -> web.Application:
    """Return the API over the settings' database, with what happens in it told to the observer.

    provider: takes the spans, where there is tracing; None: the one that the program has set.
    """
    from taskctl.server.admission import Opened
    from taskctl.server.app import make_app
    from taskctl.server.doors import Doors
    from taskctl.server.requests import STATE
    from taskctl.storage.census import Census
    from taskctl.storage.tokens import SqlTokens

    metrics = None
    if settings.metrics:
        from taskctl.metrics import Metrics

        metrics = Metrics(__version__)
        observer = _both(metrics.observe, observer)
    tracing = None
    if settings.tracing:
        tracing = _tracing(settings.database_url, provider)
        observer = _both(observer, tracing.observe)
    rates = None
    if settings.auth == "tokens":
        from taskctl.server.rates import Rates

        rates = Rates(token=settings.rate_limit_token, address=settings.rate_limit_address, failures=settings.rate_limit_failures)
    doors = Doors(
        host=settings.host,
        hosts=hosts_of(settings),
        origins=origins_of(settings),
        proxies=proxies_of(settings),
        https=bool(settings.tls_cert),
        rates=rates,
    )

    @asynccontextmanager
    async def opened() -> AsyncIterator[Opened]:
        url, workspace, cached = settings.database_url, settings.workspace, settings.cache_bytes > 0
        checked = settings.migrate != "off"
        gauges = metrics.gauges if metrics is not None else unread
        database = _open_database(url, settings, workspace, None, "api", observer, checked=checked, cached=cached, gauges=gauges)
        async with AsyncExitStack() as stack:
            tasks, driver = await stack.enter_async_context(database)
            if metrics is not None:
                census = Census(driver, observer)
                metrics.wanted(census.want)
                await stack.enter_async_context(census.counting())
                await stack.enter_async_context(metrics.sampling())
            tokens = SqlTokens(driver, observer) if settings.auth == "tokens" else None
            if tokens is not None and checked:
                await tokens.ready()
                if not await tokens.usable():
                    observer(NobodyAdmitted())
            yield Opened(tracing.around(tasks) if tracing is not None else tasks, workspace, tokens)

    at = metrics_at(settings)
    scrape = metrics.scrape if metrics is not None and at is None else None
    app = make_app(opened, observer, doors, scrape, tracing.observe if tracing is not None else None)
    if metrics is not None:
        metrics.gauges("http_server_active_requests", lambda: app[STATE].in_flight)
        if at is not None:
            app.cleanup_ctx.append(_alone(metrics.scrape, *at))
    return app


def _both(first: Observer, second: Observer) -> Observer:
    """Return an observer that tells two."""
    if first is ignore or second is ignore:
        return first if second is ignore else second

    def observe(event: Event) -> None:
        first(event)
        second(event)

    return observe


def _alone(scrape: Scrape, host: str, port: int) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return what serves the metrics at an address of their own while an application runs."""
    from taskctl.server.serve import serving_alone

    async def serving(app: web.Application) -> AsyncIterator[None]:
        del app
        async with serving_alone(scrape, host, port):
            yield

    return serving


def open_to_strangers(settings: Settings) -> bool:
    """Return whether the server will do for everybody who can reach it, from other machines, what they ask for.

    Raises ConfigError if that has not been allowed.
    """
    from taskctl.server.serve import is_loopback

    if settings.auth != "none":
        return False
    for name, many in (("cors_origins", origins_of(settings)), ("allowed_hosts", hosts_of(settings))):
        if "*" in many and not settings.allow_anonymous:
            raise ConfigError(
                f"{name} is *, and so every page in a browser that can reach the server could read and change all tasks: --auth "
                f"tokens lets in who has a token, --allow-anonymous everybody; or name those that are meant"
            )
    if is_loopback(settings.host):
        return False
    if not settings.allow_anonymous:
        raise ConfigError(
            f"{settings.host or 'the empty host'} can be reached from other machines, and whoever is there could read and change "
            "all tasks: --auth tokens lets in who has a token, --host 127.0.0.1 only this machine, --allow-anonymous everybody"
        )
    return True


def tokens_in_the_clear(settings: Settings) -> bool:
    """Return whether tokens come to the server from other machines as others on the way can read them, as far as is known."""
    from taskctl.server.serve import is_loopback

    encrypted = settings.tls_cert or settings.trusted_proxies  # which speak TLS, or are asked to
    return settings.auth == "tokens" and not encrypted and not is_loopback(settings.host)


async def serve(settings: Settings, *, observer: Observer, started: Callable[[str], None]) -> bool:
    """Serve the API until a signal says stop, and return whether that was somebody's ctrl-C."""
    from taskctl.server.serve import serve

    async with AsyncExitStack() as stack:
        provider = None
        if settings.tracing:
            from taskctl.tracing import exporting

            provider = await stack.enter_async_context(exporting(__version__))
        return await serve(
            build_app(settings, observer, provider),
            host=settings.host,
            port=settings.port,
            drain_seconds=settings.drain_seconds,
            tls=(settings.tls_cert, settings.tls_key) if settings.tls_cert else None,
            started=started,
        )
