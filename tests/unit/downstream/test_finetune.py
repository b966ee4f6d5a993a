"""Fine-tuning below the command: its loss against every alignment, what is left out, and who is trained when."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_training import SMALL

from wavbench.downstream.adaptation import Adaptation, merged_state
from wavbench.downstream.decode import frames_needed
from wavbench.downstream.finetune import BEST, Recipe, Tuned, ctc_loss, dev_plan, finetune
from wavbench.downstream.labelled import Labelled, labelled
from wavbench.downstream.spec import load_task
from wavbench.upstream import catalog
from wavbench.upstream.checkpoints import read_safetensors
from wavbench.upstream.decoded import decode
from wavbench.upstream.errors import UserError
from wavbench.upstream.lengths import frames_from_samples
from wavbench.upstream.manifest import read_manifest
from wavbench.upstream.masked_encoder import Masking
from wavbench.upstream.processes import make_fabric
from wavbench.upstream.training import Settings

CONV = tuple(zip(SMALL.conv_kernels, SMALL.conv_strides, strict=True))
COUNT = 24
PHONES = [("p a t", "t a SIL p a", "k i k i")[k % 3] for k in range(COUNT)]


def collapsed(path: tuple[int, ...]) -> list[int]:
    return [symbol for symbol, _ in itertools.groupby(path) if symbol]


def exact_loss(outputs: torch.Tensor, symbols: list[int]) -> float:
    """By all paths of one utterance."""
    likely = outputs.double().softmax(dim=1)
    paths = itertools.product(range(outputs.shape[1]), repeat=len(outputs))
    total = sum(
        np.prod([float(likely[t, s]) for t, s in enumerate(path)]) for path in paths if collapsed(path) == symbols
    )
    return float(-np.log(total))


def test_the_loss_is_that_of_all_alignments() -> None:
    torch.manual_seed(0)
    frames, targets = [5, 3, 4, 2], [[1, 1], [2], [1, 2, 3], [3]]
    outputs = torch.randn(sum(frames), 4)
    wanted = [exact_loss(own, target) for own, target in zip(outputs.split(frames), targets, strict=True)]
    symbols = torch.tensor([symbol for target in targets for symbol in target])
    found = ctc_loss(outputs, frames, symbols, [len(target) for target in targets], strict=True)
    assert float(found) == pytest.approx(sum(wanted), rel=1e-5)
    unseen = torch.tensor([1, -1, 1, 2, 1, 2, 3, -1, 3])  # what no head can write is left out
    assert torch.equal(ctc_loss(outputs, frames, unseen, [3, 1, 3, 2], strict=True), found)


def test_a_transcript_needs_as_many_frames_as_the_shortest_path_to_it() -> None:
    for length in range(1, 4):
        for target in itertools.product((1, 2), repeat=length):
            sizes = [
                size
                for size in range(7)
                if any(collapsed(path) == list(target) for path in itertools.product(range(3), repeat=size))
            ]
            assert frames_needed(target) == min(sizes)
            outputs = torch.zeros(frames_needed(target), 3)
            for frames, finite in ((len(outputs), True), (len(outputs) - 1, False))[: len(outputs)]:
                loss = ctc_loss(outputs[:frames], [frames], torch.tensor(target), [length], strict=True)
                assert bool(loss.isfinite()) == finite
    assert frames_needed([]) == 0


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, build_corpus: Callable[..., Path]) -> Path:
    split = [("train", "train", "dev", "test")[k % 4] for k in range(COUNT)]
    return build_corpus(tmp_path_factory.mktemp("labelled"), COUNT, 0.4, 0.8, phones=PHONES, split=split)


def changed(corpus: Path, name: str, **cells: dict[str, str]) -> Path:
    table = pd.read_csv(corpus, dtype=str)
    for column, values in cells.items():
        for id, value in values.items():
            table.loc[table["id"] == id, column] = value
    path = corpus.parent / name
    table.to_csv(path, index=False)
    return path


def prepared(path: Path, task: str = "pr", minutes: float | None = None) -> Labelled:
    manifest = read_manifest(path)
    speech = decode([manifest], path.parent / "decoded")
    return labelled(load_task(task), manifest, speech, CONV, 50.0, minutes, 0)


def test_what_cannot_be_learned_from_is_left_out_of_train_alone(corpus: Path) -> None:
    long = " ".join(["p", "a"] * 50)
    whole = prepared(corpus)
    fits = frames_from_samples(int(whole.lengths(np.array([whole.table["id"].tolist().index("u0005")]))[0]), CONV)
    repeats = " ".join(["p"] * fits)  # as symbols they would fit
    path = changed(
        corpus, "long.csv", phones={"u0000": long, "u0003": long, "u0001": "SIL", "u0007": "SIL", "u0005": repeats}
    )
    data = prepared(path)
    frames = {one.id: one.reason for one in data.skipped}
    assert set(frames) == {"u0000", "u0001", "u0005"}
    assert "needs 100 frames, and it has" in frames["u0000"]
    assert "empty" in frames["u0001"]
    assert f"needs {2 * fits - 1} frames, and it has {fits}" in frames["u0005"]
    assert {"u0003", "u0007"} <= set(data.table["id"].to_numpy()[data.test])
    assert not {"u0000", "u0001", "u0005"} & set(data.train_ids)
    assert len(data.train) == 9
    with pytest.raises(UserError, match=r"nothing to train on(.|\n)*u0000: its transcript is empty"):
        prepared(changed(corpus, "empty.csv", phones={f"u{k:04d}": "SIL" for k in range(COUNT)}))


def test_the_vocabulary_is_that_of_the_drawn_utterances_and_others_count_as_errors(corpus: Path) -> None:
    data = prepared(changed(corpus, "rare.csv", phones={"u0003": "p zh zh"}))
    assert data.objective.vocabulary.symbols == ("a", "i", "k", "p", "t")
    row = data.table["id"].tolist().index("u0003")
    assert data.symbols(np.array([row])) == [[4, -1, -1]]
    few = prepared(corpus, minutes=0.005)
    assert len(few.train) == 1
    assert set(few.objective.vocabulary.symbols) == set(few.targets[few.train[0]])
    scores = few.objective.scores([[[[] for _ in few.test]]], [few.test], 0)
    assert scores["errors"].tolist() == [len(few.targets[row]) for row in few.test]


def test_the_hash_of_labels_changes_with_a_label_that_is_learned_from_and_with_no_other(corpus: Path) -> None:
    hashes = [
        prepared(changed(corpus, f"label{k}.csv", phones=cells)).labels_hash
        for k, cells in enumerate([{}, {"u0002": "p p"}, {"u0000": "p p"}])  # nothing, dev, train
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_other_tasks_are_refused(corpus: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be fine-tuned(.|\n)*task=asr or task=pr"):
        prepared(corpus, task="asv")


def test_dev_looks_at_no_more_than_asked_for(corpus: Path) -> None:
    lengths = np.full(20, 16_000)
    recipe = Recipe(head_rate=1, mix_rate=1, batch_seconds=2.0, dev_seconds=7.0)
    assert sum(len(batch.rows) for batch in dev_plan(lengths, recipe, 0)) == 6
    recipe = Recipe(head_rate=1, mix_rate=1, batch_seconds=2.0, dev_seconds=0.5)
    assert len(dev_plan(lengths, recipe, 0)) == 1


def small_upstream(family: str = "hubert") -> catalog.Upstream:
    config = catalog.family(family).Config(**SMALL.__dict__)
    model = catalog.build_random(family, config, 0)
    return catalog.Upstream("small", model, config=catalog.describe(family, config), checkpoint="small")


def tuned(corpus: Path, folder: Path, kind: str, *, task: str = "pr", steps: int = 4, **values) -> Tuned:
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    recipe = {"head_rate": 1e-2, "mix_rate": 0.1, "batch_seconds": 3.0, "dropout": 0.1}
    recipe = Recipe(**{**recipe, **{k: values.pop(k) for k in list(values) if k in Recipe.__dataclass_fields__}})
    settings = {"peak_rate": 5e-3, "log_every": 1, "dev_every": 2, "save_every": 2, "precision": "fp32"}
    settings = Settings(**{**settings, **values}, steps=steps)
    fabric = make_fabric("cpu", 1, 1, settings.precision, unused=True)
    fabric.launch()
    data = prepared(corpus, task)
    return finetune(
        data,
        small_upstream(),
        adaptation=Adaptation(kind=kind, blocks=1, rank=2),
        recipe=recipe,
        settings=settings,
        head="linear",
        hyperparameters={},
        folder=folder,
        fabric=fabric,
    )


@pytest.mark.parametrize("kind", ["full", "partial", "lora", "frozen"])
def test_exactly_what_is_to_be_trained_has_changed(kind: str, corpus: Path, tmp_path: Path) -> None:
    result = tuned(corpus, tmp_path / "run", kind, head_only=0.0)
    began = small_upstream().model.state_dict()
    now = merged_state(result.model.upstream.encoder)
    different = {name for name in began if not torch.equal(began[name], now[name])}
    attention = {name for name in began if ".attention." in name and name.endswith("weight")}
    wanted = {
        "full": {name for name in began if not name.startswith("conv.")},
        "partial": {name for name in began if name.startswith("transformer.blocks.1.")},
        "lora": attention,
        "frozen": set(),
    }
    assert different == wanted[kind]
    assert (
        result.parameters
        == sum(p.numel() for p in result.model.head.stack.parameters())
        + {
            "full": sum(began[name].numel() for name in wanted["full"]) + SMALL.dim,
            "partial": sum(began[name].numel() for name in wanted["partial"]) + SMALL.dim,
            "lora": 2 * 2 * (3 * (24 + 24) + 24 + 24) + SMALL.dim,  # blocks, rank, three pairs and one; and the mask
            "frozen": 0,
        }[kind]
    )
    assert result.model.head.stack.mix.logits.abs().sum() > 0


def test_the_encoder_is_not_touched_while_the_head_is_trained_alone(corpus: Path, tmp_path: Path) -> None:
    for share, same in ((1.0, True), (0.5, False)):
        result = tuned(corpus, tmp_path / f"{share}", "full", head_only=share, weight_decay=0.5)
        state = torch.load(tmp_path / f"{share}" / "last.pt", weights_only=True)["module"]
        began = small_upstream().model.state_dict()
        for name in ("transformer.blocks.0.attention.qkv.weight", "projection.weight"):
            assert torch.equal(state[f"upstream.encoder.{name}"], began[name]) == same
        assert torch.equal(state["upstream.encoder.conv.convs.1.weight"], began["conv.convs.1.weight"])
    assert result.step == 4


def test_head_mix_and_encoder_have_rates_of_their_own(corpus: Path, tmp_path: Path) -> None:
    tuned(corpus, tmp_path / "run", "full", steps=2, warmup=0.0, hold=1.0, head_rate=0.03, mix_rate=0.2, peak_rate=2e-3)
    groups = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["optimizer"]["param_groups"]
    assert [group["lr"] for group in groups] == pytest.approx([0.03, 0.2, 2e-3])
    frozen = tuned(corpus, tmp_path / "frozen", "frozen", steps=2, peak_rate=1e-9)
    groups = torch.load(tmp_path / "frozen" / "last.pt", weights_only=True)["optimizer"]["param_groups"]
    assert len(groups) == 2
    assert frozen.parameters > 0


def test_the_best_look_at_dev_is_kept_and_a_training_without_a_better_one_ends(corpus: Path, tmp_path: Path) -> None:
    result = tuned(corpus, tmp_path / "run", "full", steps=40, dev_every=1, patience=3, peak_rate=1e-6, head_rate=1e-6)
    dev = pd.read_csv(tmp_path / "run" / "dev.csv")
    best = int(dev["error_rate"].idxmin())
    assert result.step == len(dev) == best + 1 + 3 < 40
    assert result.dev == pytest.approx(dev["error_rate"].min(), rel=1e-5)
    again = tuned(corpus, tmp_path / "run", "full", steps=40, dev_every=1, patience=3, peak_rate=1e-6, head_rate=1e-6)
    assert again.step == result.step
    kept = read_safetensors(tmp_path / "run" / BEST)
    assert all(torch.equal(kept[name], tensor) for name, tensor in result.model.state_dict().items())


def test_a_head_and_an_encoder_learn_a_small_corpus_by_heart(corpus: Path, tmp_path: Path) -> None:
    how = {"steps": 150, "dev_every": 150, "log_every": 50, "save_every": 150, "dropout": 0.0, "peak_rate": 1e-2}
    tuned(corpus, tmp_path / "run", "full", **how, masking=Masking(frame_starts=0.0, channel_starts=0.0))
    loss = pd.read_csv(tmp_path / "run" / "train.csv")["loss"]
    assert loss.iloc[-1] < 0.3 * loss.iloc[0]
