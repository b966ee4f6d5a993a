"""Hashes of all audio of a manifest, remembered by size and modification time so that a second look costs nothing."""

import json
import os
import uuid
from pathlib import Path

from wavbench.upstream.audio import audio_hash
from wavbench.upstream.manifest import Manifest


def audio_hashes(manifest: Manifest, cache: Path) -> list[str]:
    """BLAKE2b of the audio file of each row, "" where it cannot be read.

    Args:
        cache: JSON file of what is known; written anew when something was not.
    """
    try:
        known = json.loads(cache.read_text())
        known = known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        known = {}
    found, new = {}, False
    for audio in manifest.table["audio"].unique():
        path = manifest.root / audio
        try:
            stat = os.stat(path)
            entry = known.get(audio)
            if not entry or entry[:2] != [stat.st_size, stat.st_mtime_ns]:
                entry, new = [stat.st_size, stat.st_mtime_ns, audio_hash(path)], True
            found[audio] = entry
        except OSError:
            found[audio] = [-1, 0, ""]
    if new:
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary = cache.with_name(f".{cache.name}.{uuid.uuid4().hex}")
        temporary.write_text(json.dumps(found))
        os.replace(temporary, cache)
    return [found[audio][2] for audio in manifest.table["audio"]]
