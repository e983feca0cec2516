"""How alembic runs the revisions: on the connection that `upgrade.py` hands it."""

from alembic import context

attributes = context.config.attributes
where = {"dialect_name": attributes["dialect"]} if context.is_offline_mode() else {"connection": attributes["connection"]}
context.configure(transaction_per_migration=True, transactional_ddl=True, **where)
with context.begin_transaction():
    context.run_migrations()
