"""Two levels of memory in front of a `TaskService`, and the log that tells what of it still holds."""
