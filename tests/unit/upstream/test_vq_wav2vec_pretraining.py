"""The objective of vq-wav2vec: its losses against plain loops, both quantizers, and what a run of it leaves."""

import csv
import math
from pathlib import Path

import pytest
import torch
from small_training import batch_of, train, weights_of, write_corpus
from torch import Tensor

from wavbench.upstream import catalog
from wavbench.upstream.errors import UserError
from wavbench.upstream.models import vq_wav2vec as family
from wavbench.upstream.pretrain import vq_wav2vec
from wavbench.upstream.pretrain.vq_wav2vec import Config, VqWav2VecPretraining, choose, perplexity

SHAPE = {"dim": 12, "num_layers": 2, "context_growth": 1, "residual_scale": 0.5}


def model_of(**settings) -> VqWav2VecPretraining:
    """In double precision, and with random norms."""
    torch.manual_seed(0)
    config = Config(**{"prediction_steps": 3, "num_negatives": 3, "entries": 5, **settings})
    encoder = family.build(vq_wav2vec.shape(config, family.Config(**SHAPE)))
    model = vq_wav2vec.build(encoder, config, None).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def plain_gumbel(model: VqWav2VecPretraining, latents: Tensor, noise: Tensor | None, temperature: float) -> tuple:
    """Chosen entries of one utterance [dim, frames], how often each is the most probable, and the probabilities."""
    config, quantizer, vectors = model.config, model.encoder.quantizer, []
    counts, sums = (
        torch.zeros(config.groups, config.entries).double(),
        torch.zeros(config.groups, config.entries).double(),
    )
    for frame in range(latents.shape[1]):
        y = latents[:, frame]
        for depth, layer in enumerate(quantizer.logits):
            y = layer.weight @ y + layer.bias
            y = torch.nn.functional.gelu(y) if depth < len(quantizer.logits) - 1 else y
        chosen = []
        for group in range(config.groups):
            logits = y[group * config.entries : (group + 1) * config.entries]
            first = 0 if config.share_codebook else group * config.entries
            entries = quantizer.codebook[0, first : first + config.entries]
            counts[group, int(logits.argmax())] += 1
            sums[group] += torch.softmax(logits, dim=0)
            if noise is None:
                chosen.append(entries[int(logits.argmax())])
                continue
            soft = torch.softmax((logits + noise[frame, group]) / temperature, dim=0)
            best = int(soft.argmax())
            # the value is the entry; the gradient is that of the soft mixture, and of the entry taken
            mixture = sum(
                (float(entry == best) + soft[entry] - soft[entry].detach()) * entries[entry]
                for entry in range(config.entries)
            )
            chosen.append(mixture)
        vectors.append(torch.cat(chosen))
    return torch.stack(vectors, dim=1), counts, sums, latents.new_zeros(()), latents.new_zeros(())


def plain_kmeans(model: VqWav2VecPretraining, latents: Tensor, noise: None, temperature: float) -> tuple:
    config, quantizer, vectors = model.config, model.encoder.quantizer, []
    counts = torch.zeros(config.groups, config.entries).double()
    weight, norm, width = quantizer.projection.conv.weight[:, :, 0], quantizer.projection.norm, 12 // config.groups
    codebook = commitment = latents.new_zeros(())
    for group in range(config.groups):
        rows = slice(group * width, (group + 1) * width)
        y = weight[rows] @ latents[rows]
        y = (y - y.mean()) / torch.sqrt(y.var(correction=0) + 1e-5)
        y = y * norm.weight[rows, None] + norm.bias[rows, None]
        entries = quantizer.codebook[:, 0 if config.share_codebook else group]
        own = []
        for frame in range(latents.shape[1]):
            z = y[:, frame]
            best = min(range(config.entries), key=lambda entry: float((z - entries[entry]).detach().norm()))
            counts[group, best] += 1
            own.append(entries[best].detach() + z - z.detach())
            codebook = codebook + (z.detach() - entries[best]).square().sum() / 12
            commitment = commitment + (z - entries[best].detach()).square().sum() / 12
        vectors.append(torch.stack(own, dim=1))
    return torch.cat(vectors), counts, None, codebook, commitment


