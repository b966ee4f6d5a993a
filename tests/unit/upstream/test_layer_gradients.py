"""The gradients of the layers, whose training on a CPU takes other paths than the plain formula."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wavbench.upstream.layers import conv
from wavbench.upstream.layers.attention import SelfAttention, attend
from wavbench.upstream.layers.conv import ConvEncoder
from wavbench.upstream.layers.positions import PositionalConv
from wavbench.upstream.layers.windowed_convs import unwind, windows

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)


def assert_same_gradients(found: Tensor, reference: Tensor, parameters: list[Tensor], tolerance: float) -> None:
    """Outputs, and gradients of a random weighting of them, within a relative distance."""
    weighting = torch.randn_like(reference)
    ours = torch.autograd.grad(found, parameters, weighting)
    theirs = torch.autograd.grad(reference, parameters, weighting)
    for one, other in zip((found, *ours), (reference, *theirs), strict=True):
        assert (one - other).norm() <= tolerance * other.norm()


def random_encoder(norm: str, bias: bool, dtype: torch.dtype) -> ConvEncoder:
    torch.manual_seed(0)
    encoder = ConvEncoder((16,) * 7, KERNELS, STRIDES, norm, bias=bias).to(dtype)
    for parameter in encoder.norms.parameters():
        torch.nn.init.normal_(parameter)
    return encoder


def plain_frames(encoder: ConvEncoder, waveform: Tensor) -> Tensor:
    x = waveform[None, None]
    for layer, step in enumerate(encoder.convs):
        x = step(x)
        if encoder.norm == "layer":
            x = encoder.norms[layer](x.transpose(1, 2)).transpose(1, 2)
        elif layer == 0:
            x = F.group_norm(x, x.shape[1], encoder.norms[0].weight, encoder.norms[0].bias)
        x = F.gelu(x)
    return x[0].T


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("chunk", [7, 100])
def test_the_convolutions_have_the_gradients_of_the_plain_formula(
    norm: str, bias: bool, dtype: torch.dtype, tolerance: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv, "TRAINING_CHUNK", chunk)
    encoder = random_encoder(norm, bias, dtype)
    waveforms, lengths = torch.randn(4, 16_000, dtype=dtype), torch.tensor([16_000, 300, 400, 9_999])
    found, _ = encoder(waveforms, lengths)
    reference = [plain_frames(encoder, waveforms[i, :size]) for i, size in enumerate(lengths.tolist()) if size >= 400]
    unused = {"convs.0.bias"} if norm == "group" else set()  # the group norm takes it away
    parameters = [parameter for name, parameter in encoder.named_parameters() if name not in unused]
    assert_same_gradients(found, torch.cat(reference), parameters, tolerance)


def test_the_convolutions_keep_the_type_of_autocast_and_repeat_bit_for_bit() -> None:
    encoder = random_encoder("group", True, torch.float32)
    waveforms, lengths = torch.randn(2, 9_000), torch.tensor([9_000, 5_000])
    reference, _ = encoder(waveforms, lengths)
    parameters = [p for name, p in encoder.named_parameters() if name != "convs.0.bias"]
    runs = []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            found, _ = encoder(waveforms, lengths)
        runs.append((found, *torch.autograd.grad(found.float().square().sum(), parameters)))
    assert runs[0][0].dtype is torch.bfloat16
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))
    exact = (reference, *torch.autograd.grad(reference.square().sum(), parameters))
    for one, other in zip(runs[0], exact, strict=True):
        assert (one - other).norm() <= 0.03 * other.norm()


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 2), (3, 2), (10, 5), (7, 3), (2, 3)])
def test_unwinding_is_the_transpose_of_taking_windows(kernel: int, stride: int) -> None:
    x = torch.randn(5 * stride + kernel, 4, dtype=torch.float64, requires_grad=True)
    rows = windows(x, kernel, stride)
    weighting = torch.randn_like(rows)
    (reference,) = torch.autograd.grad(rows, x, weighting)
    torch.testing.assert_close(unwind(weighting, len(x), kernel, stride), reference)


@pytest.mark.parametrize("kernel", [1, 4, 7, 16])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_positions_have_the_gradients_of_the_plain_formula(kernel: int, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    positions = PositionalConv(8, kernel, 2).to(dtype)
    x = torch.randn(18, 8, dtype=dtype, requires_grad=True)
    reference = []
    for utterance in x.split([5, 1, 12]):
        padded = F.pad(utterance.T[None], (kernel // 2, kernel // 2))
        y = F.conv1d(padded, positions.weight(), positions.bias, groups=2)
        reference.append(F.gelu(y)[0, :, : len(utterance)].T)
    found = positions(x, [5, 1, 12])
    assert_same_gradients(found, torch.cat(reference), [x, *positions.parameters()], tolerance)


def test_attention_in_bfloat16_has_the_gradients_of_the_exact_one() -> None:
    torch.manual_seed(0)
    attention, lengths = SelfAttention(24, 3), [40, 40, 0, 7]
    x = torch.randn(87, 24, requires_grad=True)
    inputs, weighting = [x, *attention.parameters()], torch.randn(87, 24)
    exact = attention(x, lengths)
    runs = []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            found = attention(x, lengths)
        runs.append((found, *torch.autograd.grad(found, inputs, weighting.bfloat16())))
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))
    for one, other in zip(runs[0], (exact, *torch.autograd.grad(exact, inputs, weighting)), strict=True):
        assert (one - other).norm() <= 0.03 * other.norm()


def test_attention_weights_are_dropped_in_bfloat16() -> None:
    torch.manual_seed(0)
    query, key = torch.zeros(2, 1, 1, 100, 4, dtype=torch.bfloat16, requires_grad=True)
    value = torch.ones(1, 1, 100, 4, dtype=torch.bfloat16)
    found = attend(query, key, value, dropout=0.5)  # each frame is the share of weights kept, times two
    assert found.std() > 0.05
    assert abs(found.mean() - 1) < 0.05
