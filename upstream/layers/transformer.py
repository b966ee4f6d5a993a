"""Transformer blocks over packed frames: only attention sees utterances apart."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from wavbench.upstream.layers.attention import RelativePositions, SelfAttention
from wavbench.upstream.layers.linear import linear


class FeedForward(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, dim: int, inner_dim: int, inner_dropout: float = 0.0) -> None:
        super().__init__()
        self.inner = nn.Linear(dim, inner_dim)
        self.dropout = nn.Dropout(inner_dropout)
        self.out = nn.Linear(inner_dim, dim)

    def forward(self, x: Float[Tensor, "total_frames dim"]) -> Float[Tensor, "total_frames dim"]:
        return linear(self.out, self.dropout(linear(self.inner, x, gelu=True)))


class Adapter(nn.Module):
    """A norm and a narrow feed-forward part beside it, a few weights that differ between languages.

    Source: Pratap et al. 2023, MMS, section 5.1.
    """

    def __init__(self, dim: int, inner_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.inner = nn.Linear(dim, inner_dim)
        self.out = nn.Linear(inner_dim, dim)

    def forward(self, x: Float[Tensor, "total_frames dim"]) -> Float[Tensor, "total_frames dim"]:
        return linear(self.out, F.relu(linear(self.inner, self.norm(x))))


class Block(nn.Module):
    """Attention and feed-forward, each with a residual and a norm.

    Args:
        dim: width of a frame.
        num_heads: of attention.
        inner_dim: width between the two linear layers.
        pre_norm: norm before each part (stable when deep), or after its residual.
        eps: of the norms.
        dropout: share dropped from the output of each part in training.
        attention_dropout: share of attention weights dropped in training.
        inner_dropout: share dropped between the two linear layers in training.
        gated: attention adds gated relative positions.
        adapter_dim: width of an adapter after the block, 0 for none; pre-norm blocks only.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        inner_dim: int,
        *,
        pre_norm: bool,
        eps: float = 1e-5,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        inner_dropout: float = 0.0,
        gated: bool = False,
        adapter_dim: int = 0,
    ) -> None:
        super().__init__()
        if adapter_dim and not pre_norm:
            raise ValueError("only pre-norm blocks have adapters")
        self.pre_norm = pre_norm
        self.attention = SelfAttention(dim, num_heads, attention_dropout, gated=gated)
        self.attention_norm = nn.LayerNorm(dim, eps=eps)
        self.feed_forward = FeedForward(dim, inner_dim, inner_dropout)
        self.feed_forward_norm = nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.adapter = Adapter(dim, adapter_dim) if adapter_dim else None

    def forward(
        self,
        x: Float[Tensor, "total_frames dim"],
        lengths: Sequence[int],
        table: Float[Tensor, "heads longest longest"] | None = None,
    ) -> Float[Tensor, "total_frames dim"]:
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.attention_norm(x), lengths, table))
            x = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
            return x if self.adapter is None else x + self.adapter(x)
        x = self.attention_norm(x + self.dropout(self.attention(x, lengths, table)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class Transformer(nn.Module):
    """Positions, then blocks; gives the input of the first block and the output of every block.

    With post-norm blocks the norm comes before the first block; with pre-norm blocks it comes after the last
    one, and the last state is its output.

    Args:
        positions: what is added to every frame.
        blocks: one after the other, all pre-norm or all post-norm.
        dim: width of a frame.
        pre_norm: as in the blocks.
        eps: of the norm.
        dropout: share dropped from the input of the first block in training.
        layerdrop: share of blocks skipped in training.
        relative: table of relative positions, computed once for all blocks.
    """

    def __init__(
        self,
        positions: nn.Module,
        blocks: Sequence[nn.Module],
        *,
        dim: int,
        pre_norm: bool,
        eps: float = 1e-5,
        dropout: float = 0.0,
        layerdrop: float = 0.0,
        relative: RelativePositions | None = None,
    ) -> None:
        super().__init__()
        self.pre_norm, self.layerdrop = pre_norm, layerdrop
        self.positions, self.relative = positions, relative
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(blocks)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):  # as BERT and fairseq's `init_bert_params`
                nn.init.normal_(module.weight, 0.0, 0.02)
                nn.init.zeros_(module.bias)

    def forward(
        self, x: Float[Tensor, "total_frames dim"], lengths: Sequence[int], top: int | None = None
    ) -> list[Float[Tensor, "total_frames dim"]]:
        """States 0 to `top`, all where None; blocks above are not run."""
        if torch.is_autocast_enabled(x.device.type) and not torch.is_grad_enabled():
            x = x.float()  # products give half precision on a GPU, and the residual stream is to keep float32
        x = x + self.positions(x, lengths)
        x = self.dropout(x if self.pre_norm else self.norm(x))
        table = self.relative(max(lengths)) if self.relative is not None else None
        states = [x]
        for block in self.blocks[:top]:
            if not (self.training and self.layerdrop and torch.rand(()) < self.layerdrop):
                x = block(x, lengths, table)
            states.append(x)
        if self.pre_norm and len(states) > len(self.blocks):
            states[-1] = self.norm(x)
        return states