def plain(model: VqWav2VecPretraining, batch: tuple, noise: Tensor | None, step: int) -> tuple[Tensor, dict]:
    """All losses: a loop over utterances, steps, frames and negatives."""
    config, (waveforms, lengths, targets) = model.config, batch
    temperature = max(config.gumbel_start * config.gumbel_decay**step, config.gumbel_end)
    quantize = plain_gumbel if config.quantizer == "gumbel" else plain_kmeans
    maps = model.predict.maps.weight.view(config.prediction_steps, 12, 12)
    biases = model.predict.maps.bias.view(config.prediction_steps, 12)
    loss, first, predictions, made = torch.zeros(()).double(), 0, 0, []
    for row, size in enumerate(lengths.tolist()):
        latents = model.encoder.encoder(waveforms[row, :size])[0]
        frames = latents.shape[1]
        own = None if noise is None else noise[first : first + frames]
        made.append(quantize(model, latents, own, temperature))
        vectors = made[-1][0]
        *_, context = model.encoder.context(vectors[None])
        negatives = targets.negatives[first : first + frames].tolist()
        for step_ahead in range(config.prediction_steps):
            for i in range(frames - config.first_step - step_ahead):
                k = i + config.first_step + step_ahead
                predicted = maps[step_ahead] @ context[0, :, i] + biases[step_ahead]
                loss = loss - torch.log(torch.sigmoid(vectors[:, k] @ predicted))
                for other in negatives[k]:
                    loss = loss - torch.log(torch.sigmoid(-vectors[:, other] @ predicted))
                predictions += 1
        first += frames
    counts = sum(one[1] for one in made) / first
    terms = {"contrastive_loss": loss, "code_perplexity": predictions * entropy_exp(counts)}
    if config.quantizer == "gumbel":
        codes = config.groups * config.entries
        terms["diversity_loss"] = predictions * (codes - entropy_exp(sum(one[2] for one in made) / first)) / codes
        return loss + config.diversity_weight * terms["diversity_loss"], terms
    codebook, commitment = (predictions * sum(one[place] for one in made) / first for place in (3, 4))
    terms["codebook_loss"] = codebook
    return loss + config.codebook_weight * (codebook + config.commitment * commitment), terms


def entropy_exp(shares: Tensor) -> Tensor:
    total = torch.zeros(()).double()
    for group in shares:
        total = total + torch.exp(-sum(share * torch.log(share + 1e-7) for share in group))
    return total


@pytest.mark.parametrize("counts", [[15, 15], [9, 3, 14, 9]])
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("quantizer", ["gumbel", "kmeans"])
def test_losses_and_gradients_are_those_of_plain_loops(quantizer: str, share: bool, counts: list[int]) -> None:
    own = {"diversity_weight": 0.3} if quantizer == "gumbel" else {"codebook_weight": 0.7, "commitment": 0.4}
    model = model_of(quantizer=quantizer, share_codebook=share, gumbel_decay=0.9, **own).train()
    batch, noise = batch_of(vq_wav2vec, model, counts), None
    if quantizer == "gumbel":
        noise = -torch.empty(sum(counts), 2, 5).exponential_(generator=torch.Generator().manual_seed(3)).log().double()
    found = model(*batch, 4, noise)
    expected, terms = plain(model, batch, noise, 4)
    torch.testing.assert_close(found.total, expected, rtol=1e-9, atol=0.0)
    for name, value in terms.items():
        assert float(found.terms[name]) == pytest.approx(float(value.detach()), rel=1e-9), name
    count = int(batch[2].counts.sum())
    if quantizer == "gumbel":
        assert float(found.terms["gumbel_temperature"]) == pytest.approx(count * 2 * 0.9**4)
    assert 0 <= float(found.terms["accuracy"]) <= count
    names, parameters = zip(*model.named_parameters(), strict=True)
    ours, theirs = (torch.autograd.grad(loss, parameters) for loss in (found.total, expected))
    for name, one, other in zip(names, ours, theirs, strict=True):
        assert (one - other).norm() <= 1e-9 * float(other.norm()), name
        assert one.abs().max() > 0, name


@pytest.mark.parametrize("quantizer", ["gumbel", "kmeans"])
def test_in_evaluation_the_codes_are_those_of_the_upstream(quantizer: str) -> None:
    model = model_of(quantizer=quantizer).eval()
    waveforms, lengths, targets = batch_of(vq_wav2vec, model, [16, 16, 16])
    with torch.no_grad():
        latents = model.encoder.encoder.together(waveforms)
        chosen = choose(model.encoder.quantizer, latents, False, 1.0)
        for row in range(3):
            vectors, codes = model.encoder.quantizer(latents[row : row + 1])
            torch.testing.assert_close(chosen.vectors[row : row + 1], vectors)
        codes, _ = model.encoder.codes(waveforms, lengths)
        for group in range(2):
            counted = torch.bincount(codes[:, :, group].flatten(), minlength=5).double()
            assert torch.equal(chosen.codes[group], counted)
        again = [model(waveforms, lengths, targets, 0).total for _ in range(2)]
    assert torch.equal(*again)


def test_the_temperature_falls_to_its_lowest() -> None:
    model = model_of(gumbel_decay=0.5).train()
    batch = batch_of(vq_wav2vec, model, [16])
    count = int(batch[2].counts.sum())
    seen = [float(model(*batch, step).terms["gumbel_temperature"]) / count for step in range(4)]
    assert seen == pytest.approx([2.0, 1.0, 0.5, 0.5])
    lowest = math.log(0.25) / math.log(Config().gumbel_decay)
    assert lowest == pytest.approx(0.7 * 400_000, rel=0.02)  # as in the paper: over 70 % of the updates


