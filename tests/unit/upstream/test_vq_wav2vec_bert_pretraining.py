"""BERT over codes: its loss against plain loops and transformers, what is hidden and how, and what a run leaves."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from small_training import SMALL_BERT, train, weights_of, write_corpus
from torch import Tensor

from wavbench.upstream import catalog, codes
from wavbench.upstream.batch_plan import Batch
from wavbench.upstream.crops import Crops
from wavbench.upstream.decoded import Speech, decode
from wavbench.upstream.errors import UserError
from wavbench.upstream.layers.masking import varied_spans
from wavbench.upstream.lengths import samples_from_frames
from wavbench.upstream.manifest import read_manifest
from wavbench.upstream.models import vq_wav2vec_bert as family
from wavbench.upstream.objective import Targets
from wavbench.upstream.pretrain import vq_wav2vec_bert as objective
from wavbench.upstream.pretrain.vq_wav2vec_bert import KEPT, MASKED, Config, targets
from wavbench.upstream.units import Units, read_units

PAIRS = 9


def model_of(**settings) -> objective.VqWav2VecBertPretraining:
    """In double precision, and with random norms and biases."""
    torch.manual_seed(0)
    dictionary = np.array([[-1, -1], *([k // 3, k % 3] for k in range(PAIRS))], np.float32)
    units = Units(Path(), {}, dictionary, {}, np.zeros(0, np.uint16))
    encoder = family.build(SMALL_BERT)
    encoder.codes.requires_grad_(False)
    model = objective.build(encoder, Config(**settings), units).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def batch_of(model: torch.nn.Module, counts: list[int]) -> tuple[Tensor, Tensor, Targets]:
    """Crops of random units, some of them <unk>."""
    random = np.random.default_rng(1)
    made = [
        targets(model.config, count, random.integers(0, PAIRS + 1, count).astype(np.uint16), random) for count in counts
    ]
    lengths = torch.tensor([samples_from_frames(count, model.encoder.conv.sizes) + 7 for count in counts])
    packed = {name: torch.from_numpy(np.concatenate([one[name] for one in made])) for name in made[0]}
    return torch.zeros(len(counts), 0), lengths, Targets(**packed)


def reference(model: torch.nn.Module) -> torch.nn.Module:
    """transformers' model for masked tokens, with the weights of ours."""
    from transformers import RobertaForMaskedLM

    theirs = RobertaForMaskedLM(model.encoder.bert.config).double()
    weights = {f"roberta.{name}": tensor for name, tensor in model.encoder.bert.state_dict().items()}
    names = {"dense.weight": "dense.weight", "dense.bias": "dense.bias", "layer_norm.weight": "norm.weight",
             "layer_norm.bias": "norm.bias", "bias": "bias"}  # fmt: skip
    weights |= {f"lm_head.{name}": model.head.state_dict()[ours] for name, ours in names.items()}
    missing = theirs.load_state_dict(weights, strict=False).missing_keys
    assert set(missing) <= {"lm_head.decoder.weight", "lm_head.decoder.bias"}  # tied to what is there
    theirs.tie_weights()
    return theirs


@pytest.mark.parametrize("counts", [[35, 35, 35], [41, 22, 30, 22]])
def test_losses_and_gradients_are_those_of_plain_loops_over_the_tokens(counts: list[int]) -> None:
    model = model_of(mask_span=4, mask_start_share=0.1, random_share=0.3, kept_share=0.2).eval()
    batch, theirs = batch_of(model, counts), reference(model).eval()
    losses, first, expected, right, unknown = model(*batch), 0, torch.zeros(()).double(), 0, 0
    for count in counts:
        own = slice(first, first + count)
        units, masked, replaced = (getattr(batch[2], name)[own].tolist() for name in ("units", "masked", "replaced"))
        shown = []
        for unit, change in zip(units, replaced, strict=True):
            token = 3 if unit == 0 else 4 + (unit - 1)  # <unk>, then the pairs by how often they occur
            shown.append(token if change == KEPT else 4 + 12 if change == MASKED else 4 + change % PAIRS)
        logits = theirs(input_ids=torch.tensor([shown])).logits[0]
        for frame in range(count):
            if masked[frame]:
                true = 3 + units[frame]
                expected = expected + torch.log(sum(torch.exp(logits[frame]))) - logits[frame, true]
                right += int(logits[frame].argmax()) == true
                unknown += units[frame] == 0
            else:
                assert shown[frame] == 3 + units[frame]
        first += count
    assert {KEPT, MASKED} < set(batch[2].replaced.tolist())
    torch.testing.assert_close(losses.total, expected, rtol=1e-9, atol=0.0)
    assert float(losses.terms["accuracy"]) == right
    assert float(losses.terms["unknown_share"]) == unknown > 0
    parameters = dict(model.encoder.bert.named_parameters())
    ours = torch.autograd.grad(losses.total, [*parameters.values(), *model.head.parameters()])
    names = dict(theirs.named_parameters())
    head = [names[f"lm_head.{name}"] for name in ("bias", "dense.weight", "dense.bias", "layer_norm.weight",
                                                  "layer_norm.bias")]  # fmt: skip
    others = torch.autograd.grad(expected, [*(names[f"roberta.{name}"] for name in parameters), *head])
    for one, other in zip(ours, others, strict=True):
        assert (one - other).norm() <= 1e-9 * max(float(other.norm()), 1e-3)  # that of the keys' biases is nothing
    assert sum(float(one.norm()) > 1e-3 for one in ours) >= len(ours) - 2


