"""Two bidirectional LSTMs over pairs of frames: the recurrent head for CTC that trains on a laptop."""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.downstream.looped import Looped

STRIDE = 2  # frames laid side by side: 40 ms at 50 Hz, more than any speaker needs for a character
PROJECTION, HIDDEN, LAYERS = 256, 256, 2
DROPOUT = 0.2


class Blstm(nn.Module):
    """One head.

    Args:
        inputs: width of the features.
        outputs: classes, the CTC blank included.
        stride: frames laid side by side.
        projection: width that they are projected to.
        hidden: of each direction.

    Source: Graves and Schmidhuber 2005; the dropout is s3prl's.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, projection: int, hidden: int) -> None:
        super().__init__()
        self.stride = stride
        self.project = nn.Linear(stride * inputs, projection)
        self.lstm = nn.LSTM(projection, hidden, LAYERS, bidirectional=True, dropout=DROPOUT)
        self.dropout = nn.Dropout(DROPOUT)
        self.classify = nn.Linear(2 * hidden, outputs)

    def forward(
        self, frames: Float[Tensor, "total inputs"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "steps outputs"]:
        steps = -(-lengths // self.stride)
        x = self.project(side_by_side(frames, lengths, self.stride))
        filled = torch.nonzero(steps).flatten()  # a packed sequence has no place for an utterance without frames
        if not len(filled):
            return self.classify(x.new_zeros(0, self.classify.in_features))
        parts = x.split(steps.tolist())
        packed = nn.utils.rnn.pack_sequence([parts[k] for k in filled], enforce_sorted=False)
        read, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        joined = torch.cat([row[:n] for row, n in zip(read, steps[filled].tolist(), strict=True)])
        return self.classify(self.dropout(joined))


def side_by_side(
    frames: Float[Tensor, "total inputs"], lengths: Int[Tensor, " batch"], stride: int
) -> Float[Tensor, "steps wide"]:
    """Neighbouring frames of each utterance as one; zeros where the last of them are missing."""
    if stride == 1:
        return frames
    steps = -(-lengths // stride)
    each = steps * stride  # frames that an utterance has once it is filled up
    place = torch.arange(int(each.sum())) - (each.cumsum(0) - each).repeat_interleave(each)
    start = (lengths.cumsum(0) - lengths).repeat_interleave(each)
    rows = torch.where(place < lengths.repeat_interleave(each), start + place, len(frames))
    padded = torch.cat([frames, frames.new_zeros(1, frames.shape[1])])  # a frame of zeros behind all others
    return padded[rows].reshape(-1, stride * frames.shape[1])


class Stack(Looped):
    """A stack of recurrent heads, fed with the frames of utterances laid end to end.

    Args:
        heads: how many.
        inputs: width of the features.
        outputs: classes, the CTC blank included.
        stride: frames laid side by side; there is one output for each group.
        projection: width that they are projected to.
        hidden: of each direction.
    """

    takes_lengths = True

    def __init__(
        self,
        heads: int,
        inputs: int,
        outputs: int,
        stride: int = STRIDE,
        projection: int = PROJECTION,
        hidden: int = HIDDEN,
    ) -> None:
        super().__init__(heads, partial(Blstm, inputs, outputs, stride, projection, hidden))
        self.stride = stride


build = Stack
