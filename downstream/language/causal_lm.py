"""A small causal transformer over characters: any word has a probability, seen in training or not."""

import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.downstream.language.ngrams import Fit
from wavbench.upstream.checkpoints import read_json, read_safetensors, refuse_misfits, refuse_not_finite
from wavbench.upstream.claims import temporary_in
from wavbench.upstream.errors import UserError

FORMAT = "wavbench causal language model 1"
SETTINGS, TENSORS = "language_model.json", "model.safetensors"
EDGE, STRANGER, IGNORED = 0, 1, -1  # begin and end of a sentence; any character that training text lacks
SCORED_AT_ONCE = 8_192  # characters
MAX_SETTINGS = 8 << 20  # bytes
MOST = {"width": 2_048, "layers": 48, "heads": 64, "context": 8_192}  # sizes of a file that is still believed


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of the transformer; 1.9 million parameters as they are.

    Args:
        width: of every state.
        layers: blocks.
        heads: of attention; `width` is a multiple of it.
        context: characters seen at most; longer sentences are scored in windows that overlap by half.
        dropout: in training.
    """

    width: int = 192
    layers: int = 4
    heads: int = 4
    context: int = 256
    dropout: float = 0.2


class CausalLm(nn.Module):
    """Pre-norm transformer whose output for a place is the next character.

    Args:
        characters: known ones; others share one class.
        shape: sizes.
    """

    def __init__(self, characters: tuple[str, ...], shape: Shape) -> None:
        super().__init__()
        self.characters, self.shape = characters, shape
        self.index = {character: number for number, character in enumerate(characters, start=STRANGER + 1)}
        self.symbols = nn.Embedding(len(characters) + 2, shape.width)
        self.places = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                shape.width,
                shape.heads,
                4 * shape.width,
                shape.dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(shape.layers)
        )
        self.norm = nn.LayerNorm(shape.width)
        for embedding in (self.symbols, self.places):
            nn.init.normal_(embedding.weight, std=0.02)  # outputs share the symbols' weights and begin nearly equal

    def forward(self, symbols: Int[Tensor, "batch places"]) -> Float[Tensor, "batch places outputs"]:
        """Logits of the character after each place."""
        count = symbols.shape[1]
        states = self.symbols(symbols) + self.places.weight[:count]
        mask = torch.full((count, count), -torch.inf, device=symbols.device).triu(1)
        for block in self.blocks:
            states = block(states, src_mask=mask, is_causal=True)
        return F.linear(self.norm(states), self.symbols.weight)

    def windows(self, sentence: str) -> list[tuple[list[int], list[int]]]:
        """Inputs and targets of a sentence; IGNORED where the window before has scored the place already."""
        classes = [self.index.get(character, STRANGER) for character in sentence]
        inputs, targets = [EDGE, *classes], [*classes, EDGE]
        context, half = self.shape.context, self.shape.context // 2
        made = [(inputs[:context], targets[:context])]
        start = context - half
        while start + half < len(inputs):
            fresh = targets[start : start + context]
            made.append((inputs[start : start + context], [IGNORED] * half + fresh[half:]))
            start += context - half
        return made

    @torch.no_grad()
    def log_probability(self, sentences: Sequence[str]) -> Float[Tensor, " sentences"]:
        """Natural logarithm of each sentence's probability, its end included.

        All characters that training lacks share the probability of one class, so that a sentence with them counts as
        likelier than it is.
        """
        was_training = self.training
        self.eval()
        pieces = [(row, window) for row, sentence in enumerate(sentences) for window in self.windows(sentence)]
        totals = torch.zeros(len(sentences), dtype=torch.float64)
        for batch in _batches(pieces, SCORED_AT_ONCE):
            losses = self._losses([window for _, window in batch]).sum(dim=1).double()
            totals.index_add_(0, torch.tensor([row for row, _ in batch]), -losses)
        self.train(was_training)
        return totals

    def _losses(self, windows: list[tuple[list[int], list[int]]]) -> Float[Tensor, "batch places"]:
        """Negative logarithm of the probability of each target, 0 where there is none."""
        inputs, targets = (
            nn.utils.rnn.pad_sequence([torch.tensor(w[side]) for w in windows], True, filler)
            for side, filler in ((0, EDGE), (1, IGNORED))
        )
        return F.cross_entropy(self(inputs).transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")


def _batches(pieces: list[tuple[int, tuple]], size: int) -> list[list[tuple[int, tuple]]]:
    """Windows of about the same length together, up to `size` characters with their padding."""
    batches: list[list] = []
    for piece in sorted(pieces, key=lambda piece: len(piece[1][0]), reverse=True):
        if not batches or (len(batches[-1]) + 1) * len(batches[-1][0][1][0]) > size:
            batches.append([])
        batches[-1].append(piece)
    return batches


def fit_of_characters(model: CausalLm, sentences: Sequence[str]) -> Fit:
    """Perplexity per character, ends of sentences among them; that without unknown characters is not told apart."""
    tokens = sum(len(sentence) + 1 for sentence in sentences)
    unknown = sum(character not in model.index for sentence in sentences for character in sentence)
    value = math.exp(min(-float(model.log_probability(sentences).sum()) / max(tokens, 1), 700))
    return Fit(tokens, unknown, value, value if not unknown else math.nan)


@dataclass(frozen=True)
class Trained:
    """A model at its best epoch.

    Args:
        model: in evaluation mode.
        perplexity: per character on dev at that epoch.
        curve: the same after each epoch.
    """

    model: CausalLm
    perplexity: float
    curve: tuple[float, ...]


def train(
    sentences: Sequence[str],
    dev: Sequence[str],
    *,
    shape: Shape | None = None,
    seed: int = 0,
    epochs: int = 30,
    patience: int = 3,
    learning_rate: float = 1e-3,
    batch: int = 1_024,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Trained:
    """Train a model from the beginning; dev alone says when to stop and which epoch is kept.

    Args:
        sentences: to learn; their characters are those the model knows.
        dev: sentences to measure, of other speakers or texts.
        shape: sizes; Shape() where None.
        seed: of weights, order and dropout; the caller's random numbers stay as they are.
        epochs: at most.
        patience: epochs without a better dev perplexity after which it stops.
        learning_rate: of AdamW, after a warm-up of a hundred updates, or a tenth of all; falls to zero as a cosine.
        batch: characters of an update, padding among them.
        progress: is told batches done and batches in all.
        say: is told the perplexity after each epoch.

    Raises:
        UserError: no text to learn, or none to measure.
    """
    if not any(sentences) or not any(dev):
        raise UserError(
            "there is no text to train a language model on" if not any(sentences) else "there is no dev text",
            remedy="at least one sentence of each",
        )
    characters = tuple(sorted({character for sentence in sentences for character in sentence}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CausalLm(characters, shape or Shape())
        pieces = [(row, window) for row, sentence in enumerate(sentences) for window in model.windows(sentence)]
        batches = _batches(pieces, batch)
        optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
        total = epochs * len(batches)
        warmup = max(min(100, total // 10), 1)

        def share(update: int) -> float:
            return min((update + 1) / warmup, 0.5 * (1 + math.cos(math.pi * update / total)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, share)
        curve: list[float] = []
        best: dict[str, Tensor] = {}
        for epoch in range(epochs):
            model.train()
            for number, place in enumerate(torch.randperm(len(batches)).tolist()):
                windows = [window for _, window in batches[place]]
                count = sum(target != IGNORED for _, targets in windows for target in targets)
                loss = model._losses(windows).sum() / count
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                if progress:
                    progress(epoch * len(batches) + number + 1, total)
            curve.append(fit_of_characters(model, dev).perplexity)
            if say:
                say(f"epoch {epoch + 1}: perplexity {curve[-1]:.3f} per character on dev")
            if curve[-1] == min(curve):
                best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            if len(curve) - 1 - curve.index(min(curve)) >= patience:
                break
    if progress:
        progress(total, total)
    if not math.isfinite(min(curve)):
        raise UserError("the training of the language model diverged", remedy="a smaller learning rate")
    model.load_state_dict(best)
    return Trained(model.eval(), min(curve), tuple(curve))


def write_causal_lm(trained: Trained, folder: Path) -> None:
    """Weights and what they need as a folder of two files; whole or not at all, replacing a model of this kind.

    Raises:
        UserError: the folder holds something else.
    """
    from safetensors.torch import save

    refuse_folder(folder)
    settings = {
        "format": FORMAT,
        "characters": list(trained.model.characters),
        "shape": asdict(trained.model.shape),
        "perplexity": trained.perplexity,
        "curve": list(trained.curve),
    }
    files = {
        TENSORS: save(trained.model.state_dict()),
        SETTINGS: (json.dumps(settings, ensure_ascii=False, indent=1) + "\n").encode(),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_in(folder.parent)
    temporary.mkdir()
    try:
        for name, content in files.items():
            with open(temporary / name, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if folder.exists():
            old = temporary_in(folder.parent)
            os.rename(folder, old)
            os.rename(temporary, folder)
            shutil.rmtree(old)
        else:
            os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_folder(folder: Path) -> None:
    """Raise unless a model can be written there: nothing, an empty folder, or an older model of this kind."""
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - {SETTINGS, TENSORS}):
        raise UserError(
            f"{folder} exists and is no language model",
            where=f"out={folder}",
            why="it would be replaced",
            remedy="another name, or delete it",
        )


def read_causal_lm(folder: Path) -> CausalLm:
    """A model that `write_causal_lm` has written.

    Args:
        folder: of anybody's making: sizes are bounded, names and shapes of tensors are checked.

    Raises:
        UserError: it is none, or has been changed.
    """
    _refuse_larger(folder / SETTINGS, MAX_SETTINGS)
    settings = read_json(folder / SETTINGS)
    try:
        if settings["format"] != FORMAT:
            raise ValueError(f"its format is {str(settings['format'])[:60]!r}, not {FORMAT!r}")
        shape, characters = Shape(**settings["shape"]), tuple(settings["characters"])
        wrong = [name for name, most in MOST.items() if type(v := getattr(shape, name)) is not int or not 0 < v <= most]
        if wrong or shape.width % shape.heads or shape.context < 2 or not 0 <= shape.dropout < 1:
            raise ValueError(f"its sizes are not possible: {shape}")
        sound = all(isinstance(c, str) and len(c) == 1 for c in characters)
        if not sound or not 0 < len(set(characters)) == len(characters) <= 100_000:
            raise ValueError("its characters are not different single characters")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            "this folder holds no language model of wavbench",
            where=folder / SETTINGS,
            why=str(error)[:300],
            remedy="train it again: `wavbench lm kind=transformer`",
        ) from None
    with torch.device("meta"):
        model = CausalLm(characters, shape)
    wanted = model.state_dict()
    _refuse_larger(folder / TENSORS, sum(4 * tensor.numel() for tensor in wanted.values()) + MAX_SETTINGS)
    state = read_safetensors(folder / TENSORS)
    refuse_misfits(
        folder / TENSORS,
        missing=sorted(wanted.keys() - state.keys()),
        unknown=sorted(state.keys() - wanted.keys()),
        reshaped=[
            name
            for name in sorted(wanted.keys() & state.keys())
            if state[name].shape != wanted[name].shape or state[name].dtype != torch.float32
        ],
    )
    refuse_not_finite(state, folder / TENSORS)
    model.load_state_dict(state, assign=True)
    return model.eval()


def _refuse_larger(path: Path, most: int) -> None:
    """Raise if a file is larger than what may be in it, before it is read."""
    if path.is_file() and path.stat().st_size > most:
        raise UserError(
            f"{path.name} is larger than a model of its sizes",
            where=path,
            why=f"{path.stat().st_size} bytes, and at most {most} are believed",
            remedy="train it again: `wavbench lm kind=transformer`",
        )
