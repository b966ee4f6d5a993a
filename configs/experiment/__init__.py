"""One YAML per sweep."""
