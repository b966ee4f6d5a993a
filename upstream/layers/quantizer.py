"""Continuous latents to a product of learned codes, differentiable through the Gumbel softmax."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class Quantized:
    """Codes of some frames.

    Args:
        vectors: the chosen entries of all groups, one after the other.
        codes: number of the chosen entry in each group.
        perplexity: exp of the entropy of the mean choice, summed over groups: at most groups x entries.
    """

    vectors: Float[Tensor, "frames dim"]
    codes: Int[Tensor, "frames groups"]
    perplexity: Float[Tensor, ""]


class GumbelQuantizer(nn.Module):
    """Product quantization: in every group one entry is chosen, and the entries are concatenated.

    In training the choice is a sample (Gumbel noise at a temperature), with the gradient of its soft version; in
    evaluation it is the most probable entry.

    Args:
        dim_in: width of a latent.
        groups: codebooks.
        entries: of each codebook.
        dim: width of all groups together; a multiple of `groups`.

    Source: Baevski et al. 2020, wav2vec 2.0, section 2, equation 1; Jang et al. 2017.
    """

    def __init__(self, dim_in: int, groups: int, entries: int, dim: int) -> None:
        super().__init__()
        if dim % groups:
            raise ValueError(f"{groups} groups do not divide {dim} channels")
        self.groups, self.entries = groups, entries
        self.choose = nn.Linear(dim_in, groups * entries)
        self.codebook = nn.Parameter(torch.randn(groups, entries, dim // groups))
        nn.init.normal_(self.choose.weight, std=1.0)
        nn.init.zeros_(self.choose.bias)

    def forward(self, x: Float[Tensor, "frames dim_in"], temperature: float, noise: Tensor | None = None) -> Quantized:
        """Choose.

        Args:
            x: latents.
            temperature: of the Gumbel softmax, in training.
            noise: Gumbel(0, 1) samples [frames, groups, entries]; drawn where None.
        """
        logits = self.choose(x).view(len(x), self.groups, self.entries).float()
        if self.training:
            if noise is None:
                noise = -torch.empty_like(logits).exponential_().log()
            soft = torch.softmax((logits + noise) / temperature, dim=-1)
            codes = soft.argmax(dim=-1)
            hard = F.one_hot(codes, self.entries).to(soft.dtype)
            choice = hard + soft - soft.detach()
            mean = torch.softmax(logits, dim=-1).sum(dim=0) / max(len(x), 1)
        else:
            codes = logits.argmax(dim=-1)
            choice = F.one_hot(codes, self.entries).to(logits.dtype)
            mean = choice.sum(dim=0) / max(len(x), 1)
        vectors = torch.einsum("fge,ged->fgd", choice.to(x.dtype), self.codebook.to(x.dtype)).flatten(1)
        entropy = -(mean * torch.log(mean + 1e-7)).sum(dim=-1)  # (groups,)
        return Quantized(vectors, codes, entropy.exp().sum())
