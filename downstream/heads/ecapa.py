"""ECAPA-TDNN as an utterance head: speechbrain's network at a quarter of its width, and a class for each utterance."""

import sys
from functools import partial
from importlib.util import find_spec

from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.downstream.looped import Looped
from wavbench.downstream.utterances import of_equal_length

CHANNELS = (128, 128, 128, 128, 384)  # the paper's 512 and 1,536 by four, so that it trains on a laptop
ATTENTION = SQUEEZE = 64
EMBEDDING = 192
LEAST = 9  # frames: its convolutions mirror up to four at each end


NEEDS = {"k2_fsa": "k2", "nlp": "flair", "numba": "numba"}  # of speechbrain's integrations


def forget_dead_redirects() -> None:
    """Take speechbrain's old names of integrations that are not installed out of the list of modules.

    Whoever looks through that list (pickle, for where a class lives; hypothesis) would be met with their ImportError.
    """
    for name, module in list(sys.modules.items()):
        target = str(vars(module).get("target", "")) if type(module).__name__ == "DeprecatedModuleRedirect" else ""
        if any(f".{part}" in target and find_spec(need) is None for part, need in NEEDS.items()):
            del sys.modules[name]


class Ecapa(nn.Module):
    """One network: utterances to embeddings, then to outputs.

    It has batch norms, so that it is to be trained on crops of one length: statistics over utterances one by one are
    none.

    Args:
        inputs: width of the features.
        outputs: classes; 0 for embeddings.

    Source: Desplanques et al. 2020, ECAPA-TDNN; speechbrain's implementation.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

        forget_dead_redirects()
        self.network = ECAPA_TDNN(
            inputs,
            lin_neurons=EMBEDDING,
            channels=list(CHANNELS),
            attention_channels=ATTENTION,
            se_channels=SQUEEZE,
        )
        self.classify = nn.Linear(EMBEDDING, outputs) if outputs else nn.Identity()

    def forward(
        self, frames: Float[Tensor, "total inputs"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch outputs"]:
        return self.classify(of_equal_length(frames[None], lengths, self.embed, LEAST)[0])

    def embed(self, x: Float[Tensor, "1 batch frames inputs"]) -> Float[Tensor, "1 batch embedding"]:
        """Embeddings of utterances of one length."""
        return self.network(x[0])[None, :, 0]


class Stack(Looped):
    """A stack of networks, fed with the frames of utterances laid end to end.

    Args:
        heads: how many.
        inputs: width of the features.
        outputs: classes.
    """

    takes_lengths = True
    least_batch = 2  # utterances: its batch norms

    def __init__(self, heads: int, inputs: int, outputs: int) -> None:
        super().__init__(heads, partial(Ecapa, inputs, outputs))


build = Stack
