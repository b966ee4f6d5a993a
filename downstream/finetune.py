"""Fine-tuning: a CTC head and the upstream below it, trained on audio by the loop that pretraining uses."""

import dataclasses
import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from wavbench.downstream.adaptation import Adaptation, adapt, merged_state
from wavbench.downstream.decode import greedy_ctc
from wavbench.downstream.fit import HeadStack
from wavbench.downstream.fold import Head
from wavbench.downstream.labelled import SAMPLE_RATE, Labelled
from wavbench.downstream.objectives import Ctc
from wavbench.downstream.saved import save_heads
from wavbench.upstream import catalog
from wavbench.upstream.batch_plan import Batch, plan_utterances
from wavbench.upstream.checkpoints import read_safetensors, write_checkpoint
from wavbench.upstream.claims import temporary_in
from wavbench.upstream.errors import UserError, refuse_below
from wavbench.upstream.masked_encoder import MaskedEncoder, Masking, trainable
from wavbench.upstream.objective import Labels, Losses
from wavbench.upstream.training import Settings, Status, Training
from wavbench.upstream.utterances import Utterances

SAMPLE = 64  # drawn utterances that the statistics of states are taken over
BATCH_SECONDS = 32  # of audio that test is scored by
FLOOR = 1e-4  # least deviation that is scaled up, as for heads on stores
BEST = "best.safetensors"  # all weights of a run at its best moment


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What fine-tuning needs beside `Settings`, whose `peak_rate` is the encoder's.

    Args:
        head_rate: peak learning rate of the head.
        mix_rate: of the weights of the layers.
        head_only: share of the steps in which the encoder is not touched.
        batch_seconds: of audio per process and batch, at most.
        dev_seconds: of dev audio that is looked at, at most.
        patience: looks at dev without a better one after which the training ends; 0 for never.
        masking: how much of an utterance is hidden.
        dropout: of attention's and feed-forward's outputs.
        layerdrop: share of blocks skipped.
    """

    head_rate: float
    mix_rate: float
    head_only: float = 0.1
    batch_seconds: float = 32.0
    dev_seconds: float = 300.0
    patience: int = 0
    masking: Masking = dataclasses.field(default_factory=Masking)
    dropout: float = 0.0
    layerdrop: float = 0.0

    def __post_init__(self) -> None:
        refuse_below(self, dict.fromkeys(("head_rate", "mix_rate", "head_only", "patience", "dropout", "layerdrop"), 0))
        refuse_below(self, {"batch_seconds": 0.1, "dev_seconds": 0.1})
        for name in ("dropout", "layerdrop", "head_only"):
            if (share := getattr(self, name)) > 1:
                raise UserError(f"{name}={share:g} is no share", remedy="a number from 0 to 1")


class TunedHead(nn.Module):
    """A mix of standardised states under a head.

    Args:
        shift: mean of each layer and dimension, before anything was trained.
        scale: one over their deviation.
        build: from (heads, inputs, outputs) to a head.
        outputs: classes, CTC's blank among them.
    """

    def __init__(
        self, shift: Float[Tensor, "layers 1 dim"], scale: Float[Tensor, "layers 1 dim"], build: Callable, outputs: int
    ) -> None:
        super().__init__()
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        layers, _, dim = shift.shape
        self.stack = HeadStack(1, [], layers, lambda heads: build(heads, dim, outputs), dim)

    def forward(self, states: Float[Tensor, "layers frames dim"]) -> Float[Tensor, "1 frames outputs"]:
        return self.stack(torch.addcmul(-self.shift * self.scale, states.float(), self.scale))


class CtcTuning(nn.Module):
    """An encoder and a head, with their CTC loss.

    Args:
        upstream: the encoder.
        head: what sees its states.
        objective: with the vocabulary; its scores are what dev is judged by.
        untouched: steps in which the encoder gets no gradient.
    """

    def __init__(self, upstream: MaskedEncoder, head: TunedHead, objective: Ctc, untouched: int) -> None:
        super().__init__()
        self.upstream, self.head, self.objective, self.untouched = upstream, head, objective, untouched

    def forward(
        self,
        waveforms: Float[Tensor, "batch samples"],
        lengths: Int[Tensor, " batch"],
        targets: Labels,
        step: int = 0,
    ) -> Losses:
        """Losses of a batch, summed over its symbols; in evaluation mode the errors of greedy decoding, too.

        Args:
            waveforms: utterances, of which `lengths` samples count.
            lengths: samples.
            targets: symbols, and what is hidden.
            step: updates done so far.
        """
        states, frames = self.upstream(
            waveforms, lengths, targets.masked, targets.channels, touched=step >= self.untouched
        )
        outputs = self.head(states)
        total = ctc_loss(outputs[0], frames, targets.symbols, targets.counts.tolist(), strict=self.training)
        if self.training:
            return Losses(total, {})
        errors = count_errors(self.objective, outputs.float().cpu(), targets.rows.cpu().numpy(), np.array(frames))
        return Losses(total, {"error_rate": torch.tensor(100.0 * errors)})


@dataclass(frozen=True)
class Tuned:
    """A trained model.

    Args:
        model: as it was at its best look at dev, on the CPU.
        parameters: trained.
        dev: error rate in percent of that look: of characters where the metric is of words.
        step: updates done in all.
    """

    model: CtcTuning
    parameters: int
    dev: float
    step: int


def ctc_loss(
    outputs: Float[Tensor, "frames classes"],
    frames: Sequence[int],
    symbols: Int[Tensor, " symbols"],
    counts: Sequence[int],
    *,
    strict: bool,
) -> Float[Tensor, ""]:
    """CTC's loss, summed over packed utterances.

    Args:
        outputs: scores of all frames; class 0 is the blank.
        frames: of each utterance.
        symbols: of all utterances; negative ones, which no head can write, are left out.
        counts: symbols of each utterance.
        strict: infinite where an utterance has too few frames, in place of 0.
    """
    likely = nn.utils.rnn.pad_sequence(outputs.float().log_softmax(dim=1).split(list(frames)))  # (time, batch, classes)
    known = [own[own > 0] for own in symbols.split(list(counts))]
    sizes = torch.tensor([len(own) for own in known])
    lengths = torch.tensor(frames)
    return F.ctc_loss(likely, torch.cat(known), lengths, sizes, reduction="sum", zero_infinity=not strict)


def count_errors(
    objective: Ctc,
    outputs: Float[Tensor, "1 frames classes"],
    rows: Int[np.ndarray, " batch"],
    frames: Int[np.ndarray, " batch"],
) -> int:
    """Wrong symbols of greedy decoding: characters where the metric is of words."""
    scores = objective.scores([greedy_ctc(outputs, frames)], [rows], 0)
    return int(scores["errors_characters" if "errors_characters" in scores else "errors"].sum())


@torch.no_grad()
def statistics(
    encoder: nn.Module, data: Labelled
) -> tuple[Float[Tensor, "layers 1 dim"], Float[Tensor, "layers 1 dim"]]:
    """Mean and one over the deviation of each layer and dimension, over the first utterances that were drawn."""
    encoder.eval()
    total = square = frames = 0
    for place in data.places[data.train[:SAMPLE]]:
        waveform = torch.from_numpy(data.speech.crop(place, 0, int(data.speech.lengths[place])))[None]
        states = torch.stack(encoder.packed(waveform, torch.tensor([waveform.shape[1]]))[0]).double()
        total, square = total + states.sum(1, keepdim=True), square + states.square().sum(1, keepdim=True)
        frames += states.shape[1]
    mean = total / frames
    return mean.float(), 1 / (square / frames - mean**2).clamp(min=0).sqrt().clamp(min=FLOOR).float()


def finetune(
    data: Labelled,
    upstream: catalog.Upstream,
    *,
    adaptation: Adaptation,
    recipe: Recipe,
    settings: Settings,
    head: str,
    hyperparameters: dict,
    folder: Path,
    fabric,
    workers: int = 0,
    report: Callable[[Status], None] | None = None,
    trackers: Sequence[str] = (),
) -> Tuned:
    """Train, or go on where a run in the same folder was stopped.

    Args:
        data: labelled speech.
        upstream: to begin with, on the CPU.
        adaptation: what of it is trained.
        recipe: rates of the parts, and regularisation.
        settings: of the optimisation.
        head: a file of heads/.
        hyperparameters: what decides the result beside the arguments above.
        folder: of the run: state and curves.
        fabric: of Lightning, launched.
        workers: processes that make batches.
        report: told where the training is.
        trackers: names of trackers beside CSV and TensorBoard.

    Raises:
        UserError: an upstream of another kind, other settings than the run began with, a loss that is not finite, a
            full disk.
    """
    if not settings.peak_rate:
        raise UserError("peak_rate=0 is not possible", remedy="adaptation=frozen to train the head alone")
    build = importlib.import_module(f"wavbench.downstream.heads.{head}").build
    encoder = trainable(upstream, {"dropout": recipe.dropout, "layerdrop": recipe.layerdrop})
    conv, dim = encoder.conv.sizes, encoder.dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        masked = MaskedEncoder(encoder, still=adaptation.kind == "frozen")
        top = TunedHead(*statistics(encoder, data), build, data.objective.outputs)
        adapt(encoder, adaptation)
    if masked.still:
        masked.requires_grad_(False)
    module = CtcTuning(masked, top, data.objective, round(recipe.head_only * settings.steps))

    def utterances(rows: np.ndarray) -> Utterances:
        return Utterances(
            data.speech, data.places[rows], rows, data.symbols(rows), conv, dim, recipe.masking, seed=settings.seed
        )

    def plan(epoch: int) -> list[Batch]:
        size = int(recipe.batch_seconds * SAMPLE_RATE)
        return plan_utterances(data.lengths(data.train), seed=settings.seed, epoch=epoch, batch_samples=size)

    def export(which: str) -> None:
        if which == "best":
            _write_state(folder / BEST, module)

    groups = parameter_groups(module, recipe, settings.peak_rate)
    training = Training(
        fabric,
        module,
        utterances(data.train),
        plan,
        utterances(data.dev),
        dev_plan(data.lengths(data.dev), recipe, settings.seed),
        settings,
        hyperparameters={
            **hyperparameters, **adaptation.described(), "head": head, "processes": fabric.world_size,
            "init": upstream.weights_hash, "labels": data.labels_hash, "speech": data.speech.hash,
            **dataclasses.asdict(recipe),
            **{name: value for name, value in dataclasses.asdict(settings).items() if name not in UNDECIDING},
        },
        folder=folder,
        export=export,
        workers=workers,
        report=report,
        trackers=trackers,
        groups=groups,
        share="symbols_per_frame",
        judge="error_rate",
        patience=recipe.patience,
    )  # fmt: skip
    training.run()
    fabric.barrier()
    module.cpu().load_state_dict(read_safetensors(folder / BEST))
    parameters = sum(parameter.numel() for group in groups for parameter in group["params"])
    return Tuned(module.eval().requires_grad_(False), parameters, training.best, training.step)


UNDECIDING = ("log_every", "save_every")  # when dev is looked at decides which weights are kept


def parameter_groups(module: CtcTuning, recipe: Recipe, peak_rate: float) -> list[dict]:
    """Head, mix and encoder, each with what multiplies the encoder's learning rate."""
    parts = (
        (module.head.stack.mixed, recipe.head_rate),
        (module.head.stack.mix, recipe.mix_rate),
        (module.upstream, peak_rate),
    )
    groups = [
        {"params": [p for p in part.parameters() if p.requires_grad], "factor": rate / peak_rate}
        for part, rate in parts
    ]
    return [group for group in groups if group["params"]]


