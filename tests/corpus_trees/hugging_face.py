import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import soundfile

from corpus_trees import Tree

ROWS = {"train-00000-of-00002": 2, "train-00001-of-00002": 1, "validation-00000-of-00001": 1, "test-00000-of-00001": 2}
EMOTIONS = ["anger", "joy"]


def build(root: Path) -> Tree:
    """Parquet files as the Hub has them: audio inside, classes as numbers with their names in the head."""
    features = {"audio": {"_type": "Audio"}, "emotion": {"names": EMOTIONS, "_type": "ClassLabel"}}
    for k, (name, count) in enumerate(ROWS.items()):
        table = pa.table(
            {
                "audio": [{"bytes": flac(10 * k + row), "path": f"../../{row}.flac"} for row in range(count)],
                "sentence": [f"Sentence {row}." for row in range(count)],
                "emotion": [row % 2 for row in range(count)],
                "accent": ["northern"] * count,
            }
        )
        head = {"huggingface": json.dumps({"info": {"features": features}})}
        path = root / "data" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table.replace_schema_metadata(head), path)
    return Tree(root=root, audio=None, index=None, splits={"train": 3, "dev": 1, "test": 2}, complete=True)


def flac(seed: int) -> bytes:
    file = io.BytesIO()
    samples = 0.1 * np.random.default_rng(seed).standard_normal(6_400).clip(-3, 3)
    soundfile.write(file, samples, 16_000, format="FLAC")
    return file.getvalue()
