"""A small transformer that reads frames and writes symbols one by one: the head of speech translation.

Neighbouring frames are laid side by side and projected (a convolution whose kernel is its stride), blocks normalise
before they attend, positions are sinusoids.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wavbench.downstream.stacked import StackedDropout, StackedLinear, StackedNorm
from wavbench.downstream.utterances import padded

STRIDE = 4  # frames laid side by side: 80 ms at 50 Hz
FEW = 8  # queries at once while writing: one of each beam
ROOM = 64  # places that written keys and values grow by


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large it is.

    Args:
        width: of every state.
        hidden: between the linear layers of a block.
        attention_heads: of each attention.
        encoder_blocks: that read.
        decoder_blocks: that write.
        dropout: share of each block's outputs that is dropped in training, the same for all heads of a stack.
    """

    width: int = 192
    hidden: int = 512
    attention_heads: int = 4
    encoder_blocks: int = 2
    decoder_blocks: int = 2
    dropout: float = 0.0


SMALL = Shape()  # for a few hours of speech


@dataclass(frozen=True)
class Memory:
    """What the encoder made of a batch.

    Args:
        states: utterance by utterance, each as long as the longest.
        mask: which of them are valid.
    """

    states: Float[Tensor, "heads rows width"]
    mask: Bool[Tensor, "batch time"]


