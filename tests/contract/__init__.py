"""What a TaskService promises, whichever it is. These tests use nothing else of it, and hold for every stack of `stacks.py`."""
