"""What a store's type costs: one trained head scored on float32, float16 and int8 features of the same upstream.

    wavbench run task=er upstream=hubert_tiny manifest=FILE save=HEAD
    python tests/benchmarks/store_types.py HEAD FILE [--most 300] [--trials FILE] [--out results/speed]

One head at a time; the table holds a row for each head that it was run with, and a head that stands there with the
same files and options is not scored again. Heads that pool read statistics of the frames as they are stored (a store
keeps statistics of the frames before their cast, with which nothing would change at all).
"""

import argparse
import hashlib
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from wavbench.benchmark import schemas
from wavbench.benchmark.cell import with_targets
from wavbench.benchmark.inference import _upstream
from wavbench.benchmark.record import write_text
from wavbench.downstream.metrics import METRICS
from wavbench.downstream.rescore import changed, chosen_splits, rescore
from wavbench.downstream.saved import ABOUT, WEIGHTS, Saved, load_heads
from wavbench.downstream.spec import find_protocol, load_task
from wavbench.downstream.trials import read_trials
from wavbench.upstream.catalog import Upstream
from wavbench.upstream.errors import UserError
from wavbench.upstream.extract import extract
from wavbench.upstream.extraction_plan import durations
from wavbench.upstream.manifest import Manifest, read_manifest
from wavbench.upstream.row_states import frames_of

