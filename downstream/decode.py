"""From frame-wise outputs to symbol sequences."""

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor


def greedy_ctc(
    outputs: Float[Tensor, "heads frames classes"], lengths: Int[np.ndarray, " batch"], blank: int = 0
) -> list[list[list[int]]]:
    """Best class per frame, repeats joined, blanks dropped.

    Args:
        outputs: scores of utterances laid end to end.
        lengths: frames of each utterance.
        blank: class of the blank.

    Returns:
        For each head, for each utterance, its symbols.
    """
    best = outputs.argmax(dim=2).numpy()
    starts = np.cumsum(lengths) - lengths
    new = np.ones_like(best, bool)
    new[:, 1:] = best[:, 1:] != best[:, :-1]
    new[:, starts[lengths > 0]] = True  # the first frame of an utterance repeats nothing
    keep = new & (best != blank)
    return [
        [
            best[head, s : s + n][keep[head, s : s + n]].tolist()
            for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)
        ]
        for head in range(len(best))
    ]
