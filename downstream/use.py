"""A trained head on features that nobody labelled: classes, texts with times, embeddings, translations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wavbench.downstream.decode import write_beams
from wavbench.downstream.fold import Head
from wavbench.downstream.heads.translator import Writer
from wavbench.downstream.objectives.translate import BEAMS, END, PENALTY, text_of
from wavbench.downstream.saved import Saved
from wavbench.upstream.errors import UserError

CHARACTERS_A_SECOND = 40  # most that a translation is written with


@dataclass(frozen=True)
class Token:
    """A symbol in time.

    Args:
        symbol: a character, phone or word.
        start: seconds.
        end: seconds.
    """

    symbol: str
    start: float
    end: float


def outputs_of(saved: Saved, head: Head, states: Float[Tensor, "layers frames dim"]) -> tuple[Tensor, np.ndarray]:
    """What a head makes of one utterance, and how many frames it saw.

    Args:
        saved: the folder that the head is of.
        head: one of its folds.
        states: of the layers `saved.layers`.
    """
    own = states[[saved.layers.index(layer) for layer in head.layers]].float()
    lengths = np.array([own.shape[1]])
    if saved.statistics is not None:
        pooled = {"mean": own.mean(dim=1), "std": own.std(dim=1, correction=0)}
        own = torch.cat([pooled[name] for name in saved.statistics], dim=1)[:, None]
    if own.shape[2] != head.model.inputs:
        raise UserError(
            f"the head reads features {head.model.inputs} wide, and these are {own.shape[2]}",
            where=saved.folder,
            remedy="give the upstream that it was trained on",
        )
    if head.shift is not None:
        own = (own - head.shift) * head.scale
    return own, lengths


@torch.inference_mode()
def classify(saved: Saved, states: Float[Tensor, "layers frames dim"]) -> dict[str, float]:
    """Probability of each class, the likeliest first; the mean over folds where a class that one lacks has none."""
    shares: dict[str, float] = {}
    for head in saved.heads:
        own, lengths = outputs_of(saved, head, states)
        for symbol, share in zip(head.symbols, head.model(own, lengths)[0, 0].softmax(dim=0).tolist(), strict=True):
            shares[symbol] = shares.get(symbol, 0.0) + share / len(saved.heads)
    return dict(sorted(shares.items(), key=lambda pair: (-pair[1], pair[0])))


@torch.inference_mode()
def embed(saved: Saved, states: Float[Tensor, "layers frames dim"]) -> Float[Tensor, " width"]:
    """The unit embedding of a voice; folds side by side."""
    parts = []
    for head in saved.heads:
        own, lengths = outputs_of(saved, head, states)
        parts.append(torch.nn.functional.normalize(head.model(own, lengths)[0, 0], dim=0))
    return torch.cat(parts) / len(parts) ** 0.5


@torch.inference_mode()
def emissions(saved: Saved, states: Float[Tensor, "layers frames dim"]) -> Float[np.ndarray, "steps classes"]:
    """Log-probabilities of CTC's classes, the blank first."""
    head = only_head(saved)
    own, lengths = outputs_of(saved, head, states)
    return head.model(own, lengths)[0].log_softmax(dim=1).numpy()


def tokens_of(outputs: Float[np.ndarray, "steps classes"], symbols: Sequence[str], seconds: float) -> list[Token]:
    """The likeliest class of every step, runs joined and blanks dropped, each symbol with its time.

    Args:
        outputs: scores, the blank first.
        symbols: of the classes behind the blank.
        seconds: that a step lasts.
    """
    best, found = outputs.argmax(axis=1), []
    edges = np.flatnonzero(np.diff(best, prepend=-1, append=-1))
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if best[start]:
            found.append(Token(symbols[best[start] - 1], start * seconds, end * seconds))
    return found


def aligned(
    outputs: Float[np.ndarray, "steps classes"], classes: Sequence[int], symbols: Sequence[str], seconds: float
) -> list[Token]:
    """Times of symbols that were found otherwise than step by step: the likeliest path of CTC that writes them.

    Args:
        outputs: log-probabilities, the blank first, of as many steps as the symbols need.
        classes: of the symbols, in order.
        symbols: of the classes behind the blank.
        seconds: that a step lasts.

    Source: Graves et al. 2006, section 4.1, with the maximum in the place of the sum.
    """
    if not len(classes):
        return []
    states = np.zeros(2 * len(classes) + 1, int)
    states[1::2] = classes  # blanks between them, and at both ends
    skips = np.append([False, False], (states[2:] != states[:-2]) & (states[2:] > 0))  # past a blank that need not be
    best = np.full(len(states), -np.inf)
    best[:2] = outputs[0, states[:2]]
    moves = np.zeros((len(outputs), len(states)), int)
    for step in range(1, len(outputs)):
        ways = np.full((3, len(states)), -np.inf)
        ways[0], ways[1, 1:] = best, best[:-1]
        ways[2, 2:] = np.where(skips[2:], best[:-2], -np.inf)
        moves[step] = ways.argmax(axis=0)
        best = ways.max(axis=0) + outputs[step, states]
    place = len(states) - 1 - int(best[-2] >= best[-1])
    path = [place]
    for step in range(len(outputs) - 1, 0, -1):
        place -= moves[step, place]
        path.append(place)
    path = np.array(path[::-1])
    found = []
    for number, symbol in enumerate(classes):
        steps = np.flatnonzero(path == 2 * number + 1)
        found.append(Token(symbols[symbol - 1], int(steps[0]) * seconds, (int(steps[-1]) + 1) * seconds))
    return found


def words_of(tokens: Sequence[Token]) -> list[Token]:
    """Characters joined to words at the blanks between them."""
    words: list[Token] = []
    inside = False
    for token in tokens:
        if not token.symbol.strip():
            inside = False
        elif inside:
            words[-1] = Token(words[-1].symbol + token.symbol, words[-1].start, token.end)
        else:
            words.append(token)
            inside = True
    return words


@torch.inference_mode()
def translate(saved: Saved, states: Float[Tensor, "layers frames dim"], frame_rate: float) -> str:
    """A translation by beam search."""
    head = only_head(saved)
    own, lengths = outputs_of(saved, head, states)
    bound = np.array([int(np.ceil(CHARACTERS_A_SECOND * lengths[0] / frame_rate))])
    ((part, seen),) = head.model.parts(own)
    memory = part.encode(seen, torch.from_numpy(lengths))
    ((written,),) = write_beams(Writer(part, memory, BEAMS), bound, PENALTY, END)
    return text_of([head.symbols[symbol - 1] for symbol in written], bool(saved.about.get("units")))


def only_head(saved: Saved) -> Head:
    """The head of a task without folds."""
    if len(saved.heads) != 1:
        raise UserError(
            f"the folder holds {len(saved.heads)} heads where one is needed",
            where=saved.folder,
            remedy="train it on a corpus with splits of its own",
        )
    return saved.heads[0]
