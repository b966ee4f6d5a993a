"""The four analyses of a sample: from stores to the values of an analysis' file, each layer on its own."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int

from wavbench.benchmark.analysis_sample import Progress, Reader, frame_blocks, number_of, segment_blocks
from wavbench.benchmark.cca import PARTS, LabelledProducts
from wavbench.benchmark.cka import LEAST_FRAMES, CrossProducts, aligned
from wavbench.benchmark.record import hashed
from wavbench.upstream.errors import UserError

GROUP_BYTES = 512 << 20  # of cross-products that are held at once; more layers take more passes over the store
PERMUTATIONS = 3  # of labels, for what CCA scores where there is nothing to find
MOST_CLASSES = 200  # of a label: the most frequent ones
LEAST_POINTS, MOST_POINTS = 4, 2_000  # of a t-SNE
ROUNDING = 1e-5  # of a state: the same utterance in another place of a batch
PERPLEXITY = 30.0  # of t-SNE: neighbours that a point looks at, about
DIGITS = 5  # of what is written


def norms_of(
    reader: Reader, layers: Sequence[int], ids: Sequence[str], frames: int, seed: int, progress: Progress
) -> tuple[dict, int]:
    """Mean and deviation of the L2 norm of each layer's states, and the frames that they are of."""
    norms = [
        np.linalg.norm(states.astype(np.float64), axis=2)
        for (states,) in frame_blocks([reader], [layers], ids, frames, seed, progress)
    ]
    found = np.concatenate(norms)  # (frames, layers)
    return {"norm": _rounded(found.mean(0)), "deviation": _rounded(found.std(0))}, len(found)


def cka_of(
    readers: Sequence[Reader],
    layers: Sequence[Sequence[int]],
    ids: Sequence[str],
    frames: int,
    seed: int,
    progress: Progress,
) -> tuple[dict, int]:
    """Linear CKA of every layer of one upstream with every layer of another (or of itself), and the frames it is of.

    Raises:
        UserError: there are too few frames.
    """
    (one, other), shape = readers, [len(own) for own in layers]
    most = max(int(math.sqrt(GROUP_BYTES / 8 / (one.store.dim * other.store.dim))), 1)
    groups = [[range(n)[k : k + most] for k in range(0, n, most)] for n in shape]
    pairs = [(here, there) for here in groups[0] for there in groups[1]]
    plain, unbiased = np.zeros(shape), np.zeros(shape)
    own_plain, own_unbiased = ([np.zeros(n) for n in shape] for _ in range(2))
    count = 0
    for done, parts in enumerate(pairs):
        whole, alone = CrossProducts(), [[CrossProducts() for _ in part] for part in parts]
        chosen = [[layers[side][k] for k in part] for side, part in enumerate(parts)]

        def tell(read: int, of: int, done: int = done) -> None:
            progress(done * of + read, len(pairs) * of)

        for blocks in frame_blocks(readers, chosen, ids, frames, seed, tell):
            whole.add(*blocks)
            for states, singles in zip(blocks, alone, strict=True):
                for k, single in enumerate(singles):
                    single.add(states[:, k : k + 1], states[:, k : k + 1])
        count = whole.frames
        if count < LEAST_FRAMES:
            raise UserError(f"{count} frames are too few to compare layers", remedy="more utterances=, or longer ones")
        found, place = whole.hsic(), np.ix_(*parts)
        plain[place], unbiased[place] = found.plain, found.unbiased
        for side, part in enumerate(parts):
            for k, single in zip(part, alone[side], strict=True):
                own = single.hsic()
                own_plain[side][k], own_unbiased[side][k] = own.plain[0, 0], own.unbiased[0, 0]
    values = {"cka": aligned(plain, *own_plain), "debiased": aligned(unbiased, *own_unbiased)}
    return {name: _rounded(table) for name, table in values.items()}, count


