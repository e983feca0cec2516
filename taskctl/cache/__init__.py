"""Caches between the server and the database. None of them is ever the truth, and none of them has to be there."""
