"""The training loop: planned batches in, checkpoints and curves out, the same to the last bit after any kill.

It is written on Lightning's Fabric, which brings precision, devices and processes but leaves the loop here: what a
resumed run must repeat is then in sight (a step's number, an epoch and a place in it), and no loader or callback
keeps a state of its own.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from wavbench.upstream import batch_plan
from wavbench.upstream.batch_plan import Batch
from wavbench.upstream.crops import CropBatch, loader
from wavbench.upstream.errors import UserError, refuse_below, refuse_outside
from wavbench.upstream.trackers import make_trackers
from wavbench.upstream.training_log import Log
from wavbench.upstream.training_state import (
    load_state,
    refuse_changes,
    refuse_missing,
    save_about,
    save_state,
    write_whole,
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model is optimised. Shares are of all steps.

    Args:
        steps: updates in all.
        peak_rate: learning rate after warm-up.
        warmup: share of the steps in which the rate rises from 0.
        hold: share of the steps in which it stays at its peak.
        decay_power: 1 for a linear fall to 0, more for a polynomial.
        accumulate: batches per process and update.
        clip_norm: longest gradient.
        precision: "fp32" or "bf16" (weights stay float32).
        seed: of batches, crops, masks and noise.
        log_every: steps between rows of train.csv.
        dev_every: steps between dev losses.
        probe_every: steps between probes, 0 for none.
        save_every: steps between checkpoints.
        keep_every: steps between encoders that are kept, 0 for none; the last one is.
    """

    steps: int
    peak_rate: float
    warmup: float = 0.08
    hold: float = 0.0
    decay_power: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    accumulate: int = 1
    clip_norm: float = 5.0
    precision: str = "bf16"
    seed: int = 0
    log_every: int = 50
    dev_every: int = 1_000
    probe_every: int = 0
    save_every: int = 500
    keep_every: int = 0

    def __post_init__(self) -> None:
        refuse_below(self, dict.fromkeys(("steps", "accumulate", "log_every", "dev_every", "save_every"), 1))
        refuse_below(self, dict.fromkeys(("probe_every", "keep_every", "peak_rate", "warmup", "hold"), 0))
        refuse_below(self, dict.fromkeys(("weight_decay", "clip_norm", "epsilon", "seed"), 0))
        refuse_outside(self, dict.fromkeys(("beta1", "beta2"), (0, 0.999999)))
        if self.warmup + self.hold > 1:
            raise UserError(
                f"warmup={self.warmup:g} and hold={self.hold:g} are more than all steps",
                remedy="shares that add up to 1 at most",
            )

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        done = (step + 1) / self.steps
        if done <= self.warmup:
            return self.peak_rate * done / self.warmup
        if done <= self.warmup + self.hold:
            return self.peak_rate
        left = (self.steps - step) / max(self.steps * (1 - self.warmup - self.hold), 1)
        return self.peak_rate * min(left, 1.0) ** self.decay_power


@dataclass(frozen=True)
class Status:
    """Where a training is, for a progress bar.

    Args:
        step: updates done.
        steps: updates in all.
        hours: of audio seen.
        values: the last row of train.csv.
    """

    step: int
    steps: int
    hours: float
    values: dict[str, float]


