"""Where the tokens for servers are kept between commands: in the system's keyring, or in a file that only their user can read.

A token is kept for one origin, and found by that alone. `credentials.json` lists the origins; it also holds the tokens that are
in no keyring.
"""

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from yarl import URL

from taskctl.access import id_of
from taskctl.errors import ConfigError, Unavailable

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

SERVICE: Final = "taskctl"
"""What the entries in the keyring are called; their users are the origins."""
NAME: Final = "credentials.json"
_NEW: Final = f"{NAME}.new"
_LOCK: Final = "credentials.lock"
_MOST_BYTES: Final = 1024 * 1024
"""More than this is no list of tokens."""


class Credential(msgspec.Struct, frozen=True):
    """A token, and where it is from, in words."""

    secret: str
    source: str

    def __repr__(self) -> str:
        return f"Credential({id_of(self.secret)!r}, {self.source!r})"


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is kept for an origin: the address that was logged in to, and the token, unless it is in the keyring."""

    url: str
    token: str = ""
    keyring: bool = False

    def __repr__(self) -> str:
        return f"Entry({self.url!r})"


class _File(msgspec.Struct, forbid_unknown_fields=True):
    servers: dict[str, Entry]


def origin_of(url: str) -> str:
    """Return scheme, host and port of an address, always written the same way. Raises ValueError for one that has none."""
    return str(URL(url).origin())


def token_in(text: str, where: str) -> str:
    """Return the token that a text is, apart from space around it. Raises ConfigError if it is none; it is not repeated."""
    token = text.strip()
    if id_of(token) is None:
        raise ConfigError(f"{where} holds no token: tc_api_... was expected, and a character is wrong or missing")
    return token


def read_token(file: str, where: str) -> str:
    """Return the token in a file. where: what named the file.

    Raises ConfigError if there is none, or if others may read the file, unless that is on a file system that is mounted
    read-only: so containers get their secrets, with owners and modes that are not theirs to change.
    """
    try:
        with open(file, "rb") as opened:  # noqa: PTH123  # what counts is the file that is open
            found = os.fstat(opened.fileno())
            if sys.platform != "win32" and not os.fstatvfs(opened.fileno()).f_flag & os.ST_RDONLY:
                theirs = found.st_mode & (0o077 if found.st_uid == os.geteuid() else 0o007)
                if theirs:
                    mode = stat.S_IMODE(found.st_mode)
                    raise ConfigError(f"{where}: others may read {file} (it is {mode:04o}); chmod 600 {file}")
            text = opened.read(_MOST_BYTES).decode("ascii", "replace")
    except OSError as e:
        raise ConfigError(f"{where}: {file} cannot be read: {e.strerror}") from None
    return token_in(text, f"{where}: {file}")


class Credentials:
    """The tokens that are kept in a folder of the user's, and in the keyring.

    Every method raises ConfigError for a file or folder that is not safe, or damaged, and Unavailable where the system fails.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / NAME

    def entries(self) -> Mapping[str, Entry]:
        """Return what is kept, by origin."""
        with self._opened(make=False) as folder:
            return {} if folder is None else self._read(folder)

    def find(self, origin: str) -> Credential | None:
        """Return the token that is kept for an origin, None if there is none."""
        entry = self.entries().get(origin)
        if entry is None:
            return None
        if not entry.keyring:
            return Credential(entry.token, str(self._path))
        keyring = _keyring()
        if keyring is None:
            raise ConfigError(
                f"the token for {origin} is in the system's keyring, which cannot be used here; `taskctl auth login {origin}`"
            )
        with _unlocked(keyring):
            secret = keyring.get_password(SERVICE, origin)
        return None if secret is None else Credential(token_in(secret, _called(keyring)), _called(keyring))

    def keep(self, url: str, secret: str) -> str:
        """Keep a token for the origin of an address, in place of the one before, and return where it is now."""
        origin, keyring = origin_of(url), _keyring()
        if keyring is None:
            entry = Entry(url, token=secret)
        else:
            entry = Entry(url, keyring=True)
            with self._opened(make=True) as folder:  # before the keyring has a token that nothing would lead to
                assert folder is not None
                self._read(folder)
            with _unlocked(keyring):
                keyring.set_password(SERVICE, origin, secret)
        self._change(lambda servers: servers.update({origin: entry}))
        return str(self._path) if keyring is None else _called(keyring)

    def drop(self, origin: str) -> bool:
        """Forget the token for an origin, and return whether there was one."""
        entry = self.entries().get(origin)
        if entry is None:
            return False
        self._change(lambda servers: servers.pop(origin, None))
        keyring = _keyring() if entry.keyring else None
        if keyring is not None:
            with _unlocked(keyring):
                if keyring.get_password(SERVICE, origin) is not None:
                    keyring.delete_password(SERVICE, origin)
        return True

    @contextmanager
    def _opened(self, *, make: bool) -> Iterator[int | None]:
        """Open the folder, so that it stays the same one; None if it is not there."""
        if sys.platform == "win32":
            if make:
                raise ConfigError("tokens are not stored on this system; TASKCTL_TOKEN holds one, token_file names a file")
            yield None
            return
        try:
            if make:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            yield None
            return
        except OSError as e:
            if self._folder.is_symlink():
                raise _unsafe(self._folder, "is a symbolic link; put a folder in its place") from None
            raise Unavailable(f"{self._folder} cannot be used: {e.strerror}") from None
        try:
            _require_own(folder, self._folder, 0o022, "others may write into it", "chmod 700")
            yield folder
        finally:
            os.close(folder)

    def _read(self, folder: int) -> dict[str, Entry]:
        try:
            # Without blocking: somebody could have put a pipe there.
            file = os.open(NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            return {}
        except OSError as e:
            if e.errno in (errno.ELOOP, errno.EMLINK):
                raise _unsafe(self._path, "is a symbolic link; put the file itself in its place") from None
            raise ConfigError(f"{self._path} cannot be read: {e.strerror}") from None
        with open(file, "rb") as opened:  # noqa: PTH123  # it is a descriptor
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise _unsafe(self._path, "is not a file; remove it")
            _require_own(file, self._path, 0o077, "others may read it", "chmod 600")
            raw = opened.read(_MOST_BYTES)
        try:
            servers = msgspec.json.decode(raw, type=_File).servers
            fine = all(
                origin_of(entry.url) == origin
                and (entry.keyring if not entry.token else id_of(entry.token) and not entry.keyring)
                for origin, entry in servers.items()
            )
        except ValueError:
            fine = False
        if not fine:
            raise ConfigError(f"{self._path} is damaged, and is left as it is; mend it, or remove it and log in again")
        return servers

    def _change(self, change: Callable[[dict[str, Entry]], object]) -> None:
        """Change what is kept, all at once, after any other process that is about to."""
        with self._opened(make=True) as folder:
            assert folder is not None
            try:
                lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    servers = self._read(folder)
                    change(servers)
                    _write(folder, msgspec.json.format(msgspec.json.encode(_File(servers)), indent=2) + b"\n")
                finally:
                    os.close(lock)
            except OSError as e:
                raise Unavailable(f"{self._path} cannot be written: {e.strerror}") from None


def _write(folder: int, data: bytes) -> None:
    """Put a new file in the place of the one before. Whoever calls has the lock."""
    with suppress(FileNotFoundError):
        os.unlink(_NEW, dir_fd=folder)  # of somebody who was stopped here
    new = os.open(_NEW, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        with open(new, "wb") as file:  # noqa: PTH123  # it is a descriptor
            file.write(data)
            file.flush()
            os.fsync(new)
        os.rename(_NEW, NAME, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(_NEW, dir_fd=folder)
        raise
    os.fsync(folder)


def _require_own(opened: int, path: Path, forbidden: int, why: str, remedy: str) -> None:
    found = os.fstat(opened)
    if found.st_uid != os.geteuid():
        raise _unsafe(path, "belongs to another user; remove it")
    if found.st_mode & forbidden:
        raise _unsafe(path, f"has the mode {stat.S_IMODE(found.st_mode):04o}: {why}; {remedy} {path}")


def _unsafe(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path} is not safe for tokens: it {why}")


def _keyring() -> "KeyringBackend | None":
    """Return the system's keyring, None if none keeps secrets. Raises ConfigError for one that is set up wrongly."""
    try:
        import keyring
        from keyring.backends.chainer import ChainerBackend
    except ImportError:
        return None
    try:
        found = keyring.get_keyring()
        # Of several, the chain would also take one that keeps plain text.
        each = found.backends if isinstance(found, ChainerBackend) else [found]
        return next((one for one in each if one.priority >= 1), None)  # what the package itself calls recommended
    except Exception as e:  # whatever a backend, or the module that the user has named, may raise
        raise ConfigError(f"the keyring cannot be used: {e}") from None


def _called(keyring: "KeyringBackend") -> str:
    return f"the keyring ({keyring.name})"


@contextmanager
def _unlocked(keyring: "KeyringBackend") -> Iterator[None]:
    """Tell what a keyring raises meanwhile. Backends raise what they like, also their systems' own errors."""
    try:
        yield
    except Exception as e:
        raise Unavailable(f"{_called(keyring)} fails: {' '.join(str(e).split()) or type(e).__name__}") from None
