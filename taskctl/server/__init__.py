"""The API: a `TaskService` over HTTP."""
