"""What was imported: the description that lies beside a manifest, and its rows in numbers."""

import json
from pathlib import Path

import pandas as pd

from wavbench.upstream.manifest import Manifest
from wavbench.upstream.row_checks import COLUMNS, SPLITS

DESCRIPTION_BYTES = 1 << 20  # a larger file is no description
KINDS = {"corpus": str, "part_of": str, "text": str, "root": str, "options": dict, "lexicon": dict}  # of its values


def description_of(manifest: Path) -> dict:
    """What an import wrote of a manifest; {} where there is nothing or it is broken."""
    try:
        path = manifest.with_suffix(".json")
        found = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size < DESCRIPTION_BYTES else {}
        sound = isinstance(found, dict) and all(isinstance(found.get(k) or kind(), kind) for k, kind in KINDS.items())
        return found if sound else {}
    except (OSError, ValueError, RecursionError):
        return {}


def names_of(manifest: Manifest) -> set[str]:
    """What the corpus of a manifest is called: by its file, and by the import that made it, or the synthesiser."""
    found, built = description_of(manifest.path), built_in(manifest).get("corpus")
    names = (found.get("corpus"), found.get("part_of"), built if isinstance(built, str) else "")
    return {manifest.name, *filter(None, names)}


def built_in(manifest: Manifest) -> dict:
    """What the built-in corpus says of itself where its folder is the manifest's (corpus.json); {} elsewhere."""
    try:
        found = json.loads((manifest.root / "corpus.json").read_text(encoding="utf-8"))
        return found if isinstance(found, dict) and found.get("synthetic") is True else {}
    except (OSError, ValueError, RecursionError):
        return {}


def statistics(table: pd.DataFrame) -> list[str]:
    """Utterances, hours, speakers and labels of each split as the lines of a table."""
    labels = [name for name in table if name not in (*COLUMNS, "raw_text") or name in ("language", "emotion")]
    labels = [name for name in labels if 1 < table[name].nunique() <= 200]
    lines = [["split", "utterances", "hours", *(["speakers"] if "speaker" in table else []), *labels]]
    for split in (*SPLITS, ""):
        part = table[table["split"] == split]
        if len(part):
            hours = pd.to_numeric(part["duration"], errors="coerce").sum() / 3600
            speakers = [str(part["speaker"].nunique())] if "speaker" in table else []
            counts = [f"{part[name][part[name] != ''].nunique()} values" for name in labels]
            lines.append([split or "none", f"{len(part):,}", f"{hours:.2f}", *speakers, *counts])
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
