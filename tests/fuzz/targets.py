"""All targets by name; `target.py` says what one is."""

from tests.fuzz import configs, readers, runs

TARGETS = readers.TARGETS | configs.TARGETS | runs.TARGETS
