"""One file per corpus: `manifest(...)`, `licence`, `source`."""