TYPES = ("float32", "float16", "int8")
MOST_CHANGED = 0.3  # percent of decisions that float16 may change
NAME = "store_types"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("head", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--root", default="")
    parser.add_argument("--most", type=int, default=0, help="test utterances, evenly spaced; all where 0")
    parser.add_argument("--trials", type=Path, help="verification trials; drawn where it is not given")
    parser.add_argument("--head-seed", type=int, default=0, help="of drawn trials: that of the run")
    parser.add_argument("--out", type=Path, default=Path("results/speed"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"{NAME}.csv"
    rows = pd.read_csv(path, dtype={"made_of": str}) if path.is_file() else pd.DataFrame()
    made_of = fingerprint(arguments)
    if len(rows) and made_of in set(rows["made_of"]):
        print(f"{arguments.head} is in {path} already")
    else:
        try:
            row = compare(arguments) | {"made_of": made_of}
        except UserError as error:
            parser.error(error.screen())
        rows = pd.concat([rows, pd.DataFrame([row])], ignore_index=True)
        rows = rows.drop_duplicates(["task", "head", "corpus", "upstream"], keep="last").sort_values(["task", "head"])
        write_text(path, rows.to_csv(index=False, lineterminator="\n"))
    write_text(arguments.out / f"{NAME}.md", page(rows))
    print((arguments.out / f"{NAME}.md").read_text())


def fingerprint(arguments: argparse.Namespace) -> str:
    """Of all that a row depends on but the audio."""
    digest = hashlib.blake2b(f"{arguments.most} {arguments.head_seed}".encode(), digest_size=8)
    files = [arguments.head / WEIGHTS, arguments.head / ABOUT, arguments.manifest, arguments.trials]
    for file in filter(None, files):
        digest.update(file.read_bytes() if file.is_file() else b"")
    return digest.hexdigest()


def compare(arguments: argparse.Namespace) -> dict:
    """One row of the table."""
    saved = load_heads(arguments.head)
    upstream = _upstream(schemas.Infer(head=str(arguments.head)), saved)
    protocol = find_protocol(saved.about["protocol"])
    task = load_task(saved.task).chosen(protocol, saved.name)
    manifest = read_manifest(arguments.manifest, arguments.root or None)
    table = with_targets(manifest, task)
    seconds = dict(zip(manifest.table["id"], durations(manifest), strict=True))
    table = table[[seconds[id] * 16_000 > upstream.min_samples for id in table["id"]]].reset_index(drop=True)
    lengths = np.array([frames_of(upstream, round(seconds[id] * 16_000)) for id in table["id"]])
    splits = chosen_splits(saved, task, protocol, table, arguments.most)
    ids = {id for split in splits for id in table["id"].to_numpy()[split.test]}
    trials = read_trials(arguments.trials) if arguments.trials else None
    scores, sizes = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for dtype in TYPES:
            began = time.monotonic()
            store = stored(saved, upstream, manifest, ids, Path(folder) / dtype, dtype)
            kept = [split_of(split, table, store.rows) for split in splits]
            scores[dtype] = rescore(
                saved, task, protocol, store, table, lengths, kept, trials=trials, seed=arguments.head_seed
            )
            sizes[dtype] = store.size_bytes / 1e6
            print(f"{saved.task} {saved.name} on {dtype}: {time.monotonic() - began:.0f} s", flush=True)
    metric = task.metric
    row: dict = {
        "task": saved.task,
        "head": saved.name,
        "corpus": manifest.name,
        "upstream": Path(upstream.name).name,
        "utterances": len(ids),
        "all_utterances": sum(len(split.test) for split in chosen_splits(saved, task, protocol, table)),
        "metric": metric.name,
        "unit": metric.unit,
    }
    for dtype in TYPES:
        row |= {dtype: round(float(METRICS[metric.name](scores[dtype])[0]), 3), f"{dtype}_mb": round(sizes[dtype], 2)}
    for dtype in TYPES[1:]:
        count, decisions = changed(scores["float32"], scores[dtype])
        row |= {"decisions": decisions, f"{dtype}_changed": count}
    return row


def stored(saved: Saved, upstream: Upstream, manifest: Manifest, ids: set[str], path: Path, dtype: str):
    """A store of the tested utterances alone, of the layers that the heads read."""
    table = manifest.table[manifest.table["id"].isin(ids)].reset_index(drop=True)
    return extract(upstream, replace(manifest, table=table), path, layers=saved.layers, dtype=dtype)


def split_of(split, table: pd.DataFrame, rows: dict):
    """A split without test rows whose audio was refused."""
    ids = table["id"].to_numpy()
    return replace(split, test=np.array([row for row in split.test if ids[row] in rows], np.int64))


def page(rows: pd.DataFrame) -> str:
    lines = [
        "# One trained head on features of three types",
        "",
        "Each head was trained on float16 frames (or on means of them before their cast) and scored on stores of the",
        "same upstream in three types; nothing else differs. Changed decisions are counted against float32: classes,",
        "trials at the equal-error threshold of float32, and symbols written (phones, characters) by edit distance.",
        "",
        "| task | head | corpus, upstream | test | metric | float32 | float16 | int8 | float16 changes | int8 |",
        "| --- | --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows.to_dict("records"):
        part = "" if row["utterances"] == row["all_utterances"] else f" of {row['all_utterances']:,}"
        shares = [f"{100 * row[f'{t}_changed'] / row['decisions']:.3f} %" for t in TYPES[1:]]
        shares[0] += f" of {row['decisions']:,}"
        values = [f"{row[dtype]:.2f}" for dtype in TYPES]
        where, tests = f"{row['corpus']}, {row['upstream']}", f"{row['utterances']:,}{part}"
        cells = [row["task"], row["head"], where, tests, f"{row['metric']} ({row['unit']})", *values, *shares]
        lines.append(f"| {' | '.join(cells)} |")
    most = max((100 * row["float16_changed"] / row["decisions"] for row in rows.to_dict("records")), default=0.0)
    held = "holds" if most <= MOST_CHANGED else "does NOT hold"
    sizes = ", ".join(f"{dtype} {rows[f'{dtype}_mb'].sum():,.0f} MB" for dtype in TYPES)
    lines += [
        "",
        f"float16 is to change at most {MOST_CHANGED} % of the decisions of a task: that {held} (most: {most:.3f} %).",
        "",
        f"Sizes of these stores in all: {sizes}. Heads that pool were given statistics of the frames as they are",
        "stored; a store keeps those of before the cast beside them, with which nothing changes.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
