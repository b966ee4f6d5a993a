"""One file per task: `target()` and `task`."""