class Attention(nn.Module):
    """Stacked multi-head attention; keys and values are made apart, so that they can be kept while writing."""

    def __init__(self, heads: int, shape: Shape) -> None:
        super().__init__()
        width, self.attention_heads = shape.width, shape.attention_heads
        self.query = StackedLinear(heads, width, width)
        self.keys_and_values = StackedLinear(heads, width, 2 * width)
        self.out = StackedLinear(heads, width, width)

    def read(self, x: Float[Tensor, "heads rows width"], sequences: int) -> tuple[Tensor, Tensor]:
        """Keys and values, each (heads * sequences, attention heads, time, channels)."""
        keys, values = self.keys_and_values(x).chunk(2, dim=2)
        return self.apart(keys, sequences), self.apart(values, sequences)

    def forward(
        self,
        x: Float[Tensor, "heads rows width"],
        keys: Float[Tensor, "sequences attention time channels"],
        values: Float[Tensor, "sequences attention time channels"],
        mask: Bool[Tensor, "sequences 1 1 time"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "heads rows width"]:
        query = self.apart(self.query(x), len(keys) // len(x))
        # for few queries the fused kernel, which works on blocks of them, does nearly everything for nothing
        if query.shape[2] <= FEW and not causal:
            scores = (query @ keys.transpose(2, 3)) / math.sqrt(keys.shape[3])
            scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
            read = scores.softmax(dim=3) @ values
        else:
            read = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, is_causal=causal)
        return self.out(read.transpose(1, 2).reshape(x.shape))

    def apart(self, x: Float[Tensor, "heads rows width"], sequences: int) -> Tensor:
        """(heads * sequences, attention heads, time, channels)"""
        heads, rows, width = x.shape
        channels = width // self.attention_heads
        return x.reshape(heads * sequences, rows // sequences, self.attention_heads, channels).transpose(1, 2)


class Block(nn.Module):
    """Attention to its own sequence, in a decoder to the memory, and two linear layers; each after a norm."""

    def __init__(self, heads: int, shape: Shape, decoder: bool) -> None:
        super().__init__()
        width, hidden = shape.width, shape.hidden
        self.dropout = StackedDropout(shape.dropout)
        self.own_norm, self.own = StackedNorm(heads, width), Attention(heads, shape)
        if decoder:
            self.memory_norm, self.memory = StackedNorm(heads, width), Attention(heads, shape)
        self.norm = StackedNorm(heads, width)
        self.wide, self.narrow = StackedLinear(heads, width, hidden), StackedLinear(heads, hidden, width)

    def attend(self, x: Tensor, sequences: int, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        seen = self.own_norm(x)
        return x + self.dropout(self.own(seen, *self.own.read(seen, sequences), mask, causal))

    def look(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        return x + self.dropout(self.memory(self.memory_norm(x), keys, values, mask))

    def transform(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.narrow(F.gelu(self.wide(self.norm(x)))))


class Translator(nn.Module):
    """A stack of encoders and decoders.

    Args:
        heads: how many.
        inputs: width of the features.
        outputs: symbols; the first of them begins and ends what is written.
        shape: how large.

    Source: Vaswani et al. 2017, with the norms of Xiong et al. 2020.
    """

    takes_symbols = True  # forward wants more than frames

    def __init__(self, heads: int, inputs: int, outputs: int, shape: Shape = SMALL) -> None:
        super().__init__()
        self.shape, width = shape, shape.width
        self.front = StackedLinear(heads, STRIDE * inputs, width)
        self.encoder = nn.ModuleList(Block(heads, shape, False) for _ in range(shape.encoder_blocks))
        self.encoder_norm = StackedNorm(heads, width)
        self.symbols = nn.Parameter(torch.randn(outputs, width).expand(heads, -1, -1).clone())
        self.decoder = nn.ModuleList(Block(heads, shape, True) for _ in range(shape.decoder_blocks))
        self.decoder_norm = StackedNorm(heads, width)
        self.classify = StackedLinear(heads, width, outputs)

    def forward(
        self,
        frames: Float[Tensor, "heads total inputs"],
        lengths: Int[Tensor, " batch"],
        symbols: Int[Tensor, "batch places"],
    ) -> Float[Tensor, "heads batch places outputs"]:
        """Scores of the symbol that follows each place, given frames of utterances laid end to end."""
        return self.follow(self.encode(frames, lengths), symbols)

    def encode(self, frames: Float[Tensor, "heads total inputs"], lengths: Int[Tensor, " batch"]) -> Memory:
        heads, batch, device = len(frames), len(lengths), frames.device
        seen = padded(frames, lengths, STRIDE)
        time = seen.shape[2]
        # of an utterance without frames one step of zeros is valid: attention to nothing has no value
        mask = (torch.arange(time) < (-(-lengths // STRIDE)).clamp(min=1)[:, None]).to(device)
        x = self.front(seen.flatten(1, 2)) + _sinusoids(0, time, self.shape.width).repeat(batch, 1).to(device)
        wide = mask.repeat(heads, 1)[:, None, None]
        for block in self.encoder:
            x = block.transform(block.attend(x, batch, wide))
        return Memory(self.encoder_norm(x), mask)

    def follow(
        self, memory: Memory, symbols: Int[Tensor, "batch places"]
    ) -> Float[Tensor, "heads batch places outputs"]:
        """Scores of what follows each symbol: those behind it are not looked at."""
        heads, (batch, places) = len(memory.states), symbols.shape
        device = memory.states.device
        symbols = symbols.to(device)
        mask = memory.mask.repeat(heads, 1)[:, None, None]
        x = self.embed(symbols.expand(heads, -1, -1)) + _sinusoids(0, places, self.shape.width).repeat(batch, 1).to(
            device
        )
        for block in self.decoder:
            x = block.attend(x, batch, causal=True)
            x = block.transform(block.look(x, *block.memory.read(memory.states, batch), mask))
        return self.classify(self.decoder_norm(x)).reshape(heads, batch, places, -1)

    def embed(self, symbols: Int[Tensor, "heads *rest"]) -> Float[Tensor, "heads rows width"]:
        """Vectors of symbols, those of each head from its own table."""
        heads, outputs, width = self.symbols.shape
        places = symbols.reshape(heads, -1) + outputs * torch.arange(heads, device=symbols.device)[:, None]
        return F.embedding(places, self.symbols.reshape(heads * outputs, width))


class Writer:
    """Half-written sequences of a stack: symbol by symbol, with the keys and values of what was written.

    Args:
        model: who writes.
        memory: what is read.
        beams: sequences written for each utterance.
    """

    def __init__(self, model: Translator, memory: Memory, beams: int) -> None:
        self.model, self.place = model, 0
        self.shape = (len(memory.states), len(memory.mask), beams)
        self.mask = memory.mask.repeat(len(memory.states), 1)[:, None, None]
        self.read = [block.memory.read(memory.states, len(memory.mask)) for block in model.decoder]
        self.written: list[tuple[Tensor, Tensor]] = []
        heads, batch, _ = self.shape
        for _ in model.decoder:  # room for some places: growing by one would copy all at every step
            size = model.shape
            shape = (heads * batch * beams, size.attention_heads, ROOM, size.width // size.attention_heads)
            self.written.append((memory.states.new_zeros(shape), memory.states.new_zeros(shape)))

    def step(self, symbols: Int[Tensor, "heads batch beams"]) -> Float[Tensor, "heads batch beams outputs"]:
        """Log-probabilities of what comes next, after one more symbol."""
        heads, batch, beams = self.shape
        device = self.mask.device
        x = self.model.embed(symbols.to(device)) + _sinusoids(self.place, 1, self.model.shape.width).to(device)
        for number, block in enumerate(self.model.decoder):
            seen = block.own_norm(x)
            if self.place == self.written[number][0].shape[2]:
                self.written[number] = tuple(F.pad(kept, (0, 0, 0, ROOM)) for kept in self.written[number])
            now = []
            for kept, new in zip(self.written[number], block.own.read(seen, batch * beams), strict=True):
                kept[:, :, self.place] = new[:, :, 0]
                now.append(kept[:, :, : self.place + 1])
            x = x + block.own(seen, *now)
            x = block.transform(block.look(x, *self.read[number], self.mask))  # the beams of an utterance as one query
        self.place += 1
        outputs = self.model.classify(self.model.decoder_norm(x)).log_softmax(dim=2)
        return outputs.reshape(heads, batch, beams, -1).cpu()

    def reorder(self, parents: Int[Tensor, "heads batch beams"]) -> None:
        """Go on with these beams."""
        heads, batch, beams = self.shape
        rows = (parents + beams * torch.arange(heads * batch).reshape(heads, batch, 1)).flatten().to(self.mask.device)
        for kept in (each for pair in self.written for each in pair):
            filled = kept[:, :, : self.place]
            filled.copy_(filled.index_select(0, rows))


def _sinusoids(first: int, places: int, width: int) -> Float[Tensor, "places width"]:
    """Source: Vaswani et al. 2017, section 3.5; sines first, then cosines."""
    rates = torch.exp(-math.log(10_000) * torch.arange(width // 2) / (width // 2))
    angles = torch.arange(first, first + places)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


build = Translator
