"""`python -m taskctl` is `taskctl`."""

from taskctl.cli import main

main()
