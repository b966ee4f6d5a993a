"""SUPERB's emotion and phone recognition with a BASE upstream: s3prl's way against features that are stored once.

    python tests/benchmarks/s3prl_heads.py [--rounds 3] [--tasks er,pr] [--out results/speed]

s3prl runs the upstream at every update; here a corpus goes through it once. Both are measured on one thread, in turn,
with the same random weights, the same utterances and the same head (seen to give the same outputs), and extrapolated
to SUPERB's counts. s3prl is no dependency of ours: it has to be installed (its expert, featurizer and head are used;
the loop around them is its runner's). What is left out is left out on both sides: decoding of audio for s3prl's loader
(ours is in the extraction), and looks at dev, for which s3prl runs the upstream again.
"""

import argparse
import csv
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavbench.benchmark.peers import Given, NoPeer, open_peer
from wavbench.benchmark.record import write_text
from wavbench.benchmark.speed_report import machine
from wavbench.downstream.batches import FrameBatches, PooledBatches
from wavbench.downstream.fit import HeadStack, fit
from wavbench.downstream.fold import head_of, statistics_of
from wavbench.downstream.objectives import Classify, Ctc
from wavbench.downstream.spec import Budget, Task, find_protocol, load_task
from wavbench.upstream.catalog import Upstream, load
from wavbench.upstream.export import export_hugging_face
from wavbench.upstream.extract import extract
from wavbench.upstream.manifest import Manifest, read_manifest
from wavbench.upstream.store import Store

UPSTREAM = "wav2vec2_base"
RATE = 16_000
NAME = "heads_vs_s3prl"


@dataclass(frozen=True)
class Recipe:
    """A task of SUPERB in numbers.

    Args:
        accumulate: batches of an update, as s3prl's configuration has them.
        measured: of those, that are timed in a round.
        utterances: of the corpus, all of which we extract.
        train: of them that heads learn from.
        mean: seconds of an utterance.
        spread: standard deviation of their logarithm.
        classes: outputs besides s3prl's special symbols.
        ours: updates timed in a round.
    """

    accumulate: int
    measured: int
    utterances: int
    train: int
    mean: float
    spread: float
    classes: int
    ours: int


