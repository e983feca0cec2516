"""Tasks in a database. `sql.py` says every statement once; a driver runs them on its kind of database."""
