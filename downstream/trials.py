"""Verification trials: read from a file, or drawn once and written beside the store."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from wavbench.upstream.errors import UserError

TARGETS = 5_000  # most same-speaker trials drawn
NONTARGETS = 20_000  # most different-speaker trials drawn
UTTERANCES = 3_000  # most that are paired with each other: pairs grow with the square


def draw_trials(ids: Sequence[str], speakers: Sequence[str], seed: int) -> pd.DataFrame:
    """Pairs of utterances, same-speaker and different-speaker; a pure function of its arguments.

    Returns:
        Columns enroll, test (utterance ids) and target (bool).

    Raises:
        UserError: one speaker, or no speaker with two utterances.
    """
    order = np.argsort(np.asarray(ids, str))
    ids, speakers = np.asarray(ids, object)[order], np.asarray(speakers, object)[order]
    digest = hashlib.blake2b("\0".join(ids).encode(), digest_size=8, salt=seed.to_bytes(8, "little"))
    random = np.random.default_rng(int.from_bytes(digest.digest(), "little"))
    if len(ids) > UTTERANCES:
        some = np.sort(random.choice(len(ids), UTTERANCES, replace=False))
        ids, speakers = ids[some], speakers[some]
    first, second = np.triu_indices(len(ids), k=1)
    same = speakers[first] == speakers[second]
    if not same.any() or same.all():
        raise UserError(
            f"no trials can be drawn from {len(ids)} utterances of {len(set(speakers))} speakers",
            remedy="a split needs two speakers or more, one of them with two utterances; or give trials=FILE",
        )
    chosen = []
    for kind, most in ((same, TARGETS), (~same, NONTARGETS)):
        pairs = np.flatnonzero(kind)
        chosen.append(np.sort(random.choice(pairs, min(most, len(pairs)), replace=False)))
    pairs = np.concatenate(chosen)
    return pd.DataFrame({"enroll": ids[first[pairs]], "test": ids[second[pairs]], "target": same[pairs]})


def read_trials(path: Path | str) -> pd.DataFrame:
    """Trials from a CSV with the columns enroll, test, target, or from VoxCeleb's `1 first second` lines.

    Raises:
        UserError: the file is missing or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("there is no such trials file", where=path, remedy="leave trials= out to have them drawn")
    try:
        if path.suffix == ".csv":
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
            table = table[["enroll", "test", "target"]]
        else:
            table = pd.read_csv(path, sep=r"\s+", names=["target", "enroll", "test"], dtype=str, encoding="utf-8-sig")
        target = table["target"].map({"1": True, "0": False, "True": True, "False": False})
        if target.isna().any() or table.empty:
            raise ValueError("a trial is neither target (1) nor non-target (0)" if len(table) else "it has no trials")
        table["target"] = target.astype(bool)
    except (KeyError, ValueError, UnicodeDecodeError) as error:
        raise UserError(
            "the trials cannot be read",
            where=path,
            why=str(error)[:200],
            remedy="columns: enroll, test, target (0 or 1)",
        ) from None
    return table


def write_trials(table: pd.DataFrame, path: Path) -> None:
    """Write trials whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    table.to_csv(temporary, index=False, lineterminator="\n")
    os.replace(temporary, path)