def timed_cca(reader: Reader, layers: Sequence[int], segments: pd.DataFrame, seed: int, progress: Progress) -> dict:
    """CCA of means over segments with what is said in them. Segments of an utterance are held out together.

    Args:
        reader: of a frame store.
        layers: wanted.
        segments: as `timed_segments` makes them.
        seed: of parts and permutations.
        progress: called with (passes done, passes).

    Raises:
        UserError: there are too few.
    """
    segments, codes = _classes(segments, "segments")
    ids = sorted(segments["id"].unique(), key=lambda id: number_of(seed, "part", id))
    part_of = {id: place % PARTS for place, id in enumerate(ids)}
    parts = segments["id"].map(part_of).to_numpy()
    if len(ids) < PARTS:
        raise UserError(f"{len(ids)} utterances with labels are too few for {PARTS} parts", remedy="more utterances=")

    def blocks(group: Sequence[int], tell: Progress):
        return segment_blocks(reader, group, segments, tell)

    return _cca(blocks, layers, reader.store.dim, parts, codes, seed, progress)


def pooled_cca(reader: Reader, layers: Sequence[int], labels: pd.DataFrame, seed: int, progress: Progress) -> dict:
    """CCA of means over utterances with a label of each. Every part holds an equal share of every class.

    Args:
        reader: of any store.
        layers: wanted.
        labels: columns id and label.
        seed: of parts and permutations.
        progress: called with (passes done, passes).

    Raises:
        UserError: there are too few.
    """
    labels, codes = _classes(labels, "utterances")
    lot = [number_of(seed, "part", id) for id in labels["id"]]
    place = pd.Series(lot).groupby(codes).rank(method="first").to_numpy(dtype=np.int64)
    parts = (place + codes) % PARTS
    rows = [reader.store.row(id) for id in labels["id"]]

    def blocks(group: Sequence[int], tell: Progress):
        yield reader.store.read_pooled(rows, group)[0], np.arange(len(rows))

    return _cca(blocks, layers, reader.store.dim, parts, codes, seed, progress)


def tsne_of(reader: Reader, layer: int, labels: pd.DataFrame, salt: str, hide: bool, seed: int) -> dict:
    """Utterances' means of one layer in a plane, and how often the nearest one (among the states) has the same label.

    Args:
        reader: of any store.
        layer: its number.
        labels: columns id and label.
        salt: of the hashes that stand for ids.
        hide: whether labels are hashed as well, because they name people.
        seed: of the lot where there are more than MOST_POINTS, and of t-SNE.

    Raises:
        UserError: there are too few.

    Source: van der Maaten and Hinton 2008, Visualizing Data using t-SNE.
    """
    from sklearn.manifold import TSNE
    from sklearn.neighbors import NearestNeighbors

    chosen = sorted(range(len(labels)), key=lambda row: number_of(seed, "point", labels["id"].iat[row]))[:MOST_POINTS]
    labels = labels.iloc[sorted(chosen)]
    if len(labels) < LEAST_POINTS:
        raise UserError(f"{len(labels)} utterances are too few for a t-SNE", remedy="more utterances=")
    states = reader.store.read_pooled([reader.store.row(id) for id in labels["id"]], [layer])[0][:, 0]
    states = states.astype(np.float64)
    spread = np.ptp(states, axis=0).max()
    if spread <= ROUNDING * np.abs(states).max():
        raise UserError(
            f"all utterances have the same state at layer {layer}: there is no plane to lay them in",
            why="the encoder has collapsed, or the sample is one recording many times",
            remedy="another layer=, or more utterances=",
        )
    states = (states - states.mean(0)) / np.maximum(states.std(0), 1e-6)
    settings = {"init": "pca" if min(states.shape) > 1 else "random", "random_state": seed}
    plane = TSNE(perplexity=min(PERPLEXITY, (len(states) - 1) / 3), **settings).fit_transform(states)
    named = (labels["label"] != "").to_numpy()
    words = labels["label"].to_numpy(dtype=object)[named]
    counts = pd.Series(words).value_counts().to_numpy()
    neighbour = chance = 0.0
    if len(words) > 1:
        nearest = NearestNeighbors(n_neighbors=1).fit(states[named]).kneighbors(return_distance=False)[:, 0]
        neighbour = float(np.mean(words == words[nearest]))
        chance = float((counts * (counts - 1)).sum() / (len(words) * (len(words) - 1)))
    return {
        "layer": layer,
        "x": _rounded(plane[:, 0], 3),
        "y": _rounded(plane[:, 1], 3),
        "utterance": hashed(labels["id"], salt),
        "label": hashed(labels["label"], salt) if hide else labels["label"].tolist(),
        "neighbour": round(neighbour, DIGITS),
        "chance": round(chance, DIGITS),
    }


