"""How much labelled speech a head is trained on: utterances drawn once, balanced over speakers."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from wavbench.upstream.errors import UserError

ALL = "all"
AMOUNT = re.compile(r"(\d+(?:\.\d+)?)(min|h)")


def minutes_of(text: str) -> float | None:
    """Minutes of `10min`, `1h` or `2.5h`; None for `all`.

    Raises:
        UserError: it is none of these, or no time at all.
    """
    if text == ALL:
        return None
    found = AMOUNT.fullmatch(text)
    minutes = float(found[1]) * (60 if found[2] == "h" else 1) if found else 0.0
    if not minutes:
        raise UserError(
            f"labels={text} is no amount of speech", remedy="labels=10min, 1h, 10h, 100h, another time, or all"
        )
    return minutes


def draw(
    seconds: Float[np.ndarray, " utterances"], speakers: Sequence[str], minutes: float | None, seed: int
) -> Int[np.ndarray, " drawn"]:
    """Utterances that hold so many minutes together (the last one may go beyond), in the order they are drawn.

    Speakers take turns in a random order, each giving its own utterances in a random order, so that none is drawn twice
    while another waits for its turn. A smaller budget of the same seed is the beginning of a larger one.

    Args:
        seconds: length of each utterance.
        speakers: of each; utterances of unknown speakers ("") count as a speaker each.
        minutes: budget; None for all there is.
        seed: of the draw.

    Raises:
        UserError: there is less speech than that.

    Source: the budgets are those of Kahn et al. 2020, Libri-Light, section 3.2.
    """
    random = np.random.default_rng([seed, 0x1ABE1])
    turns: dict[str, int] = {}
    order = []  # (round, speaker's turn, utterance)
    for row in random.permutation(len(seconds)):
        speaker = speakers[row] or f"\0{row}"
        order.append((turns.get(speaker, 0), speaker, int(row)))
        turns[speaker] = turns.get(speaker, 0) + 1
    place = dict(zip(turns, random.permutation(len(turns)).tolist(), strict=True))
    drawn = np.array([row for *_, row in sorted(order, key=lambda one: (one[0], place[one[1]]))], np.int64)
    if minutes is None:
        return drawn
    total = np.cumsum(seconds[drawn]) / 60
    if not len(total) or total[-1] < minutes:
        raise UserError(
            f"labels={minutes:g}min is more than there is",
            why=f"the train split has {total[-1] if len(total) else 0:.1f} minutes of labelled speech",
            remedy="labels=all, or a smaller amount",
        )
    return drawn[: int(np.searchsorted(total, minutes)) + 1]
