"""Language models: made, read, searched with, and their weights chosen on dev."""
