"""BERT over codes: tokens, windows, and states against transformers on the same tokens."""

import dataclasses

import pytest
import torch
from torch import Tensor

from wavbench.upstream import catalog
from wavbench.upstream.checkpoints import fill
from wavbench.upstream.models import vq_wav2vec, vq_wav2vec_bert
from wavbench.upstream.models.vq_wav2vec_bert import Config, VqWav2VecBert, join, token_table, windows

SMALL = Config(
    code_dim=16, entries=6, vocabulary=10, dim=24, num_layers=2, num_heads=4, inner_dim=32, positions=20, overlap=8
)


def noise(samples: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def small(**settings) -> VqWav2VecBert:
    torch.manual_seed(0)
    return VqWav2VecBert(dataclasses.replace(SMALL, **settings)).eval().requires_grad_(False)


def test_windows_overlap_and_every_frame_is_taken_once_from_where_its_context_is_widest() -> None:
    assert list(windows(0, 20, 8)) == []
    assert list(windows(20, 20, 8)) == [(0, 0, 20)]
    assert list(windows(21, 20, 8)) == [(0, 0, 10), (1, 10, 21)]
    assert list(windows(50, 20, 8)) == [(0, 0, 16), (12, 16, 28), (24, 28, 37), (30, 37, 50)]
    for frames in range(1, 130):
        taken = [f for start, first, last in windows(frames, 20, 8) for f in range(first, last)]
        assert taken == list(range(frames))
        for start, first, last in windows(frames, 20, 8):
            assert 0 <= start <= first < last <= min(start + 20, frames)
            assert first == 0 or first - start >= 4  # half of the overlap
            assert last == frames or start + 20 - last >= 4


def test_pairs_of_codes_share_the_tokens_of_a_random_twin_evenly() -> None:
    model = small()
    codes = torch.tensor([[0, 0], [0, 5], [1, 4], [5, 5]])
    assert model.tokens_of(codes).tolist() == [4, 9, 4, 9]  # pairs 0, 5, 10, 35 of 36 onto ten tokens
    counts = model.tokens.flatten().long().bincount()
    assert counts.tolist() == [0] * 4 + [4] * 6 + [3] * 4


def test_a_dictionary_gives_its_pairs_their_tokens_and_all_others_unk() -> None:
    table = token_table(["3-1 900", "0-0 20", "madeupword0000 0"], 4)
    assert table[3, 1] == 4
    assert table[0, 0] == 5
    assert (table == 3).sum() == 14
    for line in ("4-0 1", "word 1", "1-2-3 1"):
        with pytest.raises(ValueError, match="line 2 of the dictionary"):
            token_table(["0-0 1", line], 4)


@pytest.mark.parametrize("samples", [465, 3_000])
def test_states_are_those_of_transformers_for_the_tokens_of_the_codes(samples: int) -> None:
    from transformers import RobertaModel

    model = small()
    theirs = RobertaModel(model.bert.config, add_pooling_layer=False).eval()
    theirs.load_state_dict(model.bert.state_dict())
    waveform, lengths = noise(samples)[None], torch.tensor([samples])
    codes, frames = model.codes.codes(waveform, lengths)
    tokens = torch.tensor([[4 + (6 * int(a) + int(b)) % 10 for a, b in codes[0]]])
    with torch.inference_mode():
        reference = theirs(input_ids=tokens, output_hidden_states=True).hidden_states
    features = model(waveform, lengths)
    assert features.lengths.tolist() == frames.tolist()
    assert features.states.shape == (1, 3, int(frames), 24)
    for layer, state in enumerate(reference):
        torch.testing.assert_close(features.states[:, layer], state)


def test_a_long_utterance_is_made_of_its_windows() -> None:
    model = small()
    samples = 465 + 160 * 49  # 50 frames
    features = model(noise(samples)[None], torch.tensor([samples]))
    tokens = model.tokens_of(model.codes.codes(noise(samples)[None], torch.tensor([samples]))[0][0])
    assert len(tokens) == 50
    for start, first, last in windows(50, 20, 8):
        alone = model.read(tokens[start : start + 20])
        torch.testing.assert_close(features.states[0, :, first:last], alone[:, first - start : last - start])


def test_the_weights_of_its_parts_make_a_model() -> None:
    model = small()
    config = dataclasses.replace(vq_wav2vec.presets["kmeans"], dim=16, entries=6, num_layers=2)
    codes = vq_wav2vec.build(config).eval().requires_grad_(False)
    table = token_table(["1-1 5", "2-0 4"], 6)
    built = fill("vq_wav2vec_bert", SMALL, join(codes.state_dict(), model.bert.state_dict(), table), "").eval()
    waveform, lengths = noise(3_000)[None], torch.tensor([3_000])
    assert torch.equal(built.codes.codes(waveform, lengths)[0], codes.codes(waveform, lengths)[0])
    assert torch.equal(built.tokens, table)
    assert built(waveform, lengths).states.isfinite().all()


def test_parameters_are_those_of_roberta_base_and_of_the_codes() -> None:
    with torch.device("meta"):
        model = VqWav2VecBert(vq_wav2vec_bert.presets[""])
    dim = 768
    block = 4 * (dim * dim + dim) + 2 * dim * 3_072 + 3_072 + dim + 4 * dim
    embeddings = (23_005 + 2_050 + 1) * dim + 2 * dim  # tokens, positions, one type; a norm
    assert sum(parameter.numel() for parameter in model.bert.parameters()) == 12 * block + embeddings
    encoder = 512 * (10 + 512 * 23) + 8 * 1_024
    assert sum(parameter.numel() for parameter in model.codes.parameters()) == encoder + 512 * 256 + 1_024 + 320 * 256
    assert (model.num_states, model.dim, model.frame_rate) == (13, 768, 100.0)


def test_windows_that_do_not_move_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot share"):
        small(positions=20, overlap=20)


@pytest.mark.slow
def test_the_preset_gives_thirteen_states() -> None:
    upstream = catalog.load("vq_wav2vec_bert", weights="random")
    features = upstream(noise(400_000)[None], torch.tensor([400_000]))
    assert features.states.shape == (1, 13, 2_498, 768)
    assert features.states.isfinite().all()