def dev_plan(lengths: Int[np.ndarray, " dev"], recipe: Recipe, seed: int) -> list[Batch]:
    """The batches that dev is looked at by: always the same, and no more than asked for."""
    kept, left = [], recipe.dev_seconds * SAMPLE_RATE
    for batch in plan_utterances(lengths, seed=seed, epoch=0, batch_samples=int(recipe.batch_seconds * SAMPLE_RATE)):
        left -= int(lengths[list(batch.rows)].sum())
        if kept and left < 0:
            break
        kept.append(batch)
    return kept


def write_encoder(folder: Path, upstream: catalog.Upstream, model: CtcTuning) -> Path:
    """The encoder as a checkpoint like any other.

    Args:
        folder: of the run.
        upstream: that the training began with.
        model: trained.
    """
    path = folder / "checkpoint.safetensors"
    state = merged_state(model.upstream.encoder)
    write_checkpoint(path, upstream.config["family"], upstream.model.config, state, heard=upstream.pretraining)
    return path


def write_head(
    folder: Path, model: CtcTuning, data: Labelled, *, task: str, head: str, rate: float, upstream: dict
) -> None:
    """The head as any other that is saved.

    Args:
        folder: of the run.
        model: trained.
        data: that it was trained on.
        task: its name.
        head: a file of heads/.
        rate: learning rate of the head.
        upstream: how to load the trained encoder, and its `weights_hash`.
    """
    top, symbols = model.head, data.objective.vocabulary.symbols
    layers = tuple(range(len(top.shift)))
    saved = Head(top.stack, layers, symbols, shift=top.shift, scale=top.scale, rate=rate)
    about = {"labels": data.labels_hash, "minutes": round(data.train_minutes, 2)}
    objective = type(data.objective).__name__
    save_heads(folder, [saved], task=task, objective=objective, name=head, upstream=upstream, about=about)


