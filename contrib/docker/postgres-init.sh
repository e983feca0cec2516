#!/bin/bash
# Runs in a new database, and by hand whenever a password was changed: the roles, each with no more than it needs. psql reads the
# passwords itself, so that no list of processes shows them.
set -euo pipefail
# Of a file that it cannot read it would make an empty password, and so a role without one.
for file in /run/secrets/postgres/taskctl /run/secrets/postgres/exporter; do
    if [[ ! -r $file || ! -s $file ]]; then
        echo "$file cannot be read, or is empty, so nothing was done. When that is mended:" \
            "docker compose exec postgres bash /docker-entrypoint-initdb.d/init.sh" >&2
        exit 1
    fi
done
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\set app `cat /run/secrets/postgres/taskctl`
\set exporter `cat /run/secrets/postgres/exporter`
SELECT 'CREATE ROLE ' || name FROM (VALUES ('taskctl'), ('exporter')) AS roles (name)
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
ALTER ROLE taskctl LOGIN PASSWORD :'app';
ALTER ROLE exporter LOGIN PASSWORD :'exporter' CONNECTION LIMIT 5;
SELECT $$CREATE DATABASE taskctl OWNER taskctl TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'$$
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'taskctl') \gexec
REVOKE ALL ON DATABASE taskctl FROM PUBLIC;
GRANT pg_monitor TO exporter;
GRANT CONNECT ON DATABASE taskctl TO exporter;
\connect taskctl
CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
SQL
