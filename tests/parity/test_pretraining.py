"""The pretraining objectives and units against transformers, torchaudio and scikit-learn, on copied random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavbench.upstream import catalog, hugging_face, units
from wavbench.upstream.lengths import frames_from_samples
from wavbench.upstream.models.wav2vec2 import Config
from wavbench.upstream.objective import Targets
from wavbench.upstream.pretrain import hubert, wav2vec2

TOLERANCE = 1e-5  # relative L2, float32
SAMPLES, FRAMES = 16_080, 50  # of each crop
CONV = tuple(zip(Config().conv_kernels, Config().conv_strides, strict=True))
SMALL = {
    "conv_dim": [24] * 7,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_codevector_groups": 2,
    "num_codevectors_per_group": 160,
    "codevector_dim": 24,
    "proj_codevector_dim": 20,
    "num_negatives": 8,
}
NO_DROPOUT = dict.fromkeys(
    ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "layerdrop", "final_dropout"),
    0.0,
) | {"feat_quantizer_dropout": 0.0, "mask_feature_prob": 0.0}
NORMS = [("group", False), ("group", True), ("layer", True)]


def theirs(kind: str, **settings) -> nn.Module:
    """A model of transformers whose every weight is random."""
    import transformers

    torch.manual_seed(0)
    config = transformers.HubertConfig if kind.startswith("Hubert") else transformers.Wav2Vec2Config
    model = getattr(transformers, kind)(config(**{**SMALL, **NO_DROPOUT, **settings}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def ours_of(folder: Path) -> nn.Module:
    """The native encoder of a folder; transformers is given the same waveforms, normalised or not."""
    family, config = hugging_face.native_config(folder)
    encoder = catalog.family(family).build(config)
    encoder.load_state_dict(hugging_face.read_hugging_face(folder).state)
    return encoder


def normalised(waveforms: Tensor, encoder: nn.Module) -> Tensor:
    if not encoder.config.normalise:
        return waveforms
    centred = waveforms - waveforms.mean(dim=1, keepdim=True)
    return centred / torch.sqrt(waveforms.var(dim=1, correction=0, keepdim=True) + 1e-7)


def distance(ours: Tensor, reference: Tensor) -> float:
    return ((ours - reference).norm() / reference.norm().clamp(min=1e-12)).item()


def crops(make_speech, count: int = 2) -> tuple[Tensor, Tensor]:
    waveforms = torch.from_numpy(np.stack([make_speech(SAMPLES / 16_000, seed) for seed in range(count)]))
    return waveforms, torch.full((count,), SAMPLES)


def pack(made: list[dict[str, np.ndarray]]) -> Targets:
    return Targets(**{name: torch.from_numpy(np.concatenate([one[name] for one in made])) for name in made[0]})


def gradients(encoder: nn.Module, model: nn.Module, extra: dict[str, str], ours: nn.Module) -> dict[str, tuple]:
    """Gradient of every parameter of ours beside that of transformers; names left out on their side have none."""
    native = dict(encoder.named_parameters())
    reference = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): parameter.grad
        for name, parameter in model.named_parameters()
    }
    prefix = "" if "encoder.layer_norm.weight" in reference else "wav2vec2."
    pairs = {
        name: (native[name].grad, torch.cat([reference[prefix + part] for part in parts]))
        for name, parts in catalog.family("wav2vec2").hugging_face_names(encoder.config).items()
    }
    assert set(pairs) == set(native)
    own = dict(ours.named_parameters())
    for name, other in extra.items():
        pairs[name] = (own[name].grad, reference[other].view_as(own[name]))
    assert len(pairs) == len(own)
    return pairs


HEADS = {
    "quantizer.choose": "quantizer.weight_proj",
    "code_projection": "project_q",
    "state_projection": "project_hid",
}


def coincide(codes: Tensor, made: list[dict[str, np.ndarray]]) -> bool:
    """Whether any negative has the codes of its positive."""
    parts = codes.split([int(one["masked"].sum()) for one in made])
    return any(
        bool((own[torch.from_numpy(one["negatives"]).long()] == own[:, None]).all(dim=-1).any())
        for one, own in zip(made, parts, strict=True)
    )


@pytest.mark.parametrize(("norm", "pre_norm"), NORMS)
def test_wav2vec2_losses_and_all_gradients_equal_those_of_transformers(
    norm: str, pre_norm: bool, tmp_path: Path, make_speech, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = theirs("Wav2Vec2ForPreTraining", feat_extract_norm=norm, do_stable_layer_norm=pre_norm).train()
    model.save_pretrained(tmp_path)
    config = wav2vec2.Config(
        num_negatives=8, entries=160, code_dim=24, compare_dim=20, feature_penalty=0.0, feature_gradient=1.0,
        quantizer_dropout=0.0,
    )  # fmt: skip
    ours = wav2vec2.build(ours_of(tmp_path), config, None).train()
    extra = {f"{o}.{kind}": f"{t}.{kind}" for o, t in HEADS.items() for kind in ("weight", "bias")}
    extra |= {"quantizer.codebook": "quantizer.codevectors", "mask.vector": "wav2vec2.masked_spec_embed"}
    with torch.no_grad():
        for name, other in extra.items():
            ours.get_parameter(name).copy_(model.get_parameter(other).view_as(ours.get_parameter(name)))
    waveforms, lengths = crops(make_speech)
    random = np.random.default_rng(0)
    made = [wav2vec2.targets(config, FRAMES, None, random) for _ in range(2)]
    targets = pack(made)
    with torch.no_grad():
        latents = ours.encoder.convolve(waveforms, lengths)[0][targets.masked]
    for seed in range(50):
        noise = -torch.empty(2 * FRAMES, 2, 160).exponential_(generator=torch.Generator().manual_seed(seed)).log()
        codes = ours.quantizer(latents, 2.0, noise[targets.masked]).codes
        # Where two choices coincide, rounding decides whether transformers sees it: none may.
        if not coincide(codes, made):
            break
    assert not coincide(codes, made)

    losses = ours(waveforms, lengths, targets, 0, noise[targets.masked])
    losses.total.backward()

    def gumbel(logits: Tensor, tau: float, hard: bool) -> Tensor:
        soft = ((logits + noise.view(-1, 160)) / tau).softmax(dim=-1)
        choice = F.one_hot(soft.argmax(dim=-1), 160).float()
        return choice - soft.detach() + soft

    monkeypatch.setattr(F, "gumbel_softmax", gumbel)
    masked = targets.masked.view(2, FRAMES)
    negatives = torch.zeros(2, FRAMES, 8, dtype=torch.long)  # transformers counts frames of the whole batch
    for crop, one in enumerate(made):
        places = torch.from_numpy(np.flatnonzero(one["masked"]))
        negatives[crop, places] = crop * FRAMES + places[torch.from_numpy(one["negatives"]).long()]
    output = model(normalised(waveforms, ours.encoder), mask_time_indices=masked, sampled_negative_indices=negatives)
    output.loss.backward()

    assert distance(losses.terms["contrastive_loss"], output.contrastive_loss) < TOLERANCE
    assert distance(losses.terms["diversity_loss"], output.diversity_loss) < TOLERANCE
    assert distance(losses.total.detach(), output.loss.detach()) < TOLERANCE
    for name, (own, reference) in gradients(ours.encoder, model, extra, ours).items():
        assert distance(own, reference) < TOLERANCE, name


def test_a_negative_with_the_codes_of_its_positive_is_out_of_the_race(make_speech) -> None:
    torch.manual_seed(0)
    encoder = catalog.family("wav2vec2").build(
        Config(conv_channels=(16,) * 7, dim=24, num_layers=1, num_heads=2, inner_dim=48, position_kernel=16,
               position_groups=4)
    )  # fmt: skip
    config = wav2vec2.Config(num_negatives=8, entries=2, code_dim=8, compare_dim=8, quantizer_dropout=0.0)
    model = wav2vec2.build(encoder, config, None)  # four codes: they often coincide
    waveforms, lengths = crops(make_speech, 3)
    random = np.random.default_rng(1)
    made = [wav2vec2.targets(config, FRAMES, None, random) for _ in range(3)]
    targets = pack(made)
    noise = -torch.empty(int(targets.masked.sum()), 2, 2).exponential_().log()
    losses = model(waveforms, lengths, targets, 0, noise)

    with torch.no_grad():
        raw, frames = encoder.raw_latents(waveforms, lengths)
        latents = encoder.projection_norm(raw)
        states = encoder.transformer(model.mask(encoder.project(latents), targets.masked), frames)[-1]
        quantized = model.quantizer(latents[targets.masked], 2.0, noise)
        states = model.state_projection(states[targets.masked])
        vectors, codes = model.code_projection(quantized.vectors), quantized.codes
    total, same, first = 0.0, 0, 0
    for one in made:
        for frame, negatives in enumerate(one["negatives"], start=first):
            scores = [F.cosine_similarity(states[frame], vectors[frame], dim=0) / 0.1]
            for other in negatives.tolist():
                if bool((codes[first + other] == codes[frame]).all()):
                    same += 1
                else:
                    scores.append(F.cosine_similarity(states[frame], vectors[first + other], dim=0) / 0.1)
            total += float(torch.logsumexp(torch.stack(scores), dim=0) - scores[0])
        first += int(one["masked"].sum())
    assert same > 50
    assert losses.terms["contrastive_loss"].item() == pytest.approx(total, rel=TOLERANCE)
    penalty, count = raw.square().mean(), len(codes)
    assert losses.terms["feature_penalty"].item() == pytest.approx(float(count * penalty), rel=TOLERANCE)
    diversity = (4 - float(quantized.perplexity)) / 4
    assert losses.total.item() == pytest.approx(total + count * (0.1 * diversity + 10 * float(penalty)), rel=TOLERANCE)


class OurMask(nn.Module):
    """torchaudio's mask generator, with the mask and the vector that it is given."""

    def __init__(self, masked: Tensor, vector: Tensor) -> None:
        super().__init__()
        self.masked, self.vector = masked, vector

    def forward(self, x: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        return torch.where(self.masked[..., None], self.vector, x), self.masked


@pytest.mark.parametrize(("norm", "pre_norm"), NORMS)
def test_hubert_logits_equal_those_of_torchaudio_and_its_loss_a_cross_entropy(
    norm: str, pre_norm: bool, tmp_path: Path, make_speech
) -> None:
    from torchaudio.models.wav2vec2.components import LogitGenerator
    from torchaudio.models.wav2vec2.model import HuBERTPretrainModel
    from torchaudio.models.wav2vec2.utils import import_huggingface_model

    reference = theirs("HubertModel", feat_extract_norm=norm, do_stable_layer_norm=pre_norm)
    reference.save_pretrained(tmp_path)
    config = hubert.Config(unit_dim=16, unmasked_weight=0.5, feature_gradient=1.0)
    made_of = units.Units(tmp_path, {}, np.zeros((30, 39), np.float32), {}, np.zeros(0, np.uint16))
    ours = hubert.build(ours_of(tmp_path), config, made_of)
    random = np.random.default_rng(0)
    labels = random.integers(0, 30, (2, FRAMES)).astype(np.uint16)
    targets = pack([hubert.targets(config, FRAMES, own, random) for own in labels])
    masked = targets.masked.view(2, FRAMES)
    head = LogitGenerator(32, 30, 16, skip_masked=False, skip_nomask=False)
    head.load_state_dict({
        "label_embeddings": ours.units.data, "final_proj.weight": ours.final.weight, "final_proj.bias": ours.final.bias,
    })  # fmt: skip
    imported = import_huggingface_model(reference)
    model = HuBERTPretrainModel(imported, OurMask(masked, ours.mask.vector.data), head, None).eval()
    waveforms, lengths = crops(make_speech)
    with torch.inference_mode():
        logits_masked, logits_unmasked, penalty = model(
            normalised(waveforms, ours.encoder), torch.from_numpy(labels.astype(np.int64))
        )
    losses = ours(waveforms, lengths, targets)
    with torch.no_grad():
        raw, frames = ours.encoder.raw_latents(waveforms, lengths)
        x = ours.mask(ours.encoder.project(ours.encoder.projection_norm(raw)), targets.masked)
        found = ours.logits(ours.encoder.transformer(x, frames)[-1])
    for where, theirs_here in ((targets.masked, logits_masked), (~targets.masked, logits_unmasked)):
        own, correct = found[where], F.one_hot(targets.units[where], 30).bool()
        # First the logit of the true unit, then all of them with the true one at minus infinity.
        assert distance(own[correct], theirs_here[:, 0]) < TOLERANCE
        assert distance(own[~correct], theirs_here[:, 1:][~correct]) < TOLERANCE
        assert bool(theirs_here[:, 1:][correct].isneginf().all())

    def loss_of(logits: Tensor) -> float:
        return float(-logits.log_softmax(dim=1)[:, 0].sum())

    hidden, rest = loss_of(logits_masked), loss_of(logits_unmasked) / len(logits_unmasked)
    assert losses.terms["masked_loss"].item() == pytest.approx(hidden, rel=TOLERANCE)
    wanted = hidden + len(logits_masked) * (0.5 * rest + 10 * float(penalty))
    assert losses.total.item() == pytest.approx(wanted, rel=TOLERANCE)
    right = (logits_masked.argmax(dim=1) == 0).sum()
    assert losses.terms["accuracy"].item() == right


@pytest.mark.parametrize(("norm", "pre_norm"), NORMS)
def test_a_folder_of_hubert_loads_natively_with_the_states_of_transformers(
    norm: str, pre_norm: bool, tmp_path: Path, make_speech
) -> None:
    model = theirs("HubertModel", feat_extract_norm=norm, do_stable_layer_norm=pre_norm).eval()
    model.save_pretrained(tmp_path)
    upstream = catalog.load(str(tmp_path))
    assert upstream.config["family"] == "hubert"
    waveforms, lengths = crops(make_speech)
    with torch.inference_mode():
        output = model(normalised(waveforms, upstream.model), output_hidden_states=True)
    features = upstream(waveforms, lengths)
    references = [*output.hidden_states[:-1], output.last_hidden_state]
    assert len(references) == upstream.num_states
    for layer, reference in enumerate(references):
        assert distance(features.states[:, layer], reference) < TOLERANCE


@pytest.mark.parametrize("setting", [{"conv_pos_batch_norm": True}, {"feat_proj_layer_norm": False}])
def test_variants_of_hubert_that_are_not_built_here_go_through_transformers(setting: dict, tmp_path: Path) -> None:
    theirs("HubertModel", **setting).save_pretrained(tmp_path)
    assert hugging_face.native_config(tmp_path) is None


def test_the_nearest_centroid_is_what_scikit_learn_predicts() -> None:
    from sklearn.cluster import MiniBatchKMeans

    frames = np.random.default_rng(0).standard_normal((3_000, 39)).astype(np.float32) * 5 + 3
    model = MiniBatchKMeans(50, random_state=0, n_init=1).fit(frames)
    found = units.assign(frames, model.cluster_centers_.astype(np.float32))
    np.testing.assert_array_equal(found, model.predict(frames))
    assert len(set(found.tolist())) > 40


def test_k_means_over_little_audio_is_the_one_of_scikit_learn() -> None:
    from sklearn.cluster import MiniBatchKMeans

    random = np.random.default_rng(1)
    parts = [(f"u{k}", random.standard_normal((40, 5)).astype(np.float32)) for k in range(10)]
    wanted = MiniBatchKMeans(
        7, batch_size=10_000, max_iter=100, n_init=5, max_no_improvement=100, reassignment_ratio=0.0, random_state=3
    ).fit(np.concatenate([values for _, values in parts]))
    np.testing.assert_array_equal(units.fit_kmeans(iter(parts), 7, 3), wanted.cluster_centers_)
    few = units.fit_kmeans(iter(parts), 7, 3, sample_frames=60)  # at most twice as many are kept on the way
    assert few.shape == (7, 5)


@pytest.mark.parametrize("samples", [400, 479, 480, 559, 560, 719, 720, 721, 1_039, 1_040, 16_000, 16_080, 52_347])
def test_mfcc_are_those_of_torchaudio_and_as_many_as_wav2vec2_has_frames(samples: int, make_speech) -> None:
    from torchaudio.compliance import kaldi
    from torchaudio.functional import compute_deltas

    waveform = make_speech(samples / 16_000, 1)
    assert len(waveform) == samples
    found = units.mfcc(waveform)
    assert found.shape == (frames_from_samples(samples, CONV), 39)
    static = kaldi.mfcc(torch.from_numpy(waveform)[None], sample_frequency=16_000, use_energy=False)  # (frames, 13)
    slopes = compute_deltas(static.T)
    wanted = torch.cat([static, slopes.T, compute_deltas(slopes).T], dim=1)[0::2]
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-6, atol=1e-6)


def test_mfcc_have_the_frames_of_wav2vec2_at_every_length(make_speech) -> None:
    speech = make_speech(0.3, 2)
    for samples in range(400, 2_400, 37):
        assert len(units.mfcc(speech[:samples])) == frames_from_samples(samples, CONV)
