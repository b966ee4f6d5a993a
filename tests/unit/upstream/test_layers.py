"""The parts that models are made of: what the parity tests cannot see from outside."""

import inspect
import itertools

import pytest
import torch
from torch import nn

from wavbench.upstream.layers import attention, conv, linear
from wavbench.upstream.layers.attention import SelfAttention
from wavbench.upstream.layers.packing import pad_packed, pad_states, segment_of
from wavbench.upstream.layers.positions import PositionalConv
from wavbench.upstream.layers.transformer import Block, Transformer
from wavbench.upstream.layers.waveform import normalise_waveforms

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("chunk", [1, 7, 49, 10_000])
def test_frames_do_not_depend_on_how_the_signal_is_cut(norm: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = conv.ConvEncoder((16,) * 7, KERNELS, STRIDES, norm, bias=True).eval()
    waveforms, lengths = torch.randn(4, 16_000), torch.tensor([16_000, 300, 400, 9_999])
    whole, frames = encoder(waveforms, lengths)  # with a gradient, hence in pieces of another size
    assert frames == [49, 0, 1, 30]
    monkeypatch.setattr(conv, "CHUNK", chunk)
    with torch.no_grad():
        pieces, _ = encoder(waveforms, lengths)
    assert (pieces - whole).norm() <= 1e-6 * whole.norm()


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_rounded_samples_are_taken_while_a_training_looks_at_dev(norm: str) -> None:
    encoder = conv.ConvEncoder((16,) * 7, KERNELS, STRIDES, norm, bias=False)
    waveforms, lengths = torch.randn(2, 4_000).bfloat16(), torch.tensor([4_000, 4_000])  # as Fabric gives them
    with torch.no_grad():
        exact, _ = encoder(waveforms.float(), lengths)
        with torch.autocast("cpu", torch.bfloat16):
            rounded, _ = encoder(waveforms, lengths)
    assert (rounded.float() - exact).norm() < 0.03 * exact.norm()


def test_groups_hold_every_frame_once_and_never_too_many() -> None:
    frames = [3, 0, 25, 4, 4, 10, 1]
    groups = list(conv.cut(frames, 10))
    assert all(sum(count for *_, count in group) <= 10 for group in groups)
    seen = [(i, start + k) for group in groups for i, start, count in group for k in range(count)]
    assert seen == [(i, k) for i, total in enumerate(frames) for k in range(total)]


def test_the_folded_group_norm_is_the_group_norm() -> None:
    encoder = conv.ConvEncoder((8, 8), (10, 3), (5, 2), "group", bias=True)
    nn.init.normal_(encoder.norms[0].weight)
    nn.init.normal_(encoder.norms[0].bias)
    waveform = torch.randn(1, 1, 1_003) + 2
    first = encoder.convs[0](waveform)
    normed = nn.functional.group_norm(first, 8, encoder.norms[0].weight, encoder.norms[0].bias)
    reference = nn.functional.gelu(encoder.convs[1](nn.functional.gelu(normed)))[0].T
    found, _ = encoder(waveform[0], torch.tensor([1_003]))
    torch.testing.assert_close(found, reference)


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="'group' or 'layer'"):
        conv.ConvEncoder((8,), (10,), (5,), "batch")


@pytest.mark.parametrize("gelu", [False, True])
def test_the_fast_product_equals_the_differentiable_one(gelu: bool) -> None:
    layer, x = nn.Linear(24, 40), torch.randn(17, 24)
    slow = linear.linear(layer, x, gelu=gelu)
    assert slow.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(linear.linear(layer, x, gelu=gelu), slow.detach())


