"""Where the units come from that an objective predicts: k-means, a file, or the codes of a vq-wav2vec."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from wavbench.upstream import catalog, codes, units
from wavbench.upstream.decoded import Speech
from wavbench.upstream.errors import UserError
from wavbench.upstream.lengths import frames_from_samples

MFCC = "mfcc"  # of units in a file


@dataclass(frozen=True, kw_only=True)
class UnitSource:
    """Where the units come from that an objective predicts.

    Args:
        file: a unit file made before; the other values are not used then.
        stores: feature stores by the name of their corpus; none for MFCC.
        described: what the stores are of, known without them: tells two upstreams apart.
        layer: of the stores.
        clusters: of the k-means.
        codes: a trained vq-wav2vec, for an objective that reads codes; only `file` counts beside it.
    """

    file: Path | None = None
    stores: Callable[[], dict[str, "units.Store"]] | None = None
    described: Callable[[], str] | None = None
    layer: int = 0
    clusters: int = 100
    codes: catalog.Upstream | None = None


def check_codes(module_file: ModuleType, given: bool) -> None:
    """Raise a UserError unless an objective that reads codes is given what makes them, and no other one is.

    Args:
        module_file: the objective.
        given: whether it is given a vq-wav2vec.
    """
    if getattr(module_file, "NEEDS_CODES", False) == given:
        return
    if given:
        raise UserError(
            "codes= would change nothing",
            why="this objective reads no codes",
            remedy="it goes with objective=vq_wav2vec_bert; else leave it out",
        )
    raise UserError(
        "codes= is missing",
        why="this objective reads the codes of a trained vq-wav2vec",
        remedy="codes=FOLDER of `wavbench pretrain objective=vq_wav2vec`, or the file of one",
    )


def make_units(source: UnitSource, speech: Speech, folder: Path, conv, seed: int, progress=None) -> units.Units:
    """The units of a source, made now or found in the run's folder."""

    def frame_counts(samples: int) -> int:
        return frames_from_samples(samples, conv)

    if source.file is not None:
        found = units.read_units(source.file, speech)
        if codes.is_codes(found):
            raise UserError(
                "these units are codes of a vq-wav2vec, and clusters are wanted",
                where=source.file,
                remedy="leave units= out to make units here, or give the units.h5 of another run",
            )
        units.refuse_other_frames(found, speech, frame_counts)
        return found
    path = folder / "units.h5"
    if path.is_file():
        found = units.read_units(path, speech)
        _refuse_other_units(found, source, seed)
        units.refuse_other_frames(found, speech, frame_counts)
        return found
    stores = source.stores() if source.stores else {}
    return units.write_units(
        path,
        speech,
        functools.partial(units.store_frames, stores, source.layer) if stores else lambda: units.mfcc_frames(speech),
        source=source.described() if source.described else MFCC,
        clusters=source.clusters,
        seed=seed,
        frame_counts=frame_counts,
        progress=progress,
    )


def _refuse_other_units(found: units.Units, source: UnitSource, seed: int) -> None:
    made, wanted = found.fingerprint, source.described() if source.described else MFCC
    layers = [None if text == MFCC else text.rpartition(" ")[2] for text in (made["source"], wanted)]
    of = ["MFCC" if text == MFCC else f"states ({text})" for text in (made["source"], wanted)]
    for name, was, now in (
        ("units_layer", *layers) if None not in layers else ("units_from", *of),
        ("units_from", *of),
        ("clusters", made.get("clusters"), source.clusters),
        ("seed", made.get("seed"), seed),
    ):
        if was != now:
            raise UserError(
                "the units in the run's folder were made otherwise",
                where=found.path,
                why=f"{name}: made with {was}, now {now}",
                remedy="give what they were made with, or another out= folder",
            )
