import io
import json
import tarfile
from pathlib import Path

from corpus_trees import Tree, write_audio

SHARDS = {"speech-train-000000": 2, "speech-train-000001": 2, "speech-dev-000000": 1, "speech-test-000000": 1}


def pack(path: Path, members: dict[str, bytes]) -> Path:
    """A shard of these files, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def audio(folder: Path, seed: int, suffix: str = ".flac") -> bytes:
    path = write_audio(folder / f"temporary{suffix}", seed=seed)
    data = path.read_bytes()
    path.unlink()
    return data


def build(root: Path) -> Tree:
    """Four shards; keys count from 0 in each, as packers do, with a FLAC, a JSON, a text and a class."""
    for s, (shard, count) in enumerate(SHARDS.items()):
        members = {}
        for k in range(count):
            fields = {"speaker_id": f"s{s}", "lang": "en", "duration": 0.4, "words": ["sir", "i", "exist"]}
            members[f"{k:06d}.flac"] = audio(root, seed=s * 10 + k)
            members[f"{k:06d}.json"] = json.dumps(fields).encode()
            members[f"{k:06d}.txt"] = b"Sir, I exist\n"
            members[f"{k:06d}.cls"] = b"3"
        pack(root / "shards" / f"{shard}.tar", members)
    return Tree(root=root, audio=None, index=root / "shards", splits={"train": 4, "dev": 1, "test": 1})
