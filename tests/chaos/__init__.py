"""Kills worker and producer processes at any moment and counts what that broke. Run by `python -m tests.chaos`."""
