"""Find damage in a feature store."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import h5py

from wavbench.upstream.errors import UserError
from wavbench.upstream.shards import NAME, content_hash, own_dataset, read_rows
from wavbench.upstream.store import Fingerprint, read_header

LOOK_SECONDS = 300.0  # for the utterances of one damaged shard, which take seconds unless HDF5 hangs


def verify(path: Path | str, progress=None) -> list[str]:
    """Check every byte of every shard, and every utterance's hash in those that fail.

    Args:
        progress: called with (shards done, shards).

    Returns:
        One sentence per damaged thing; an empty list means that all is well.
    """
    path = Path(path)
    fingerprint, _ = read_header(path)
    shards, damage = sorted((path / "shards").glob("*.h5")), []
    for number, shard in enumerate(shards):
        match = NAME.match(shard.name)
        if match is None:
            damage.append(f"{shard.name}: no name of a shard")
            continue
        with open(shard, "rb") as file:
            intact = hashlib.file_digest(file, "sha256").hexdigest()[:32] == match["sha"]
        if not intact:
            bad = _look_into(shard, fingerprint)
            damage.append(f"{shard.name}: its bytes have changed ({bad})")
        if progress:
            progress(number + 1, len(shards))
    if (path / "features.h5").exists():
        try:
            with h5py.File(path / "features.h5", "r") as file:
                linked = {file.get(f"shards/{n}", getlink=True).filename.split("/")[-1] for n in file["shards"]}
                missing = linked - {shard.name for shard in shards}
                damage += [f"{name}: the index names it, but it is missing" for name in sorted(missing)]
        except (OSError, KeyError, RuntimeError) as error:
            damage.append(f"features.h5: cannot be read ({error}); `wavbench store seal` writes it anew")
    return damage


def _look_into(shard: Path, fingerprint: Fingerprint) -> str:
    """`damaged_utterances` in a process of its own: one wrong bit in its metadata can hang or crash HDF5."""
    code = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from wavbench.upstream import verify; "
    code += "print(verify.damaged_utterances(*sys.argv[2:]))"
    arguments = [json.dumps(sys.path), str(shard), fingerprint.kind, fingerprint.dtype]
    try:
        child = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=LOOK_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"its tables cannot be read: HDF5 has not come back after {LOOK_SECONDS:g} s"
    return child.stdout.strip() or f"its tables cannot be read: HDF5 ended with code {child.returncode}"


def damaged_utterances(shard: Path | str, kind: str, dtype: str) -> str:
    """Which utterances of a changed shard no longer have their hash, as a phrase."""
    shard = Path(shard)
    try:
        table = read_rows(shard)
        bad = []
        with h5py.File(shard, "r") as file:
            for place, (id, offset, length) in enumerate(zip(table.ids, table.offsets, table.lengths, strict=True)):
                try:
                    arrays = {name: own_dataset(file, name)[place] for name in ("mean", "std")}
                    if kind == "frames":
                        arrays["states"] = own_dataset(file, "states")[:, offset : offset + length]
                        if dtype == "int8":
                            arrays["scales"] = own_dataset(file, "scales")[place]
                    whole = content_hash(arrays) == table.hashes[place]
                except (OSError, RuntimeError, UserError):
                    whole = False
                if not whole:
                    bad.append(id)
    except (UserError, OSError, KeyError, RuntimeError, ValueError, TypeError, IndexError) as error:
        return f"its tables cannot be read: {str(error).splitlines()[0]}"
    if not bad:
        return "outside the states of any utterance"
    return f"utterances: {', '.join(bad[:5])}{f' and {len(bad) - 5} more' if len(bad) > 5 else ''}"
