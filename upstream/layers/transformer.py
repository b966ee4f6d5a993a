"""Transformer blocks over packed frames: only attention sees utterances apart."""

import math
from collections.abc import Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from wavbench.upstream.layers.linear import linear
from wavbench.upstream.layers.positions import PositionalConv

PLAIN_FRAMES = 1_500  # 30 s: the longest utterance whose attention weights are kept for the gradient


class SelfAttention(nn.Module):
    """Multi-head attention of the frames of each utterance to each other.

    Args:
        dim: width of a frame.
        num_heads: divides `dim`.
        dropout: share of attention weights dropped in training.

    Source: Vaswani et al. 2017, section 3.2.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{num_heads} heads do not divide {dim} channels")
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim)  # query, key and value, one after the other
        self.out = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "total_frames dim"], lengths: Sequence[int]
    ) -> Float[Tensor, "total_frames dim"]:
        qkv = linear(self.qkv, x)
        outputs, start = [], 0
        for frames, group in groupby(lengths):  # neighbours of equal length go together
            count = sum(1 for _ in group)
            if frames:
                part = qkv[start : start + count * frames].view(count, frames, 3, self.num_heads, -1)
                query, key, value = part.permute(2, 0, 3, 1, 4)  # (count, heads, frames, head_dim) each
                dropout = self.dropout if self.training else 0.0
                y = attend(query, key, value, dropout)
                outputs.append(y.transpose(1, 2).reshape(count * frames, -1))
            start += count * frames
        return linear(self.out, torch.cat(outputs) if len(outputs) > 1 else outputs[0])


def attend(
    query: Float[Tensor, "count heads frames head_dim"],
    key: Float[Tensor, "count heads frames head_dim"],
    value: Float[Tensor, "count heads frames head_dim"],
    dropout: float,
) -> Float[Tensor, "count heads frames head_dim"]:
    """Scaled dot-product attention; as plain products where those train faster.

    On a CPU the library's fused attention in bfloat16 takes twice as long forward and back as two products with a
    softmax between them; in float32 it is the faster one. The products keep all weights, hence the limit.
    """
    plain = query.device.type == "cpu" and query.dtype is torch.bfloat16 and query.shape[2] <= PLAIN_FRAMES
    if not (plain and torch.is_grad_enabled()):
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    scores = query / math.sqrt(query.shape[-1]) @ key.transpose(-2, -1)  # (count, heads, frames, frames)
    return F.dropout(scores.softmax(dim=-1), dropout) @ value


class FeedForward(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, dim: int, inner_dim: int, inner_dropout: float = 0.0) -> None:
        super().__init__()
        self.inner = nn.Linear(dim, inner_dim)
        self.dropout = nn.Dropout(inner_dropout)
        self.out = nn.Linear(inner_dim, dim)

    def forward(self, x: Float[Tensor, "total_frames dim"]) -> Float[Tensor, "total_frames dim"]:
        return linear(self.out, self.dropout(linear(self.inner, x, gelu=True)))


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
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = SelfAttention(dim, num_heads, attention_dropout)
        self.attention_norm = nn.LayerNorm(dim, eps=eps)
        self.feed_forward = FeedForward(dim, inner_dim, inner_dropout)
        self.feed_forward_norm = nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "total_frames dim"], lengths: Sequence[int]
    ) -> Float[Tensor, "total_frames dim"]:
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.attention_norm(x), lengths))
            return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        x = self.attention_norm(x + self.dropout(self.attention(x, lengths)))
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
    """

    def __init__(
        self,
        positions: PositionalConv,
        blocks: Sequence[nn.Module],
        *,
        dim: int,
        pre_norm: bool,
        eps: float = 1e-5,
        dropout: float = 0.0,
        layerdrop: float = 0.0,
    ) -> None:
        super().__init__()
        self.pre_norm, self.layerdrop = pre_norm, layerdrop
        self.positions = positions
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(blocks)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):  # as BERT and fairseq's `init_bert_params`
                nn.init.normal_(module.weight, 0.0, 0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Float[Tensor, "total_frames dim"], lengths: Sequence[int]) -> list[Tensor]:
        x = x + self.positions(x, lengths)
        x = self.dropout(x if self.pre_norm else self.norm(x))
        states = [x]
        for block in self.blocks:
            if not (self.training and self.layerdrop and torch.rand(()) < self.layerdrop):
                x = block(x, lengths)
            states.append(x)
        if self.pre_norm:
            states[-1] = self.norm(x)
        return states
