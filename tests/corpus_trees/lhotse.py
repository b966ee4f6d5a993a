import gzip
import json
from pathlib import Path

from corpus_trees import Tree, write_audio

PARTS = {"train-clean-5": 2, "dev-clean-2": 1, "test-clean": 1}


def recording(id: str, source: str, duration: float = 1.0) -> dict:
    """As lhotse writes it; null fields are left out."""
    sources = [{"type": "file", "channels": [0], "source": source}]
    samples = round(duration * 16_000)
    return {
        "id": id, "sources": sources, "sampling_rate": 16_000, "num_samples": samples, "duration": duration,
        "channel_ids": [0],
    }  # fmt: skip


def supervision(id: str, of: str, start: float, duration: float, **fields: object) -> dict:
    return {"id": id, "recording_id": of, "start": start, "duration": duration, "channel": 0, **fields}


def write(path: Path, records: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
    return path


def build(root: Path) -> Tree:
    """Recordings and supervisions of three parts of LibriSpeech, as its recipe names them; two segments and a whole."""
    folder = root / "data/manifests"
    for part, count in PARTS.items():
        recordings, supervisions = [], []
        for k in range(count):
            id = f"{part}-{k}"
            source = f"download/{part}/{id}.flac"
            write_audio(root / source, seed=sum(map(ord, id)), seconds=1.0)
            recordings.append(recording(id, source))
            fields = {"text": "SIR I EXIST", "language": "English", "speaker": f"s{id}"}
            custom = {"emotion": "sad", "take": 2, "features": {"type": "x"}}
            supervisions.append(supervision(f"{id}-a", id, 0.0, 0.5, **fields, custom=custom))
            supervisions.append(supervision(f"{id}-b", id, 0.5, 0.25, **fields))
        id = f"{part}-whole"
        write_audio(root / f"download/{part}/{id}.flac", seed=sum(map(ord, id)), seconds=1.0)
        recordings.append(recording(id, f"download/{part}/{id}.flac"))
        supervisions.append(supervision(id, id, 0.0, 1.0, text="HOWEVER", language="English", speaker=f"s{part}"))
        write(folder / f"librispeech_recordings_{part}.jsonl.gz", recordings)
        write(folder / f"librispeech_supervisions_{part}.jsonl.gz", supervisions)
    return Tree(
        root=folder.parent,
        audio=root / "download/dev-clean-2/dev-clean-2-0.flac",
        index=folder / "librispeech_supervisions_dev-clean-2.jsonl.gz",
        splits={"train": 5, "dev": 3, "test": 3},
    )
