"""How objectives look at a stack of heads where outputs are made at once: the loss, and what dev and test show."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

Rows = Int[np.ndarray, " batch"]
AnyRows = Int[np.ndarray, " _"]  # of several batches, each as long as it is


def whole_batch_loss(self, model, states: Tensor, rows: Rows, lengths, random) -> Float[Tensor, " heads"]:
    """The training loss where nothing is sampled: that of all outputs.

    Computed where the heads are if the objective says that it is dear.
    """
    outputs = model(states, lengths, fetch=not getattr(self, "dear_loss", False))
    return self.loss(model, outputs, rows, lengths)


def dev_look(self, model, states: Tensor, rows: Rows, lengths) -> tuple:
    """What dev is judged by: decoded outputs, and the loss of each head (zero without one)."""
    outputs = model(states, lengths)
    losses = self.loss(model, outputs, rows, lengths).numpy() if self.has_dev_loss else np.zeros(len(outputs))
    return self.decode(model, outputs, rows, lengths), losses


def test_look(self, model, states: Tensor, rows: Rows, lengths, heads: Sequence[int]):
    """The same on test: decoded outputs of some heads."""
    return self.decode(model, model(states, lengths)[list(heads)], rows, lengths)