def enough_classes(labels: pd.Series) -> bool:
    """Whether CCA with these labels ("" for none) is possible: two classes with a member in every part."""
    return len(_frequent(labels)) > 1


def _frequent(labels: pd.Series) -> list[str]:
    counts = labels[labels != ""].value_counts()
    counts = counts[counts >= PARTS]
    return sorted(sorted(counts.index, key=lambda name: (-counts[name], name))[:MOST_CLASSES])


def _classes(rows: pd.DataFrame, what: str) -> tuple[pd.DataFrame, Int[np.ndarray, " rows"]]:
    """Rows of the classes that occur often enough, and the class of each."""
    classes = _frequent(rows["label"])
    if len(classes) < 2:
        raise UserError(
            f"CCA needs two classes with {PARTS} {what} each",
            why=f"the sample has {rows['label'][rows['label'] != ''].nunique()} classes in {len(rows)} {what}",
            remedy="more utterances=, or other labels=",
        )
    rows = rows[rows["label"].isin(classes)].reset_index(drop=True)
    return rows, pd.Categorical(rows["label"], categories=classes).codes.astype(np.int64)


def _cca(
    blocks: Callable, layers: Sequence[int], dim: int, parts: np.ndarray, codes: np.ndarray, seed: int,
    progress: Progress,
) -> dict:  # fmt: skip
    """CCA with some labels and with the same labels permuted, a group of layers at a time."""
    classes = int(codes.max()) + 1
    random = np.random.default_rng(number_of(seed, "permutations"))
    labels = np.stack([codes, *(random.permutation(codes) for _ in range(PERMUTATIONS))], axis=1)
    most = max(GROUP_BYTES // (8 * PARTS * dim * (dim + classes * labels.shape[1])), 1)
    groups = [list(layers)[k : k + most] for k in range(0, len(layers), most)]
    found: dict[str, list] = {name: [] for name in ("weighted", "plain", "fitted", "ridge", "permuted")}
    scored, steps = 0, 2 * len(layers)  # reading a layer counts as much as scoring it
    for group in groups:

        def tell(done: int, total: int, begun: int = 2 * scored, share: int = len(group)) -> None:
            progress(begun + share * done // max(total, 1), steps)

        taken = LabelledProducts(classes, labels.shape[1])
        for states, rows in blocks(group, tell):
            taken.add(states, parts[rows], labels[rows])
        for k in range(len(group)):
            scores, *others = (taken.scores(k, labelling) for labelling in range(labels.shape[1]))
            for name in ("weighted", "plain", "fitted"):
                found[name].append(_rounded(np.array(getattr(scores, name))))
            found["ridge"].append(list(scores.ridge))
            found["permuted"].append(_rounded(np.array([other.weighted for other in others]).ravel()))
            scored += 1
            progress(2 * scored + len(group) - k - 1, steps)
    return {**found, "classes": classes, "rows": len(codes)}


def _rounded(values: Float[np.ndarray, "..."] | Float32[np.ndarray, "..."], digits: int = DIGITS) -> list:
    return np.round(values.astype(np.float64), digits).tolist()
