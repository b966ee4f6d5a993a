"""Two bidirectional LSTMs over pairs of frames: the recurrent head for CTC that trains on a laptop."""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.downstream.looped import Looped
from wavbench.downstream.utterances import padded

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

    Each direction is an LSTM of its own on padded utterances, the backward one on each turned round: what one on a
    packed sequence gives, at less than half of its cost on CPUs.

    Source: Graves and Schmidhuber 2005; the dropout is s3prl's.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, projection: int, hidden: int) -> None:
        super().__init__()
        self.stride = stride
        self.project = nn.Linear(stride * inputs, projection)
        widths = [projection] + [2 * hidden] * (LAYERS - 1)
        self.forwards, self.backwards = nn.ModuleList(), nn.ModuleList()
        for width in widths:
            self.forwards.append(nn.LSTM(width, hidden))
            self.backwards.append(nn.LSTM(width, hidden))
        self.dropout = nn.Dropout(DROPOUT)
        self.classify = nn.Linear(2 * hidden, outputs)

    def forward(
        self, frames: Float[Tensor, "total inputs"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "steps outputs"]:
        x = self.project(padded(frames[None], lengths, self.stride)[0].transpose(0, 1))  # (steps, batch, projection)
        steps = -(-lengths // self.stride)
        place = torch.arange(len(x))[:, None]
        valid = place < steps
        # where each utterance's frames are, last to first; what is behind its end stays there and nothing sees it
        turned = torch.where(valid, steps - 1 - place, place).to(x.device)[:, :, None]
        for layer, (forwards, backwards) in enumerate(zip(self.forwards, self.backwards, strict=True)):
            x = self.dropout(x) if layer else x
            back = backwards(x.gather(0, turned.expand_as(x)))[0]
            x = torch.cat([forwards(x)[0], back.gather(0, turned.expand_as(back))], dim=2)
        kept = torch.nonzero(valid.T.flatten()).flatten().to(x.device)  # utterance after utterance
        return self.classify(self.dropout(x.transpose(0, 1).flatten(0, 1).index_select(0, kept)))


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
