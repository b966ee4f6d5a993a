"""One YAML per checkpoint on the board."""
