"""One file per family: `Config`, a module, `build`, `presets`. A file here is an entry; nothing else lives here."""
