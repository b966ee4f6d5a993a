"""One finished analysis is one small JSON file, results/analysis/<kind>-<key>.json: its figures need no store.

What its `values` hold, by kind:

cka     cka, debiased: [layer of the first upstream][layer of the second]
cca     weighted, plain, fitted, ridge: [layer][part held out]; permuted: [layer][part and permutation]; classes, rows
norms   norm, deviation: [layer], mean and deviation over frames of a state's L2 norm
tsne    layer, chosen (why that one), x, y, utterance (hashed), label: [point]; neighbour, chance: shares
"""

import dataclasses
import json
import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wavbench.benchmark.record import fits, refuse_unwritable, write_text
from wavbench.upstream.errors import UserError

SCHEMA = 1
FOLDER = "analysis"
CKA, CCA, NORMS, TSNE = "cka", "cca", "norms", "tsne"
KINDS = (CKA, CCA, NORMS, TSNE)
VALUES = {  # of each kind; how deep a list of what
    CKA: {"cka": list[list[float]], "debiased": list[list[float]]},
    CCA: dict.fromkeys(("weighted", "plain", "fitted", "ridge", "permuted"), list[list[float]])
    | {"classes": int, "rows": int},
    NORMS: {"norm": list[float], "deviation": list[float]},
    TSNE: {"layer": int, "chosen": str, "neighbour": float, "chance": float}
    | {"x": list[float], "y": list[float], "utterance": list[str], "label": list[str]},
}


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What was computed from a sample of a corpus.

    Args:
        key: hash of all that determines the values.
        kind: one of KINDS.
        corpus: name of its manifest.
        corpus_hash: of the sampled utterances, their audio and labels.
        synthetic: whether the corpus was made by a synthesiser.
        label: what states are compared with: phones, words, or a column; "" where nothing is.
        upstreams: checkpoints, for people; two for CKA, else one.
        checkpoint_hashes: of their weights.
        store_fingerprints: of what states depend on besides the audio.
        layers: numbers of the states of each.
        dims: width of a state of each.
        frame_rates: of each, Hz.
        sample: utterances and frames (or rows) that played a part, and the seed of all draws.
        values: by kind, see above.
        cost: seconds.
        versions: of Python and packages.
        commit: of the checkout.
        started: ISO 8601, UTC.
    """

    schema: int = SCHEMA
    key: str
    kind: str
    corpus: str
    corpus_hash: str
    synthetic: bool
    label: str
    upstreams: list[str]
    checkpoint_hashes: list[str]
    store_fingerprints: list[str]
    layers: list[list[int]]
    dims: list[int]
    frame_rates: list[float]
    sample: dict[str, int]
    values: dict
    cost: dict[str, float]
    versions: dict[str, str]
    commit: str
    started: str


SIDES = ("upstreams", "checkpoint_hashes", "store_fingerprints", "layers", "dims", "frame_rates")
HINTS = typing.get_type_hints(Analysis)


def analysis_path(results: Path, kind: str, key: str) -> Path:
    """Where the analysis of this key lies, or will."""
    return results / FOLDER / f"{kind}-{key}.json"


def write_analysis(results: Path, analysis: Analysis) -> Path:
    """Write it whole or not at all; returns its path."""
    path = analysis_path(results, analysis.kind, analysis.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(dataclasses.asdict(analysis), ensure_ascii=False) + "\n")
    return path


def read_analysis(path: Path) -> Analysis:
    """An analysis from its file.

    Raises:
        UserError: it is damaged, or of another schema.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or values.get("schema") != SCHEMA:
            raise ValueError(f"it does not say schema {SCHEMA}, which this version reads")
        if unlike := sorted(set(values) ^ set(HINTS)):
            raise ValueError(f"fields {', '.join(unlike)} are missing or unknown")
        wrong = [name for name, hint in HINTS.items() if not fits(values[name], hint)]
        wrong = wrong or list(_wrong_inside(values))
        if wrong:
            raise ValueError(f"{', '.join(wrong)} holds something else than it should")
        refuse_unwritable(values)
        if path.name != f"{values['kind']}-{values['key']}.json":
            raise ValueError("its kind and key are not the name of its file")
        return Analysis(**values)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            "an analysis cannot be read",
            where=path,
            why=str(error)[:200],
            remedy="delete it; `wavbench analyse` computes it again",
        ) from error


def read_analyses(results: Path) -> tuple[list[Analysis], list[UserError]]:
    """All analyses of a results folder in order of their keys, and what is wrong with files that are none."""
    found, damaged = [], []
    for path in sorted((results / FOLDER).glob("*.json")):
        try:
            found.append(read_analysis(path))
        except UserError as error:
            damaged.append(error)
    return found, damaged


def _wrong_inside(analysis: dict) -> Iterator[str]:
    """Values of the right type that no figure could be made of: a file may come from a stranger."""
    kind, values = analysis["kind"], analysis["values"]
    if kind not in KINDS:
        yield "kind"
        return
    sides = 2 if kind == CKA else 1
    wrong = [name for name in SIDES if len(analysis[name]) != sides]
    wrong += ["values"] if set(values) != set(VALUES[kind]) else []
    wrong += [f"values.{name}" for name in values if not fits(values[name], VALUES[kind].get(name, str))]
    wrong += [f"values.{name}" for name in values if not _finite(values[name])]
    if wrong:
        yield from dict.fromkeys(wrong)
        return
    layers = tuple(len(own) for own in analysis["layers"])
    shapes = {name: _shape(value) for name, value in values.items() if isinstance(value, list)}
    if not all(layers) or not _sound(kind, layers, shapes):
        yield "values"


def _sound(kind: str, layers: tuple[int, ...], shapes: dict[str, tuple[int, ...] | None]) -> bool:
    """Whether the lists of an analysis are as long as its layers are many, or as each other."""
    found = list(shapes.values())
    if None in found:
        return False
    if kind == TSNE:
        return len(set(found)) == 1 and len(found[0]) == 1
    if kind == CCA:  # of every permutation as many values as of the labels themselves
        tables = all(len(shape) == 2 and shape[0] == layers[0] and shape[1] for shape in found)
        return tables and shapes["permuted"][1] % shapes["weighted"][1] == 0
    return all(shape == layers for shape in found)


def _finite(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _shape(value: object) -> tuple[int, ...] | None:
    """Lengths of a list and of the lists in it, which are the same; () for what is no list, None where they differ."""
    if not isinstance(value, list):
        return ()
    inner = {_shape(part) for part in value} or {()}
    return (len(value), *inner.pop()) if len(inner) == 1 and None not in inner else None
