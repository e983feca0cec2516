"""Make the secrets of the compose file, each once, into a volume for each of those who need them.

A folder below the given one is a volume that only one kind of service mounts, so files in it can be read by whatever user that
service runs as, and by nobody else. What is there stays: after `docker compose down` without `-v`, passwords are the same.
"""

import json
import secrets
import sys
from pathlib import Path

REDIS = """\
# The health check may ask whether it lives, and nothing else.
user default on nopass resetkeys resetchannels -@all +ping
user taskctl on >{app} ~taskctl:* &taskctl:* -@all +ping +mget +getrange +set +eval +evalsha +script|load +publish +subscribe \
+unsubscribe +scan +unlink +client -client|kill -client|pause -client|unpause -client|unblock +hello +auth +select
user exporter on >{exporter} resetkeys -@all +ping +info +client -client|kill -client|pause -client|unpause -client|unblock \
+slowlog|get +slowlog|len +latency|latest +latency|histogram +config|get +hello +auth +select +dbsize +cluster|info
protected-mode no
bind * -::*
maxmemory 192mb
maxmemory-policy allkeys-lru
save ""
appendonly no
"""


def main(root: Path) -> None:
    """Write what is missing."""
    database, exporter_database = secret(root / "postgres/taskctl"), secret(root / "postgres/exporter")
    secret(root / "postgres/superuser")
    write(root / "taskctl/database", database)
    write(root / "postgres-exporter/password", exporter_database)
    redis, exporter_redis = secret(root / "taskctl/redis"), secret(root / "redis/exporter")
    passwords = dict.fromkeys(("redis://exporter@redis:6379", "redis://redis:6379"), exporter_redis)  # as its versions look it up
    write(root / "redis-exporter/passwords.json", json.dumps(passwords))
    write(root / "redis/redis.conf", REDIS.format(app=redis, exporter=exporter_redis))
    secret(root / "grafana/admin")
    # The first token is put here by another service, once there is a database; it runs as nobody in particular.
    (root / "token").chmod(0o1777)


def secret(path: Path) -> str:
    """Return the secret in a file; make it if it is not there."""
    if not path.exists():
        write(path, secrets.token_urlsafe(32))
    return path.read_text("utf-8")


def write(path: Path, text: str) -> None:
    """Write a file as a whole, for the service that has its volume to read."""
    part = path.with_name(f".{path.name}")
    part.write_text(text, "utf-8")
    part.chmod(0o444)
    part.rename(path)


main(Path(sys.argv[1]))