RECIPES = {
    # IEMOCAP, four classes: 5,531 utterances, a fold trains on some 4,290; 8 batches of 4
    "er": Recipe(8, 4, 5_531, 4_290, 4.5, 0.65, 4, 200),
    # LibriSpeech train-clean-100, dev-clean and test-clean; 2 batches of 16
    "pr": Recipe(2, 1, 28_539 + 2_703 + 2_620, 28_539, 12.3, 0.3, 71, 6),
}
PHONES_A_SECOND = 10
EXTRA = 3  # symbols that s3prl's vocabulary has beside the phones: padding (its blank), end, unknown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", default="er,pr")
    parser.add_argument("--out", type=Path, default=Path("results/speed"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    upstream, rows = load(UPSTREAM, weights="random", seed=0), []
    with tempfile.TemporaryDirectory() as folder:
        given = Given(
            upstream.config["family"], upstream.model.config, export_hugging_face(upstream, Path(folder) / "hf")
        )
        try:
            peer = open_peer("s3prl", given)
        except NoPeer as error:
            parser.error(f"s3prl: {error}")
        for name in arguments.tasks.split(","):
            rows.extend(compare(name, upstream, peer.model, Path(folder) / name, arguments.rounds))
    arguments.out.mkdir(parents=True, exist_ok=True)
    with open(arguments.out / f"{NAME}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_text(arguments.out / f"{NAME}.md", page(rows, peer.version, arguments.rounds))
    print((arguments.out / f"{NAME}.md").read_text())


def compare(name: str, upstream: Upstream, expert: nn.Module, folder: Path, rounds: int) -> list[dict]:
    """Rounds of both ways in turn, and what they come to at SUPERB's counts: a row for each precision of extraction."""
    recipe, task = RECIPES[name], load_task(name).chosen(find_protocol("superb"))
    manifest, sounds = corpus_of(folder, recipe, task.budget.batch)
    audio_s = sum(len(sound) for sound in sounds) / RATE
    store = extract(upstream, manifest, folder / "first", pooled=statistics_of(task) is not None)
    theirs = Theirs(name, recipe, expert, sounds)
    ours = {rates: Ours(task, recipe, store, manifest, rates) for rates in (1, len(task.budget.learning_rates))}
    distance = apart(ours[1], theirs, upstream, sounds[0])
    print(f"{name}: both heads on one utterance differ by {distance:.1e} of their outputs", flush=True)
    if not distance < 1e-3:
        raise SystemExit("the two ways do not compute the same: their times cannot be compared")
    update, extraction, own = [], {"fp32": [], "bf16": []}, {rates: [] for rates in ours}
    for number in range(rounds):
        update.append(theirs.update())
        for precision, times in extraction.items():
            upstream.set_precision(precision)
            clock = time.process_time()
            pooled = statistics_of(task) is not None
            extract(upstream, manifest, folder / f"{precision}-{number}", pooled=pooled)
            times.append((time.process_time() - clock) / audio_s)
        upstream.set_precision("fp32")
        for rates, way in ours.items():
            own[rates].append(way.update())
        print(f"{name} round {number + 1} of {rounds}: {update[-1]:.2f} s an update of s3prl", flush=True)
    count, hours = task.budget.updates, recipe.utterances * recipe.mean / 3600
    rows = []
    for precision, times in extraction.items():
        base = {
            "task": name,
            "extraction": precision,
            "updates": count,
            "batch": task.budget.batch,
            "mean_seconds": recipe.mean,
            "corpus_hours": round(hours, 2),
            "s3prl_update_s": round(median(update), 4),
            "extract_s_per_audio_s": round(median(times), 5),
        }
        for rates, way in own.items():
            theirs_s = rates * count * median(update)
            ours_s = hours * 3600 * median(times) + count * median(way)
            word = "one" if rates == 1 else "five"
            base |= {
                f"our_update_s_{word}": round(median(way), 5),
                f"s3prl_h_{word}": round(theirs_s / 3600, 2),
                f"ours_h_{word}": round(ours_s / 3600, 3),
                f"ratio_{word}": round(theirs_s / ours_s, 1),
            }
        rows.append(base)
    return rows


def corpus_of(folder: Path, recipe: Recipe, count: int) -> tuple[Manifest, list[Tensor]]:
    """Noise of a corpus' lengths as files, and as samples: one batch of an update, of the corpus' mean length."""
    random = np.random.default_rng(0)
    lengths = np.clip(np.exp(recipe.spread * random.standard_normal(count)), 0.2, 4.0)
    part = count * recipe.measured // recipe.accumulate  # what s3prl is timed on has the mean, and so has the rest
    for half in (slice(0, part), slice(part, count)):
        lengths[half] *= recipe.mean / max(lengths[half].mean(), 1e-9) if lengths[half].size else 1.0
    (folder / "audio").mkdir(parents=True)
    sounds, rows = [], []
    for number, seconds in enumerate(lengths):
        sound = (0.1 * random.standard_normal(round(seconds * RATE))).clip(-1, 1)
        path = f"audio/{number:03d}.wav"
        soundfile.write(folder / path, sound, RATE, subtype="PCM_16")
        sounds.append(torch.from_numpy(soundfile.read(folder / path, dtype="float32")[0]))
        symbols = random.integers(0, recipe.classes, max(round(PHONES_A_SECOND * seconds), 1))
        rows.append(
            (f"u{number:03d}", path, "train", f"c{number % recipe.classes}", " ".join(f"p{s}" for s in symbols))
        )
    pd.DataFrame(rows, columns=["id", "audio", "split", "emotion", "phones"]).to_csv(folder / "corpus.csv", index=False)
    return read_manifest(folder / "corpus.csv"), sounds


class Theirs:
    """An update as s3prl's runner makes it, with its expert, its featurizer and its head."""

    def __init__(self, name: str, recipe: Recipe, expert: nn.Module, sounds: list[Tensor]) -> None:
        from s3prl.downstream.model import FrameLevel, UtteranceLevel
        from s3prl.upstream.interfaces import Featurizer

        self.name, self.recipe, self.expert, self.sounds = name, recipe, expert, sounds
        self.featurizer = Featurizer(expert, "hidden_states", upstream_device="cpu")
        self.projector = nn.Linear(self.featurizer.output_dim, 256)
        if name == "er":
            self.head = UtteranceLevel(256, recipe.classes, pooling="MeanPooling", post_net={"select": "FrameLevel"})
        else:
            self.head = FrameLevel(256, recipe.classes + EXTRA)
        parts = [self.featurizer, self.projector, self.head]
        self.parameters = [parameter for part in parts for parameter in part.parameters()]
        self.optimiser = torch.optim.Adam(self.parameters, lr=1e-4, betas=(0.9, 0.999))

    def outputs(self, sounds: list[Tensor]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            states = self.expert(sounds)
        features = self.featurizer(sounds, states)
        lengths = torch.IntTensor([len(feature) for feature in features])
        padded = nn.utils.rnn.pad_sequence(features, batch_first=True)
        return self.head(self.projector(padded), lengths)[0], lengths

    def loss(self, sounds: list[Tensor]) -> Tensor:
        outputs, lengths = self.outputs(sounds)
        if self.name == "er":
            return F.cross_entropy(outputs, torch.arange(len(sounds)) % self.recipe.classes)
        sizes = torch.tensor([round(PHONES_A_SECOND * len(sound) / RATE) for sound in sounds])
        labels = torch.randint(EXTRA, self.recipe.classes + EXTRA, (len(sounds), int(sizes.max())))
        steps = outputs.log_softmax(dim=-1).transpose(0, 1)
        return F.ctc_loss(steps, labels, lengths, sizes, blank=0, zero_infinity=True)

    def update(self) -> float:
        """CPU seconds of an update: some of its batches, the optimiser's step, and the rest of the batches as these."""
        size = len(self.sounds) // self.recipe.accumulate
        clock = time.process_time()
        for number in range(self.recipe.measured):
            loss = self.loss(self.sounds[number * size : (number + 1) * size])
            (loss / self.recipe.accumulate).backward()
        passes = time.process_time() - clock
        clock = time.process_time()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return passes * self.recipe.accumulate / self.recipe.measured + time.process_time() - clock


class Ours:
    """Updates of a stack of heads on stored features, by the loop that trains all heads here."""

    def __init__(self, task: Task, recipe: Recipe, store: Store, manifest: Manifest, rates: int) -> None:
        self.task, self.recipe, ids = task, recipe, store.ids
        self.rates = list(task.budget.learning_rates[:rates])
        rows, table = np.arange(len(ids)), manifest.table
        if statistics_of(task):
            batches = PooledBatches(store, ids, store.layers, statistics_of(task), rows, standardise=False)
            self.rows = np.arange(recipe.train)  # as many as there are, so that caches of the processor do not help
            batches.states = batches.states[torch.from_numpy(self.rows % len(ids))]
            self.objective = Classify([table["emotion"].iat[row % len(ids)] for row in self.rows], self.rows)
        else:
            # nothing is held: an update reads its batch from the store, as it must of 361 GB
            batches, self.rows = FrameBatches(store, ids, store.layers, rows, standardise=False, budget=0), rows
            self.objective = Ctc([text.split() for text in table["phones"]], rows, store.lengths, store.frame_rate)
        self.batches = batches
        self.model = self.stack()

    def stack(self) -> HeadStack:
        build = head_of(self.task.head).build
        torch.manual_seed(0)
        dim, layers = self.batches.dim, self.batches.layers
        return HeadStack(len(self.rates), [], layers, lambda n: build(n, dim, self.objective.outputs), dim)

    def update(self) -> float:
        """CPU seconds of an update: the median of some, the first and the last (which looks at dev) left out."""
        clocks: list[float] = []
        updates = self.recipe.ours
        budget = Budget(updates=updates, batch=self.task.budget.batch, evaluate_every=updates, learning_rates=())
        tick: Callable[[int, int], None] = lambda done, total: clocks.append(time.process_time())  # noqa: E731
        dev = self.rows[:1]
        fit(self.stack(), self.objective, self.batches, self.rows, dev, self.rates, budget, True, 0, tick, falls=False)
        return median(np.diff(clocks[:-1]).tolist())


@torch.no_grad()
def apart(ours: Ours, theirs: Theirs, upstream: Upstream, sound: Tensor) -> float:
    """Largest distance of the outputs of both for one utterance with the same weights, by the largest output."""
    states = upstream.batch([sound], range(upstream.num_states)).result()[0]
    seen = states.mean(dim=1, keepdim=True) if statistics_of(ours.task) else states
    outputs = ours.model(seen)[0]
    head, mixed = theirs.head, ours.model.mixed
    linear = head.post_net.linear if theirs.name == "er" else head.linear
    extra = linear.out_features - mixed.classify.weight.shape[2]  # symbols that only s3prl has
    for theirs_linear, own in ((theirs.projector, mixed.project), (linear, mixed.classify)):
        weight, bias = own.weight[0].T, own.bias[0, 0]
        theirs_linear.weight[: len(weight)] = weight
        theirs_linear.bias[: len(bias)] = bias
    found = theirs.outputs([sound])[0].reshape(-1, linear.out_features)[:, : linear.out_features - extra]
    frames = min(len(found), len(outputs))
    return float((found[:frames] - outputs[:frames]).abs().max() / outputs.abs().max())


ABOUT = """SUPERB's er and pr with {upstream} (random weights, the same on both sides) on one thread. s3prl {version}: \
its expert, featurizer and head in its runner's loop, which runs the upstream at every update. wavbench: the corpus \
goes through the upstream once, and heads learn from stored features. Both were measured in turn in one process, \
CPU seconds, medians of {rounds} rounds, on noise of the corpora's lengths, and extrapolated to SUPERB's counts."""
REMARKS = """SUPERB searches five learning rates: five trainings there, one stack of five heads here. An update is 32 \
utterances: for er eight batches of 4 of 4.5 s in the mean, for pr two of 16 of 12.3 s, as s3prl's configurations have \
them; half of them were timed in a round. Of the corpora all splits are extracted (IEMOCAP's 5,531 utterances; \
LibriSpeech's 100 h with dev-clean and test-clean), though s3prl's updates see train alone.

Left out: s3prl's decoding of audio (ours is in the extraction), and looks at dev, for which s3prl runs the upstream \
again. Frames for pr come from the page cache; a batch of 13 layers is {batch:.2f} GB, so a disk of 2 GB/s would add \
{disk:.1f} s to an update, less what is read ahead while heads learn. Before anything was timed, both heads had given \
the same outputs for one utterance with the same weights (to 1e-3)."""


def page(rows: list[dict], version: str, rounds: int) -> str:
    lines = [
        "# Heads on stored features against s3prl",
        "",
        ABOUT.format(upstream=UPSTREAM, version=version, rounds=rounds),
        "",
        "| task | extraction | s3prl, one rate | wavbench | ratio | s3prl, five rates | wavbench | ratio |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = [row["task"], row["extraction"]]
        for word in ("one", "five"):
            theirs, ours, ratio = (row[f"{what}_{word}"] for what in ("s3prl_h", "ours_h", "ratio"))
            cells += [f"{theirs:,.0f} h", f"{ours:,.2f} h", f"{ratio:,.0f}x"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## The sums", "", "In seconds, each term as measured:", ""]
    for row in rows:
        count, extraction = row["updates"], row["extract_s_per_audio_s"]
        for word, rates in (("one", 1), ("five", 5)):
            times, plural = (f"{rates} x ", "s") if rates > 1 else ("", "")
            lines.append(
                f"- {row['task']}, extraction in {row['extraction']}, {word} rate{plural}: "
                f"s3prl {times}{count:,} updates x {row['s3prl_update_s']:.2f} = {3600 * row[f's3prl_h_{word}']:,.0f}; "
                f"wavbench {row['corpus_hours']:.2f} h x 3,600 x {extraction:.4f} + {count:,} updates x "
                f"{row[f'our_update_s_{word}']:.4f} = {3600 * row[f'ours_h_{word}']:,.0f}"
            )
    pr = RECIPES["pr"]
    batch = 32 * pr.mean * 50 * 13 * 768 * 2 / 1e9  # GB of float16 frames
    return "\n".join([*lines, "", REMARKS.format(batch=batch, disk=batch / 2), "", machine_line()]) + "\n"


def machine_line() -> str:
    found = machine(torch.device("cpu"))
    return f"{found['processor']}; Python {found['python']}, torch {found['torch']}."


if __name__ == "__main__":
    main()
