"""Running a frozen model: which precision, on which device, and what comes back."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from wavbench.upstream.errors import UserError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
WHOLE_SECONDS = 120.0  # longer recordings go through in windows, where the family knows how

Part = tuple[int, int, Float[Tensor, "frames dim"]]  # layer, first frame, states on the CPU


class Pending:
    """States on their way from the device to the memory of the host.

    Args:
        states: packed states of some layers, (layers, total_frames, dim), on the device.
        frames: of each utterance.
    """

    def __init__(self, states: Float[Tensor, "layers total_frames dim"], frames: Sequence[int]) -> None:
        self.frames = frames
        self.copied = None
        if states.is_cuda:
            self.states = torch.empty(states.shape, dtype=states.dtype, pin_memory=True)
            self.states.copy_(states, non_blocking=True)
            self.copied = torch.cuda.Event()
            self.copied.record(torch.cuda.current_stream(states.device))  # cuda:1 need not be the current device
        else:
            self.states = states

    def result(self) -> list[Float[Tensor, "layers _ dim"]]:
        """States of each utterance; waits for the device."""
        if self.copied is not None:
            self.copied.synchronize()
        return list(self.states.split(list(self.frames), dim=1))


@contextlib.contextmanager
def computing(device: torch.device, precision: str) -> Iterator[None]:
    """No gradients, products in the precision asked for, and float32 that is float32.

    On CUDA, convolutions would otherwise take TF32's ten-bit mantissa, and features depend on their batch.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())  # not inference_mode, whose tensors no head could be trained on
        stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"))
        if device.type == "cuda":
            cudnn = torch.backends.cudnn
            stack.enter_context(cudnn.flags(enabled=cudnn.enabled, benchmark=False, allow_tf32=False))
        yield


def check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision} is not known", remedy=f"one of: {', '.join(PRECISIONS)}")


def batch_states(
    model: nn.Module, waveforms: Sequence[Float[Tensor, " _"]], layers: Sequence[int], device: torch.device
) -> Pending:
    """States of some layers of a batch; blocks above the highest of them are not run where the family allows it.

    Args:
        model: in evaluation mode on `device`, under `computing`.
        waveforms: 16 kHz mono, float32, of any lengths that give a frame.
        layers: ascending.
        device: where the model runs.
    """
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    batch = pad_sequence(list(waveforms), batch_first=True).to(device, non_blocking=True)
    if hasattr(model, "packed"):
        states, frames = model.packed(batch, lengths.to(device), top=max(layers))
        return Pending(torch.stack([states[layer].float() for layer in layers]), frames)
    features = model(batch, lengths.to(device))
    frames = features.lengths.tolist()
    parts = [features.states[i, list(layers), :count].float() for i, count in enumerate(frames)]
    return Pending(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0], frames)


def recording_states(
    model: nn.Module, waveform: Float[Tensor, " samples"], layers: Sequence[int], device: torch.device
) -> Iterator[Part]:
    """States of a long recording, a part at a time and in any order, each frame of each layer once.

    Families that know how (`recording`) need memory for a window, whatever the length; the others compute the
    recording as any utterance.
    """
    if hasattr(model, "recording"):
        for layer, start, states in model.recording(waveform.to(device), max(layers)):
            if layer in layers:
                yield layer, start, states.float().cpu()
    else:
        states = batch_states(model, [waveform], layers, device).result()[0]
        yield from ((layer, 0, states[place]) for place, layer in enumerate(layers))
