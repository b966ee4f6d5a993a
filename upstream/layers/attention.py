"""Self-attention over packed frames: the only place where utterances are seen apart."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wavbench.upstream.layers.linear import linear

PLAIN_FRAMES = 1_500  # 30 s: the longest utterance whose attention weights are kept for the gradient
QUERIES = 256  # whose scores are computed at once at inference, where they are kept: they stay in the cache


class SelfAttention(nn.Module):
    """Multi-head attention of the frames of each utterance to each other.

    Args:
        dim: width of a frame.
        num_heads: divides `dim`.
        dropout: share of attention weights dropped in training.
        gated: add a table of relative positions to the scores, gated by each query.

    Source: Vaswani et al. 2017, section 3.2; Chen et al. 2022, WavLM, equations 3 to 8 (gates).
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0, *, gated: bool = False) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{num_heads} heads do not divide {dim} channels")
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim)  # query, key and value, one after the other
        self.out = nn.Linear(dim, dim)
        self.gate = Gate(num_heads, dim // num_heads) if gated else None

    def forward(
        self,
        x: Float[Tensor, "total_frames dim"],
        lengths: Sequence[int],
        table: Float[Tensor, "heads longest longest"] | None = None,
    ) -> Float[Tensor, "total_frames dim"]:
        """Attention of the packed frames `x`; `table` holds the relative positions that gates act on."""
        qkv = linear(self.qkv, x)
        gate = self.gate(x) if self.gate is not None else None  # (total_frames, heads)
        attention = functools.partial(attend, dropout=self.dropout if self.training else 0.0)
        if x.is_cuda and not torch.is_grad_enabled():
            y = ragged(qkv, lengths, self.num_heads, gate, table)
        else:
            y = apart(qkv, lengths, self.num_heads, gate, table, attention)
        return linear(self.out, y)


class Gate(nn.Module):
    """How much of the relative positions each query and head lets in, from its own part of the frame.

    Source: Chen et al. 2022, WavLM, equations 6 to 8; as in its code, the two gates sum four outputs each.
    """

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.inner = nn.Linear(head_dim, 8)
        self.scale = nn.Parameter(torch.ones(1, num_heads, 1, 1))  # its shape in released checkpoints

    def forward(self, x: Float[Tensor, "total_frames dim"]) -> Float[Tensor, "total_frames heads"]:
        weight, bias = self._summed()
        heads = x.view(len(x), self.num_heads, 1, -1)
        parts = (heads * weight).sum(dim=-1) + bias  # (total_frames, heads, 2); autocast leaves sums alone
        update, reset = parts.sigmoid().unbind(-1)
        return update * (reset * self.scale.view(-1) - 1.0) + 2.0

    def _summed(self) -> tuple[Float[Tensor, "2 head_dim"], Float[Tensor, " 2"]]:
        """The sum of four outputs is one output of the summed weights."""
        return self.inner.weight.unflatten(0, (2, 4)).sum(dim=1), self.inner.bias.unflatten(0, (2, 4)).sum(dim=1)


class RelativePositions(nn.Module):
    """A number per head and distance between query and key; far distances share buckets.

    Args:
        num_heads: of attention.
        buckets: distances told apart, half of them ahead and half behind.
        max_distance: frames from which on all distances are one.

    Source: Raffel et al. 2020, T5, section 2.1; Chen et al. 2022, WavLM, section III.B.
    """

    def __init__(self, num_heads: int, buckets: int, max_distance: int) -> None:
        super().__init__()
        self.buckets, self.max_distance = buckets, max_distance
        self.embedding = nn.Parameter(0.02 * torch.randn(buckets, num_heads))

    def forward(self, frames: int) -> Float[Tensor, "heads frames frames"]:
        """The table for utterances of up to `frames` frames: shorter ones see its first rows and columns."""
        distances = torch.arange(1 - frames, frames, device=self.embedding.device)  # key - query
        values = self.embedding[self.bucket(distances)].T  # (heads, 2 frames - 1)
        return values.unfold(1, frames, 1).flip(1)

    def bucket(self, distances: Tensor) -> Tensor:
        half = self.buckets // 2
        exact = half // 2
        far = distances.abs().clamp(min=1).float() / exact
        coarse = (exact + torch.log(far) / math.log(self.max_distance / exact) * (half - exact)).long()
        near = torch.where(distances.abs() < exact, distances.abs(), coarse.clamp(max=half - 1))
        return near + half * (distances > 0)


def apart(
    qkv: Float[Tensor, "total_frames three_dim"],
    lengths: Sequence[int],
    num_heads: int,
    gate: Float[Tensor, "total_frames heads"] | None,
    table: Float[Tensor, "heads longest longest"] | None,
    attention: Callable[..., Tensor],
) -> Float[Tensor, "total_frames dim"]:
    """One call of `attention` for neighbouring utterances of equal length."""
    outputs, start = [], 0
    for frames, group in groupby(lengths):
        count = sum(1 for _ in group)
        if frames:
            rows = slice(start, start + count * frames)
            query, key, value = qkv[rows].view(count, frames, 3, num_heads, -1).permute(2, 0, 3, 1, 4)
            bias = None
            if gate is not None:
                bias = gate[rows].view(count, frames, num_heads, 1).transpose(1, 2), table[:, :frames, :frames]
            outputs.append(attention(query, key, value, bias=bias).transpose(1, 2).reshape(count * frames, -1))
        start += count * frames
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


def ragged(
    qkv: Float[Tensor, "total_frames three_dim"],
    lengths: Sequence[int],
    num_heads: int,
    gate: Float[Tensor, "total_frames heads"] | None = None,
    table: Float[Tensor, "heads longest longest"] | None = None,
) -> Float[Tensor, "total_frames dim"]:
    """All utterances at once, for a GPU and inference: without padding in half precision, else with masked padding.

    Only attention's own products are padded, some percent of a forward pass.
    """
    layout = _layout(tuple(lengths), qkv.device)
    if gate is None and has_varlen(qkv, num_heads):
        from torch.nn.attention.varlen import varlen_attn

        query, key, value = qkv.view(len(qkv), 3, num_heads, -1).unbind(1)
        longest = max(lengths)
        return varlen_attn(query, key, value, layout.ends, layout.ends, longest, longest).flatten(1)
    batch, longest = len(lengths), max(lengths)

    def padded(x: Tensor) -> Tensor:
        return x.new_zeros(batch * longest, x.shape[1]).index_copy_(0, layout.places, x).view(batch, longest, -1)

    query, key, value = padded(qkv).unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
    mask = layout.valid
    if gate is not None:
        bias = (padded(gate).transpose(1, 2)[..., None] * table).to(qkv.dtype)
        mask = bias.masked_fill_(~mask, -math.inf)
    y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return y.transpose(1, 2).reshape(batch * longest, -1)[layout.places]


class _Layout(NamedTuple):
    ends: Int[Tensor, " batch_plus_1"]  # of each utterance in packed frames, a zero before them
    places: Int[Tensor, " total_frames"]  # of packed frames in padded ones
    valid: Bool[Tensor, "batch 1 1 longest"]


@functools.lru_cache(maxsize=4)
def _layout(lengths: tuple[int, ...], device: torch.device) -> _Layout:
    """Made once per forward pass and not per block: a copy to the device makes it wait."""
    sizes = torch.tensor(lengths)
    valid = torch.arange(max(lengths)) < sizes[:, None]
    ends = F.pad(sizes.cumsum(0), (1, 0)).to(torch.int32)
    places = valid.flatten().nonzero()[:, 0]
    return _Layout(ends.to(device), places.to(device), valid[:, None, None, :].to(device))


def has_varlen(qkv: Float[Tensor, "total_frames three_dim"], num_heads: int) -> bool:
    """Whether torch has a kernel for utterances of any lengths: half precision, heads of 8 to 256, Ampere or later."""
    width = qkv.shape[1] // (3 * num_heads)
    half = qkv.is_cuda and qkv.dtype in (torch.bfloat16, torch.float16)
    return half and width % 8 == 0 and width <= 256 and torch.cuda.get_device_capability(qkv.device) >= (8, 0)


def attend(
    query: Float[Tensor, "count heads frames head_dim"],
    key: Float[Tensor, "count heads frames head_dim"],
    value: Float[Tensor, "count heads frames head_dim"],
    *,
    dropout: float = 0.0,
    bias: tuple[Float[Tensor, "count heads frames 1"], Float[Tensor, "heads frames frames"]] | None = None,
) -> Float[Tensor, "count heads frames head_dim"]:
    """Scaled dot-product attention; as plain products where those are faster.

    On a CPU the library's fused attention in bfloat16 takes twice as long, forward and back, as two products with a
    softmax between them; in float32 it is the faster one. For the gradient the products keep all weights, hence the
    limit; without one they go over some queries at a time.

    Args:
        query: as `key` and `value`.
        key: of the same frames.
        value: of the same frames.
        dropout: share of attention weights dropped.
        bias: a gate per query and a table of relative positions, whose product is added to the scores.
    """
    plain = query.device.type == "cpu" and query.dtype is torch.bfloat16
    frozen = not torch.is_grad_enabled()
    if plain and frozen:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        return torch.cat([plain_attention(*part, key, value) for part in _parts(query, bias)], dim=2)
    if plain and query.shape[2] <= PLAIN_FRAMES:
        return plain_attention(query, bias, key, value, dropout)
    if frozen and bias is not None:  # the product of gates and table is as large as all scores
        return torch.cat([_fused(*part, key, value, 0.0) for part in _parts(query, bias)], dim=2)
    return _fused(query, bias, key, value, dropout)


def _fused(query: Tensor, bias: tuple[Tensor, Tensor] | None, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    mask = None if bias is None else (bias[0] * bias[1]).to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


def _parts(query: Tensor, bias: tuple[Tensor, Tensor] | None) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor] | None]]:
    for start in range(0, query.shape[2], QUERIES):
        rows = slice(start, start + QUERIES)
        yield query[:, :, rows], None if bias is None else (bias[0][:, :, rows], bias[1][:, rows])


def plain_attention(
    query: Tensor, bias: tuple[Tensor, Tensor] | None, key: Tensor, value: Tensor, dropout: float = 0.0
) -> Tensor:
    scores = query / math.sqrt(query.shape[-1]) @ key.transpose(-2, -1)  # (count, heads, queries, frames)
    if bias is not None:
        scores = scores + (bias[0] * bias[1]).to(scores.dtype)
    return F.dropout(scores.softmax(dim=-1), dropout) @ value