class Training:
    """One run of the loop.

    Args:
        fabric: launched.
        module: from (waveforms, lengths, targets, step) to `Losses`; on the CPU. Where it has them, its `after_update`
            is called with the updates done after each, and its `watch` with these and the values of every row.
        train: batches to learn from.
        plan: from an epoch's number to its batches.
        dev: batches for the dev loss.
        dev_plan: all of them.
        settings: of the optimisation.
        hyperparameters: everything that decides the result; a resumed run must have the same.
        data: what is learned from, to be written down.
        folder: of the run.
        export: called with "last", "best" or "kept" when the weights of the encoder are to be written.
        groups: parameters with the `factor` that multiplies their learning rate; all of the module's alike where None.
        share: name of the column that tells how much of the frames counts.
        judge: dev value that the best is known by.
        patience: looks at dev without a better one after which the training ends; 0 for never.
        probe: from nothing to scores of the encoder as it is.
        flops_per_second: floating-point operations of a training step per second of audio.
        peak_flops: operations per second that all devices could do.
        samples: the whole corpus as 16-bit numbers on the device, where it fits.
        workers: processes that make batches.
        report: told the status at every logged step.
        trackers: names of trackers beside CSV and TensorBoard.
    """

    def __init__(
        self,
        fabric,
        module: nn.Module,
        train: Dataset,
        plan: Callable[[int], list[Batch]],
        dev: Dataset,
        dev_plan: list[Batch],
        settings: Settings,
        *,
        hyperparameters: dict,
        data: list[dict] | None = None,
        folder: Path,
        export: Callable[[str], None],
        probe: Callable[[], dict[str, float]] | None = None,
        flops_per_second: float = 0.0,
        peak_flops: float = 0.0,
        samples: Tensor | None = None,
        workers: int = 0,
        report: Callable[[Status], None] | None = None,
        groups: list[dict] | None = None,
        share: str = "masked_share",
        judge: str = "loss",
        patience: int = 0,
        trackers: Sequence[str] = (),
    ) -> None:
        self.share, self.judge, self.patience, self.stale = share, judge, patience, 0
        self.fabric, self.train_crops, self.plan, self.settings = fabric, train, plan, settings
        self.dev_crops, self.dev_plan, self.folder, self.export, self.probe = dev, dev_plan, folder, export, probe
        self.hyperparameters, self.samples, self.workers, self.report = hyperparameters, samples, workers, report
        self.flops_per_second, self.peak_flops = flops_per_second, peak_flops
        self.step, self.epoch, self.index, self.hours, self.best = 0, 0, 0, 0.0, math.inf
        optimizer = torch.optim.AdamW(
            groups or module.parameters(), lr=settings.peak_rate, betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon, weight_decay=settings.weight_decay, fused=True,
        )  # fmt: skip
        self.bare = module  # without what Fabric and DDP wrap around it
        self.module, self.optimizer = fabric.setup(module, optimizer)
        self._resume()
        self.log = None
        if fabric.is_global_zero:
            self.log = Log(folder, self.step, make_trackers(trackers, folder, hyperparameters))
            save_about(folder, {"hyperparameters": hyperparameters, "data": data or []})
        self._fresh()

    def run(self) -> None:
        """Train to the last step.

        Raises:
            UserError: a loss or gradient is not finite, or a checkpoint cannot be written.
        """
        settings, world = self.settings, self.fabric.world_size
        steps = batch_plan.batches(
            self.epoch, self.index, self.fabric.global_rank, world, settings.accumulate, self.plan
        )
        pieces = loader(self.train_crops, steps, self.workers)
        while not self._finished():
            self._update(next(pieces))
            last = self.step == settings.steps
            if last or self.step % settings.log_every == 0:
                self._write_row()
            if last or self.step % settings.dev_every == 0:
                self._evaluate()
                last = self._finished()
            if self.probe and (last or (settings.probe_every and self.step % settings.probe_every == 0)):
                self._probe()
            if settings.keep_every and (last or self.step % settings.keep_every == 0):
                self._keep()  # before the state: a run that goes on from it would never come by here again
            if last or self.step % settings.save_every == 0:
                self._save()
        if self.log:
            self.log.close()

    def _finished(self) -> bool:
        return self.step >= self.settings.steps or 0 < self.patience <= self.stale

    def _update(self, pieces: list[CropBatch]) -> None:
        """One update: the mean over all hidden frames (or symbols) of all batches of all processes."""
        settings, fabric = self.settings, self.fabric
        hidden, seconds = sum(piece.hidden for piece in pieces), sum(piece.seconds for piece in pieces)
        if fabric.world_size > 1:
            hidden, seconds = fabric.all_reduce(torch.tensor([hidden, seconds]).double(), reduce_op="sum").tolist()
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate(self.step) * group.get("factor", 1.0)
        self.module.train()
        losses = []
        for micro, piece in enumerate(pieces):
            torch.manual_seed(_seed(settings.seed, self.step, fabric.global_rank, micro))
            piece = piece.to(fabric.device, self.samples)
            with fabric.no_backward_sync(self.module, enabled=micro + 1 < len(pieces) and fabric.world_size > 1):
                result = self.module(piece.waveforms, piece.lengths, piece.targets, self.step)
                # DDP takes the mean over processes, so what each of them adds is multiplied by their number.
                fabric.backward(result.total * (fabric.world_size / max(hidden, 1)))
            losses.append(result.total.detach())
            self._add(dict(result.terms) | {"loss": losses[-1]})
            self.frames += len(piece.targets.masked)
        norm = fabric.clip_gradients(self.module, self.optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False)
        self.recent.append((self.step, [piece.ids for piece in pieces], torch.stack([*losses, norm.detach()])))
        if fabric.device.type == "cpu":  # elsewhere this would wait for the device at every step
            self._check_finite()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.norms.append(norm.detach())
        self.hidden += hidden / fabric.world_size
        self.epoch, self.index = pieces[0].position
        self.index += fabric.world_size * settings.accumulate - fabric.global_rank
        self.step += 1
        if hasattr(self.bare, "after_update"):
            self.bare.after_update(self.step)
        self.hours += seconds / 3_600
        self.seconds += seconds

    def _check_finite(self) -> None:
        """Raise if anything since the last look was not finite; no checkpoint is written after that."""
        for step, ids, values in self.recent:
            if not bool(values.isfinite().all()):
                bad = [id for batch, value in zip(ids, values, strict=False) for id in batch if not value.isfinite()]
                named = bad or [id for batch in ids for id in batch]
                raise UserError(
                    f"the {'loss' if bad else 'gradient'} is not finite at step {step}",
                    where=f"the batch of {', '.join(named[:20])}{f' and {len(named) - 20} more' * (len(named) > 20)}",
                    why="the learning rate is too high, or this audio is broken" if bad
                    else "the learning rate is too high, or another process met broken audio",
                    remedy=f"the checkpoint before it is kept in {self.folder}: look at this audio, or train again in "
                    "another out= folder with a lower peak_rate, or precision=fp32",
                )  # fmt: skip
        self.recent.clear()

    def _add(self, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()

    def _fresh(self) -> None:
        """Begin to count anew, after a row was written."""
        self.sums, self.norms, self.recent = {}, [], []
        self.hidden, self.frames, self.seconds, self.began = 0.0, 0, 0.0, time.perf_counter()

    def _write_row(self) -> None:
        self._check_finite()
        sums = {name: float(value) for name, value in self.sums.items()}  # waits for the device
        if self.fabric.world_size > 1:
            table = torch.tensor([*sums.values(), self.frames], dtype=torch.float64)
            *totals, self.frames = (self.fabric.all_reduce(table, reduce_op="mean")).tolist()
            sums = dict(zip(sums, totals, strict=True))
        took = time.perf_counter() - self.began
        rate = self.seconds / took
        values = {
            "epoch": self.epoch,
            "audio_hours": self.hours,
            "learning_rate": self.settings.rate(self.step - 1),
            **{name: value / max(self.hidden, 1) for name, value in sums.items()},
            self.share: self.hidden / max(self.frames, 1),
            "gradient_norm": float(torch.stack(self.norms).mean()),
            "audio_seconds_per_second": rate,
            "flop_utilisation": rate * self.flops_per_second / self.peak_flops if self.peak_flops else 0.0,
        }
        if self.log:
            self.log.write("train", self.step, values)
        if hasattr(self.bare, "watch"):
            self.bare.watch(self.step, values)
        if self.report:
            self.report(Status(self.step, self.settings.steps, self.hours, values))
        self._fresh()

    @torch.no_grad()
    def _evaluate(self) -> None:
        """The dev loss; the encoder is exported when it is the lowest so far."""
        paused, fabric = time.perf_counter(), self.fabric
        mine = self.dev_plan[fabric.global_rank :: fabric.world_size]
        share = float(bool(mine))  # a process without a batch takes the first one and counts it for nothing
        mine = mine or self.dev_plan[:1]
        self.module.eval()
        sums: dict[str, float] = {"hidden": 0.0}
        for (piece,) in loader(self.dev_crops, iter([(batch,) for batch in mine]), 0):
            piece = piece.to(fabric.device, self.samples)
            result = self.module(piece.waveforms, piece.lengths, piece.targets, self.step)
            for name, value in {**result.terms, "loss": result.total, "hidden": torch.tensor(piece.hidden)}.items():
                sums[name] = sums.get(name, 0.0) + share * float(value)
        if fabric.world_size > 1:
            table = fabric.all_reduce(torch.tensor(list(sums.values()), dtype=torch.float64), reduce_op="sum")
            sums = dict(zip(sums, table.tolist(), strict=True))
        hidden = max(sums.pop("hidden"), 1.0)
        values = {name: value / hidden for name, value in sums.items()}
        if self.log:
            self.log.write("dev", self.step, {"audio_hours": self.hours, **values})
        self.stale += 1
        if values.get(self.judge, math.inf) < self.best:
            self.best, self.stale = values[self.judge], 0
            if fabric.is_global_zero:
                write_whole(self.folder, lambda: self.export("best"))
        self.began += time.perf_counter() - paused

    def _probe(self) -> None:
        paused, threads = time.perf_counter(), torch.get_num_threads()
        if self.log:
            self.log.write("probe", self.step, {"audio_hours": self.hours, **self.probe()})
        torch.set_num_threads(threads)
        self.fabric.barrier()
        self.began += time.perf_counter() - paused

    def _keep(self) -> None:
        self._check_finite()
        if self.fabric.is_global_zero:
            write_whole(self.folder, lambda: self.export("kept"))

    def _save(self) -> None:
        self._check_finite()
        if self.fabric.is_global_zero:
            state = {
                "hyperparameters": json.dumps(self.hyperparameters),
                "module": self.bare.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step, "epoch": self.epoch, "index": self.index, "hours": self.hours, "best": self.best,
                "stale": self.stale,
            }  # fmt: skip
            write_whole(self.folder, lambda: self.export("last"))  # first, so that a finished state has its checkpoint
            save_state(self.folder, state)
        self.fabric.barrier()

    def _resume(self) -> None:
        state = load_state(self.folder)
        if state is None:
            return
        refuse_changes(self.folder, state["hyperparameters"], self.hyperparameters)
        refuse_missing(self.folder, state["module"], self.bare.state_dict())
        self.bare.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.epoch, self.index = state["step"], state["epoch"], state["index"]
        self.hours, self.best, self.stale = state["hours"], state["best"], state.get("stale", 0)


def _seed(*parts: int) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1