@pytest.mark.parametrize("kernel", [1, 4, 7, 16])
def test_positions_see_zeros_around_every_utterance(kernel: int) -> None:
    positions = PositionalConv(8, kernel, 2)
    utterances = [torch.randn(frames, 8) for frames in (5, 1, 12)]
    together = positions(torch.cat(utterances), [5, 1, 12])
    for found, utterance in zip(together.split([5, 1, 12]), utterances, strict=True):
        padded = nn.functional.pad(utterance.T[None], (kernel // 2, kernel // 2))
        y = nn.functional.conv1d(padded, positions.weight(), positions.bias, groups=2)
        torch.testing.assert_close(found, nn.functional.gelu(y)[0, :, : len(utterance)].T)


def test_a_fresh_gain_is_the_norm_of_its_direction() -> None:
    positions = PositionalConv(8, 4, 2)
    torch.testing.assert_close(positions.weight(), positions.direction)


def test_attention_equals_the_formula_for_each_utterance() -> None:
    layer, lengths = SelfAttention(12, 3), [4, 4, 0, 7]
    x = torch.randn(sum(lengths), 12)
    found = layer(x, lengths).split(lengths)
    for part, y in zip(x.split(lengths), found, strict=True):
        query, key, value = layer.qkv(part).view(len(part), 3, 3, 4).permute(1, 2, 0, 3)  # (heads, frames, 4)
        weights = (query @ key.transpose(1, 2) / 2).softmax(dim=-1)
        torch.testing.assert_close(y, layer.out((weights @ value).transpose(0, 1).reshape(len(part), 12)))


@pytest.mark.parametrize("gated", [False, True])
def test_attention_of_all_utterances_at_once_is_that_of_each(gated: bool) -> None:
    heads, lengths = 3, [4, 4, 0, 7, 1]
    qkv = torch.randn(sum(lengths), 3 * 12)
    gate, table = (torch.rand(sum(lengths), heads), torch.randn(heads, 7, 7)) if gated else (None, None)
    together = attention.ragged(qkv, lengths, heads, gate, table)
    one_by_one = attention.apart(qkv, lengths, heads, gate, table, attention.attend)
    assert together.isfinite().all()
    torch.testing.assert_close(together, one_by_one)


def test_torchs_attention_over_lengths_gets_the_arguments_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.attention import varlen

    heads, lengths = 2, [4, 0, 7]
    signature = inspect.signature(varlen.varlen_attn)

    def stand_in(*args: object, **kwargs: object) -> torch.Tensor:
        given = signature.bind(*args, **kwargs).arguments
        ends, parts = given["cu_seq_q"], [given[name] for name in ("query", "key", "value")]
        assert set(given) == {"query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"}
        assert given["max_q"] == given["max_k"] == 7
        assert ends.dtype is torch.int32
        assert ends.equal(given["cu_seq_k"])
        assert all(part.shape == (11, heads, 8) and part.stride(-1) == 1 for part in parts)
        utterances = [[part[a:b].transpose(0, 1) for part in parts] for a, b in itertools.pairwise(ends.tolist())]
        return torch.cat([nn.functional.scaled_dot_product_attention(*one).transpose(0, 1) for one in utterances])

    monkeypatch.setattr(varlen, "varlen_attn", stand_in)
    monkeypatch.setattr(attention, "has_varlen", lambda *_: True)
    qkv = torch.randn(11, 3 * 16)
    one_by_one = attention.apart(qkv, lengths, heads, None, None, attention.attend)
    torch.testing.assert_close(attention.ragged(qkv, lengths, heads), one_by_one)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="do not divide"):
        SelfAttention(10, 3)


def test_dropout_and_layerdrop_act_in_training_only() -> None:
    shares = {"dropout": 0.5, "attention_dropout": 0.5, "inner_dropout": 0.5}
    blocks = [Block(8, 2, 16, pre_norm=True, **shares) for _ in range(3)]
    model = Transformer(PositionalConv(8, 4, 2), blocks, dim=8, pre_norm=True, dropout=0.5, layerdrop=0.5)
    x = torch.randn(9, 8)
    assert not torch.equal(model.train()(x, [9])[-1], model(x, [9])[-1])
    assert torch.equal(model.eval()(x, [9])[-1], model(x, [9])[-1])
    model.train().layerdrop = 1.0
    states = model(x, [9])
    assert len(states) == 4
    assert torch.equal(states[0], states[1])


def test_waveforms_are_normalised_over_valid_samples() -> None:
    found = normalise_waveforms(torch.tensor([[1.0, 3.0, 99.0], [0.0, 0.0, 0.0]]), torch.tensor([2, 3]))
    torch.testing.assert_close(found, torch.tensor([[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))


def test_packed_frames_return_to_their_rows() -> None:
    packed = torch.arange(6.0).view(3, 2)
    assert segment_of(torch.tensor([1, 0, 2])).tolist() == [0, 2, 2]
    padded = pad_packed(packed, [1, 0, 2])
    assert padded.tolist() == [[[0, 1], [0, 0]], [[0, 0], [0, 0]], [[2, 3], [4, 5]]]
    assert torch.equal(pad_states([packed, 2 * packed], [1, 0, 2]), torch.stack([padded, 2 * padded], dim=1))
