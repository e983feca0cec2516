"""The tests. `contract/` holds what every kind of TaskService promises; the rest is about one module each."""