def test_a_batch_in_which_nothing_is_hidden_has_no_loss_and_no_nan() -> None:
    model = model_of(mask_start_share=0.0, mask_span=10)
    waveforms, lengths, made = batch_of(model, [9, 9])  # shorter than a span
    assert not made.masked.any()
    losses = model(waveforms, lengths, made)
    losses.total.backward()
    assert losses.total.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_spans_of_random_length_are_those_of_a_plain_loop() -> None:
    for seed in range(20):
        found = varied_spans(60, 0.05, 10, 10, np.random.default_rng(seed))
        random, masked = np.random.default_rng(seed), [False] * 60
        count = int(3 + random.random())
        starts, lengths = random.choice(60, count, replace=False), random.normal(10, 10, count)
        for start, length in zip(starts, lengths, strict=True):
            for frame in range(start, min(start + round(length), 60)):
                masked[frame] = True
        assert found.tolist() == masked


@pytest.mark.parametrize(("deviation", "share"), [(0.0, 1 - 0.95**10), (10.0, 1 - math.exp(-0.05 * 10.83))])
def test_about_two_fifths_of_the_tokens_are_hidden(deviation: float, share: float) -> None:
    # 10.83 frames: the mean of a normal variable around 10 with deviation 10 whose negative values are 0
    random, config = np.random.default_rng(0), Config(mask_deviation=deviation)
    units = np.ones(2_000, np.uint16)
    hidden = np.stack([targets(config, 2_000, units, random)["masked"] for _ in range(300)])
    assert hidden.mean() == pytest.approx(share, abs=0.006)
    if deviation == 0:  # every hidden piece is a span or several that touch
        edges = np.flatnonzero(np.diff(np.concatenate([[0], hidden[0].astype(int), [0]])))
        assert min(edges[1::2] - edges[::2]) >= 10


def test_hidden_tokens_become_the_mask_or_a_random_token_or_stay() -> None:
    random, config = np.random.default_rng(0), Config()
    made = [targets(config, 1_000, np.ones(1_000, np.uint16), random) for _ in range(200)]
    hidden = np.concatenate([one["replaced"][one["masked"]] for one in made])
    assert all((one["replaced"][~one["masked"]] == KEPT).all() for one in made)
    assert np.mean(hidden == MASKED) == pytest.approx(0.8, abs=0.01)
    assert np.mean(hidden == KEPT) == pytest.approx(0.1, abs=0.01)
    drawn = hidden[hidden >= 0]
    assert np.bincount(drawn % PAIRS, minlength=PAIRS) / len(drawn) == pytest.approx(1 / PAIRS, abs=0.02)
    for settings, only in (({"random_share": 0.0, "kept_share": 0.0}, MASKED), ({"kept_share": 1.0}, KEPT)):
        config = Config(**{"random_share": 0.0, **settings})
        one = targets(config, 500, np.ones(500, np.uint16), random)
        assert (one["replaced"][one["masked"]] == only).all()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, make_speech) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), make_speech)


@pytest.fixture(scope="module")
def speech(manifest: Path) -> Speech:
    return decode([read_manifest(manifest)], manifest.parent / "decoded")


