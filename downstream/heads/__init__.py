"""One file per head: a module and `build`."""
