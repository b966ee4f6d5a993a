"""From outputs of heads to symbol sequences: frame by frame, or written one symbol after the other."""

import itertools
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def greedy_ctc(
    outputs: Float[Tensor, "heads frames classes"], lengths: Int[np.ndarray, " batch"], blank: int = 0
) -> list[list[list[int]]]:
    """Best class per frame, repeats joined, blanks dropped.

    Args:
        outputs: scores of utterances laid end to end.
        lengths: frames of each utterance.
        blank: class of the blank.

    Returns:
        For each head, for each utterance, its symbols.
    """
    best = outputs.argmax(dim=2).numpy()
    starts = np.cumsum(lengths) - lengths
    new = np.ones_like(best, bool)
    new[:, 1:] = best[:, 1:] != best[:, :-1]
    new[:, starts[lengths > 0]] = True  # the first frame of an utterance repeats nothing
    keep = new & (best != blank)
    return [
        [
            best[head, s : s + n][keep[head, s : s + n]].tolist()
            for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)
        ]
        for head in range(len(best))
    ]


def frames_needed(target: Sequence) -> int:
    """The fewest frames that CTC can write a sequence in: a blank parts two that are alike.

    Source: Graves et al. 2006, section 3.1.
    """
    return len(target) + sum(one == after for one, after in itertools.pairwise(target))


@runtime_checkable
class Writer(Protocol):
    """What writes symbol by symbol; see heads/translator.py."""

    shape: tuple[int, int, int]  # heads, utterances, beams

    def step(self, symbols: Int[Tensor, "heads batch beams"]) -> Float[Tensor, "heads batch beams outputs"]: ...

    def reorder(self, parents: Int[Tensor, "heads batch beams"]) -> None: ...


@torch.no_grad()
def write_greedily(writer: Writer, bounds: Int[np.ndarray, " batch"], end: int = 0) -> list[list[list[int]]]:
    """The likeliest symbol each time, up to the end.

    Args:
        writer: with one beam.
        bounds: most symbols of each utterance.
        end: symbol that begins and ends.

    Returns:
        For each head, for each utterance, its symbols.
    """
    heads, batch, _ = writer.shape
    symbols, places = torch.full((heads, batch, 1), end), []
    lengths = torch.from_numpy(bounds).expand(heads, -1).clone()
    for place in range(int(bounds.max(initial=0))):
        symbols = writer.step(symbols).argmax(dim=3)
        places.append(symbols[:, :, 0])
        lengths = torch.where(places[-1] == end, lengths.clamp(max=place), lengths)
        if (lengths <= place + 1).all():
            break
    written = torch.stack(places, dim=2).tolist() if places else [[[]] * batch] * heads
    return [
        [symbols[:length] for symbols, length in zip(rows, own, strict=True)]
        for rows, own in zip(written, lengths.tolist(), strict=True)
    ]


@torch.no_grad()
def write_beams(
    writer: Writer, bounds: Int[np.ndarray, " batch"], penalty: float = 1.0, end: int = 0
) -> list[list[list[int]]]:
    """The best of several sequences that are written side by side.

    An utterance is done once as many sequences have ended as it has beams, or at its bound, where all must end: what
    that costs is counted, or those that are cut off would be ahead of those that have ended.

    Args:
        writer: with as many beams as shall be kept.
        bounds: most symbols of each utterance.
        penalty: log-probabilities are divided by the length, the end counted, to this power.
        end: symbol that begins and ends.

    Source: the search of fairseq's SequenceGenerator.
    """
    heads, batch, beams = writer.shape
    symbols, written = torch.full(writer.shape, end), torch.empty(*writer.shape, 0, dtype=torch.long)
    scores = torch.full(writer.shape, -torch.inf)
    scores[:, :, 0] = 0  # all beams begin alike: only one may go on
    best, ended = np.full((heads, batch), -np.inf), np.zeros((heads, batch), int)
    found: list[list[list[int]]] = [[[] for _ in range(batch)] for _ in range(heads)]
    done = np.tile(bounds <= 0, (heads, 1))

    def offer(values: Tensor, sequences: Tensor) -> None:
        """Keep the best ended sequence of each utterance that is not done yet; -inf where none has ended."""
        value, place = (x.numpy() for x in values.max(dim=2))
        for head, row in np.argwhere(~done & (value > best)):
            best[head, row] = value[head, row]
            found[head][row] = sequences[head, row, place[head, row]].tolist()

    for place in range(int(bounds.max(initial=0)) + 1):
        likely = scores[..., None] + writer.step(symbols)
        outputs = likely.shape[3]
        last = torch.from_numpy(bounds <= place)[:, None, None] & (torch.arange(outputs) != end)
        likely = likely.masked_fill(last, -torch.inf)
        top, flat = likely.flatten(2).topk(2 * beams, dim=2)  # of 2n at least n go on: each beam has one end
        parents, symbol = flat // outputs, flat % outputs
        ends = symbol == end
        first = ends[:, :, :beams] & torch.isfinite(top[:, :, :beams])
        rows = parents[:, :, :beams, None].expand(-1, -1, -1, place)
        values = torch.where(first, top[:, :, :beams] / (place + 1) ** penalty, -torch.inf)
        offer(values, written.gather(2, rows))
        ended += first.sum(dim=2).numpy()
        done |= (ended >= beams) | (bounds <= place)
        if done.all():
            break
        order = ends.long().argsort(dim=2, stable=True)[:, :, :beams]  # those that go on, the likeliest first
        scores, parents, symbols = (x.gather(2, order) for x in (top, parents, symbol))
        written = written.gather(2, parents[..., None].expand(-1, -1, -1, place))
        written = torch.cat([written, symbols[..., None]], dim=3)
        writer.reorder(parents)
    return found