@torch.no_grad()
def score(
    upstream: catalog.Upstream, head: nn.Module, data: Labelled, progress: Callable[[int, int], None] | None = None
) -> pd.DataFrame:
    """Greedy hypotheses of the test split with their errors, one row per utterance.

    Args:
        upstream: the trained encoder as it was written, with all its states.
        head: from states to outputs.
        data: whose test rows are scored.
        progress: called with utterances done and in all.
    """
    decoded, seen, done = [], [], 0
    for batch in plan_utterances(data.lengths(data.test), seed=0, epoch=0, batch_samples=BATCH_SECONDS * SAMPLE_RATE):
        rows = data.test[list(batch.rows)]
        places = [int(place) for place in data.places[rows]]
        waveforms = [torch.from_numpy(data.speech.crop(p, 0, int(data.speech.lengths[p]))) for p in places]
        states = upstream.batch(waveforms, range(upstream.num_states)).result()
        lengths = np.array([own.shape[1] for own in states])
        decoded.append(greedy_ctc(head(torch.cat(states, dim=1)), lengths))
        seen.append(rows)
        done += len(rows)
        if progress:
            progress(done, len(data.test))
    scores = data.objective.scores(decoded, seen, 0)
    return scores.sort_values("row", ignore_index=True)


def _write_state(path: Path, module: nn.Module) -> None:
    from safetensors.torch import save

    temporary = temporary_in(path.parent)
    try:
        temporary.write_bytes(save({name: t.detach().cpu().contiguous() for name, t in module.state_dict().items()}))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
