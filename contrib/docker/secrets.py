"""Make the secrets of the compose file, each once, into a volume for each of those who need them.

    python secrets.py ROOT MOUNTED [--renew NAME...]

A folder below ROOT is a volume that only one kind of service mounts, so files in it can be read by whatever user that service
runs as, and by nobody else. What is there stays: after `docker compose down` without `-v`, passwords are the same.

MOUNTED is what services mount of the clone; whether they will be able to read it is seen here, before anything is set up without
it. --renew: which secrets are made anew; docs/deployment.md says who is to be told then.
"""

import argparse
import json
import secrets
import sys
from pathlib import Path

SECRETS = {
    "database": "postgres/taskctl",
    "superuser": "postgres/superuser",
    "postgres-exporter": "postgres/exporter",
    "redis": "taskctl/redis",
    "redis-admin": "redis/admin",
    "redis-exporter": "redis/exporter",
    "grafana": "grafana/admin",
}
REDIS = """\
# The health check may ask whether it lives, and nothing else.
user default on nopass resetkeys resetchannels -@all +ping
user admin on >{admin} ~* &* +@all
user taskctl on >{app} ~taskctl:* &taskctl:* -@all +ping +mget +getrange +set +eval +evalsha +script|load +publish +subscribe \
+unsubscribe +scan +unlink +client -client|kill -client|pause -client|unpause -client|unblock +hello +auth +select
user exporter on >{exporter} resetkeys -@all +ping +info +client -client|kill -client|pause -client|unpause -client|unblock \
+slowlog|get +slowlog|len +latency|latest +latency|histogram +config|get +hello +auth +select +dbsize +cluster|info
protected-mode no
bind * -::*
maxmemory-policy allkeys-lru
save ""
appendonly no
"""


def main(root: Path, renewed: list[str]) -> None:
    """Write what is missing, and what is to be renewed."""
    for name in renewed:
        write(root / SECRETS[name], new())
    made = {name: secret(root / path) for name, path in SECRETS.items()}
    # The same once more, as those read it who show it.
    write(root / "taskctl/database", made["database"])
    write(root / "postgres-exporter/password", made["postgres-exporter"])
    asked_for = ("redis://exporter@redis:6379", "redis://redis:6379")  # as the exporter's versions look it up
    write(root / "redis-exporter/passwords.json", json.dumps(dict.fromkeys(asked_for, made["redis-exporter"])))
    rules = REDIS.format(app=made["redis"], admin=made["redis-admin"], exporter=made["redis-exporter"])
    write(root / "redis/redis.conf", rules)
    # The first token is put here by another service, once there is a database; it runs as nobody in particular.
    (root / "token").chmod(0o1777)


def secret(path: Path) -> str:
    """Return the secret in a file; make it if it is not there."""
    if not path.exists():
        write(path, new())
    return path.read_text("utf-8")


def new() -> str:
    """Return a secret that nobody can guess."""
    return secrets.token_urlsafe(32)


def write(path: Path, text: str) -> None:
    """Write a file as a whole, for the service that has its volume to read."""
    part = path.with_name(f".{path.name}")
    part.write_text(text, "utf-8")
    part.chmod(0o444)
    part.rename(path)


def unreadable(folder: Path) -> Path | None:
    """Return something in a folder that not everybody may read, None if all of it may be."""
    for path in (folder, *sorted(folder.rglob("*"))):
        try:
            needed = 0o005 if path.is_dir() else 0o004
            if path.stat().st_mode & needed != needed:
                return path
        except PermissionError:
            return path
    return None


parser = argparse.ArgumentParser()
parser.add_argument("root", type=Path)
parser.add_argument("mounted", type=Path)
parser.add_argument("--renew", nargs="+", choices=list(SECRETS), default=[])
given = parser.parse_args()
if (found := unreadable(given.mounted)) is not None:
    kept = Path("contrib", found.relative_to(given.mounted))
    sys.exit(f"{kept} can be read by its owner only, and services run as other users: chmod -R go+rX contrib")
main(given.root, given.renew)
