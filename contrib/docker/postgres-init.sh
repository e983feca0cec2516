#!/bin/bash
# Runs once, in a new database: the roles, each with no more than it needs. psql reads the passwords itself, so that no list of
# processes shows them.
set -euo pipefail
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\set app `cat /run/secrets/postgres/taskctl`
\set exporter `cat /run/secrets/postgres/exporter`
CREATE ROLE taskctl LOGIN PASSWORD :'app';
CREATE DATABASE taskctl OWNER taskctl TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C';
REVOKE ALL ON DATABASE taskctl FROM PUBLIC;
CREATE ROLE exporter LOGIN PASSWORD :'exporter' CONNECTION LIMIT 5;
GRANT pg_monitor TO exporter;
GRANT CONNECT ON DATABASE taskctl TO exporter;
\connect taskctl
CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
SQL
