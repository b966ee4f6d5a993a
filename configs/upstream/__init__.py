"""One file per checkpoint on the board."""