def test_perplexity_is_the_number_of_entries_in_equal_use() -> None:
    assert float(perplexity(torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]))) == pytest.approx(3.0, rel=1e-5)


def test_the_lowest_diversity_loss_is_that_of_all_entries_in_use() -> None:
    model = model_of(diversity_weight=1.0)
    batch = batch_of(vq_wav2vec, model, [16])
    with torch.no_grad():
        model.encoder.quantizer.logits[-1].weight.zero_()
        model.encoder.quantizer.logits[-1].bias.zero_()
    assert float(model(*batch).terms["diversity_loss"]) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("quantizer", ["gumbel", "kmeans"])
def test_a_crop_too_short_to_predict_anything_has_no_loss_and_no_gradient(quantizer: str) -> None:
    model = model_of(quantizer=quantizer)
    losses = model(*batch_of(vq_wav2vec, model, [1]))
    losses.total.backward()
    assert losses.total.item() == 0
    assert all(float(value) == 0 for value in losses.terms.values())
    assert all(bool((parameter.grad == 0).all()) for parameter in model.parameters() if parameter.grad is not None)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, make_speech) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), make_speech)


@pytest.mark.parametrize("quantizer", ["gumbel", "kmeans"])
def test_a_run_learns_and_leaves_a_vq_wav2vec_with_its_quantizer(
    quantizer: str, manifest: Path, tmp_path: Path, make_speech
) -> None:
    path = train("vq_wav2vec", manifest, tmp_path, steps=40, precision="fp32", log_every=10, quantizer=quantizer)
    with open(tmp_path / "train.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert float(written[-1]["loss"]) < 0.95 * float(written[0]["loss"])
    assert all(2 <= float(row["code_perplexity"]) <= 16 for row in written)
    assert all(0 <= float(row["accuracy"]) < 1 for row in written)
    upstream = catalog.load(str(path))
    config = {name: upstream.config[name] for name in ("family", "quantizer", "groups", "entries")}
    assert config == {"family": "vq_wav2vec", "quantizer": quantizer, "groups": 2, "entries": 8}
    codes, frames = upstream.model.codes(torch.from_numpy(make_speech(0.5, 3))[None], torch.tensor([8_000]))
    assert 0 <= int(codes.min()) <= int(codes.max()) < 8
    assert codes.shape == (1, int(frames), 2)
    state = torch.load(tmp_path / "last.pt", weights_only=True)["module"]
    for name, tensor in upstream.model.state_dict().items():
        assert torch.equal(tensor, state[f"encoder.{name}"])


def test_a_run_with_kmeans_that_is_stopped_ends_with_the_same_weights(manifest: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(status) -> None:
        if status.step == 3:
            raise Stop

    how = {"quantizer": "kmeans", "steps": 5, "log_every": 1, "save_every": 2}
    train("vq_wav2vec", manifest, tmp_path / "whole", **how)
    with pytest.raises(Stop):
        train("vq_wav2vec", manifest, tmp_path / "stopped", report=stop, **how)
    train("vq_wav2vec", manifest, tmp_path / "stopped", **how)
    assert weights_of(tmp_path / "stopped") == weights_of(tmp_path / "whole")


def test_another_quantizer_is_refused_on_resume_and_to_begin_with(manifest: Path, tmp_path: Path) -> None:
    path = train("vq_wav2vec", manifest, tmp_path / "a", steps=1)
    with pytest.raises(UserError, match="quantizer: began with gumbel, now kmeans"):
        train("vq_wav2vec", manifest, tmp_path / "a", steps=1, quantizer="kmeans")
    with pytest.raises(UserError, match="quantizer is gumbel there, and kmeans here"):
        train("vq_wav2vec", manifest, tmp_path / "b", quantizer="kmeans", init=catalog.load(str(path)))
    with pytest.raises(UserError, match="entries is 8 there, and 9 here"):
        train("vq_wav2vec", manifest, tmp_path / "c", entries=9, init=catalog.load(str(path)))


def test_what_cannot_be_is_refused(manifest: Path, tmp_path: Path) -> None:
    for name in ("groups", "entries", "prediction_steps"):
        with pytest.raises(UserError, match=f"{name}=0 is not possible"):
            Config(**{name: 0})
    with pytest.raises(UserError, match=r"quantizer=lloyd is not known(.|\n)*gumbel, kmeans"):
        Config(quantizer="lloyd")
    with pytest.raises(UserError, match="a temperature must be more than 0"):
        Config(gumbel_end=0.0)
    with pytest.raises(UserError, match=r"groups=5 is not possible(.|\n)*5 groups do not divide 24 channels"):
        train("vq_wav2vec", manifest, tmp_path, groups=5)
