"""Which weights of an encoder fine-tuning changes: all, the last blocks, low-rank pairs beside attention, or none."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from wavbench.upstream.errors import UserError, closest, refuse_below

KINDS = ("full", "partial", "lora", "frozen")


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """What is trained beside the head. The convolutions never are.

    Args:
        kind: "full", "partial" (the last blocks), "lora" (low-rank pairs) or "frozen" (nothing).
        blocks: of partial.
        rank: of lora's pairs.
        alpha: lora's pairs are multiplied by alpha / rank.
    """

    kind: str
    blocks: int = 4
    rank: int = 8
    alpha: float = 16.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"there is no adaptation {self.kind!r}", remedy=closest(self.kind, list(KINDS)))
        refuse_below(self, {"blocks": 1, "rank": 1, "alpha": 0})

    def described(self) -> dict[str, str | float]:
        """What of these values decides the result."""
        own = {"partial": ("blocks",), "lora": ("rank", "alpha")}.get(self.kind, ())
        return {"adaptation": self.kind, **{name: getattr(self, name) for name in own}}


class LowRank(nn.Module):
    """A weight plus the product of two narrow ones, which begins with zero.

    A weight that holds several projections, one after the other, has a pair for each of them.

    Args:
        inputs: columns of the weight.
        outputs: its rows.
        parts: projections in it.
        rank: width between the two narrow weights.
        alpha: the product is multiplied by alpha / rank.

    Source: Hu et al. 2021, LoRA, section 4.1.
    """

    def __init__(self, inputs: int, outputs: int, parts: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.factor = alpha / rank
        self.down = nn.Parameter(torch.empty(parts, rank, inputs).uniform_(-1, 1) / math.sqrt(inputs))
        self.up = nn.Parameter(torch.zeros(parts, outputs // parts, rank))

    def forward(self, weight: Float[Tensor, "outputs inputs"]) -> Float[Tensor, "outputs inputs"]:
        with torch.autocast(weight.device.type, enabled=False):  # trained with what will be exported
            return weight + self.factor * (self.up @ self.down).flatten(0, 1)


def adapt(encoder: nn.Module, adaptation: Adaptation) -> None:
    """Leave a gradient to the weights of an encoder that are to be trained, and add low-rank pairs if asked for.

    Args:
        encoder: with `conv` and `transformer`, whose blocks have `attention.qkv` and `attention.out`.
        adaptation: what is to be trained.

    Raises:
        UserError: more blocks than there are.
    """
    blocks = encoder.transformer.blocks
    if adaptation.kind == "partial" and adaptation.blocks > len(blocks):
        raise UserError(
            f"blocks={adaptation.blocks} is more than the {len(blocks)} that there are",
            remedy=f"blocks={len(blocks)} or fewer, or adaptation=full",
        )
    encoder.requires_grad_(adaptation.kind == "full")
    encoder.conv.requires_grad_(False)
    if adaptation.kind == "partial":
        blocks[-adaptation.blocks :].requires_grad_(True)
        if encoder.transformer.pre_norm:  # the norm comes after the last block
            encoder.transformer.norm.requires_grad_(True)
    if adaptation.kind == "lora":
        for block in blocks:
            for layer, parts in ((block.attention.qkv, 3), (block.attention.out, 1)):
                pair = LowRank(layer.in_features, layer.out_features, parts, adaptation.rank, adaptation.alpha)
                parametrize.register_parametrization(layer, "weight", pair, unsafe=True)


def merged_state(encoder: nn.Module) -> dict[str, Tensor]:
    """The weights of an encoder as any other program knows them: low-rank pairs are added to what they lie beside."""
    state = {name: tensor for name, tensor in encoder.state_dict().items() if ".parametrizations." not in name}
    for name, layer in encoder.named_modules():
        if parametrize.is_parametrized(layer, "weight"):
            state[f"{name}.weight"] = layer.weight.detach()
    return state