@pytest.fixture(scope="module")
def run(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training."""
    folder = tmp_path_factory.mktemp("run") / "run"
    train("vq_wav2vec_bert", manifest, folder, steps=4, log_every=1)
    return folder


def test_a_crop_is_the_same_whatever_it_is_batched_with_and_has_no_sound(speech: Speech, run: Path) -> None:
    model, found = family.build(SMALL_BERT), read_units(run / "codes.h5", speech)
    make = lambda *given: targets(Config(mask_span=4), *given)  # noqa: E731
    crops = Crops(speech, np.arange(12), model.conv.sizes, make, found, seed=3, hears=False)
    (pair,), (alone,) = crops[[Batch(0, 0, (5, 8), (0, 0), 6_000)]], crops[[Batch(0, 1, (8,), (0,), 6_000)]]
    assert pair.waveforms.shape == (2, 0)
    frames = len(alone.targets.masked)
    for name in ("masked", "units", "replaced"):
        assert torch.equal(getattr(pair.targets, name)[frames:], getattr(alone.targets, name))
    first = (int(alone.starts[0]) - int(speech.offsets[8])) // 160
    assert alone.targets.units.tolist() == found[speech.ids[8]][first : first + frames].tolist()


def test_the_loss_falls(manifest: Path, tmp_path: Path) -> None:
    train("vq_wav2vec_bert", manifest, tmp_path, steps=40, precision="fp32", log_every=10, peak_rate=5e-3)
    with open(tmp_path / "train.csv", newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < losses[0] - 0.3


def test_a_run_needs_no_audio_on_the_device(manifest: Path, tmp_path: Path) -> None:
    for name, there in (("host", False), ("device", True)):
        train("vq_wav2vec_bert", manifest, tmp_path / name, steps=2, audio_on_device=there)
    assert weights_of(tmp_path / "host") == weights_of(tmp_path / "device")


def test_a_pattern_in_time_is_learned_from_around_the_hidden_tokens() -> None:
    model, random = model_of(mask_span=4).float().train(), np.random.default_rng(0)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-3, betas=(0.9, 0.98))
    lengths = torch.full((8,), samples_from_frames(48, model.encoder.conv.sizes))
    losses = []
    for _ in range(400):  # every pair for four frames, one after the other
        crops = ((np.arange(48) + random.integers(0, 100, (8, 1))) // 4 % PAIRS + 1).astype(np.uint16)
        made = [targets(model.config, 48, crop, random) for crop in crops]
        packed = Targets(**{name: torch.from_numpy(np.concatenate([one[name] for one in made])) for name in made[0]})
        mean = model(torch.zeros(8, 0), lengths, packed).total / packed.masked.sum()
        optimizer.zero_grad()
        mean.backward()
        torch.nn.utils.clip_grad_norm_(trained, 5.0)
        optimizer.step()
        losses.append(mean.item())
    assert np.mean(losses[-50:]) < 0.5 * math.log(PAIRS)  # what the frequencies alone give


def test_a_run_that_is_stopped_reads_the_codes_it_has_and_ends_with_the_same_weights(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    def stop(status) -> None:
        if status.step == 3:
            raise Stop

    how = {"steps": 5, "log_every": 1, "save_every": 2, "mask_deviation": 3.0}
    train("vq_wav2vec_bert", manifest, tmp_path / "whole", **how)
    with pytest.raises(Stop):
        train("vq_wav2vec_bert", manifest, tmp_path / "stopped", report=stop, **how)
    monkeypatch.setattr(codes, "pairs_of", None)  # not called again
    train("vq_wav2vec_bert", manifest, tmp_path / "stopped", **how)
    assert weights_of(tmp_path / "stopped") == weights_of(tmp_path / "whole")


def test_what_a_preset_was_before_it_could_be_trained_is_described_as_it_was() -> None:
    description = catalog.describe(*catalog.find_preset("vq_wav2vec_bert"))
    assert set(description) == {
        "family", "code_dim", "quantizer", "entries", "vocabulary", "dim", "num_layers", "num_heads", "inner_dim",
        "positions", "overlap",
    }  # fmt: skip
    assert catalog.find_preset("vq_wav2vec_bert_base") == catalog.find_preset("vq_wav2vec_bert")
    with pytest.raises(ValueError, match="quantizer is 'tiny'"):
        family.build(family.Config(quantizer="tiny"))


def test_dropouts_act_in_training(manifest: Path, tmp_path: Path) -> None:
    from wavbench.upstream.starting_encoder import regularised

    tokens = torch.arange(4, 14)[None]
    for name in ("dropout", "attention_dropout"):
        torch.manual_seed(0)
        model = family.build(regularised("vq_wav2vec_bert", SMALL_BERT, {name: 0.5}))
        one, other = (model.train().transform(tokens).last_hidden_state for _ in range(2))
        assert not torch.equal(one, other)
        one, other = (model.eval().transform(tokens).last_hidden_state for _ in range(2))
        assert torch.equal(one, other)
    with pytest.raises(UserError, match=r"layerdrop=0\.1 would change nothing"):
        regularised("vq_wav2vec_bert", SMALL_BERT, {"layerdrop": 0.1})


def test_operations_are_those_of_the_blocks_in_training_and_of_all_in_extraction() -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from wavbench.upstream.flops import forward_parts, training_flops

    model, seconds = family.build(SMALL_BERT).eval(), 4.0
    samples = int(seconds * 16_000)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.transform(torch.full((1, 400), 5))
    counted = counter.get_total_flops()
    assert training_flops(model, seconds) * seconds == pytest.approx(3 * counted, rel=0.01)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.codes.codes(torch.randn(1, samples), torch.tensor([samples]))
    parts = forward_parts(model, seconds)
    blocks = parts["attention"] + parts["feed-forward"]
    assert blocks * seconds == pytest.approx(counted, rel=0.01)
    distances = 2 * 100.0 * 24 * 8  # to the entries, which torch's counter does not see
    assert (sum(parts.values()) - blocks - distances) * seconds == pytest.approx(counter.get_total_flops(), rel=0.03)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mask_span": 0}, "mask_span=0 is not possible"),
        ({"mask_deviation": -1.0}, "mask_deviation=-1 is not possible"),
        ({"kept_share": -0.1}, "kept_share"),
        ({"random_share": 0.6, "kept_share": 0.5}, "more than all"),
    ],
)
def test_what_cannot_be_hidden_is_refused(settings: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Config(**settings)
