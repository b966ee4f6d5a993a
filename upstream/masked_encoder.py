"""An encoder in fine-tuning: some of its frames and channels are hidden, and its convolutions stay as they are."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wavbench.upstream import catalog
from wavbench.upstream.errors import UserError, refuse_below
from wavbench.upstream.layers.masking import FrameMask, span_mask

STEPS = ("raw_latents", "projection_norm", "project", "transformer")  # of an encoder that can be trained apart


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How much of an utterance is hidden while it is trained on.

    Args:
        frame_starts: share of the frames that begin a hidden span.
        frame_span: frames.
        channel_starts: share of the channels that begin a hidden span, the same in all frames of an utterance.
        channel_span: channels.

    Source: Baevski et al. 2020, wav2vec 2.0, section 4.3 and table 6; Park et al. 2019, SpecAugment.
    """

    frame_starts: float = 0.05
    frame_span: int = 10
    channel_starts: float = 0.008
    channel_span: int = 16

    def __post_init__(self) -> None:
        refuse_below(self, {"frame_starts": 0, "frame_span": 1, "channel_starts": 0, "channel_span": 1})

    def draw(
        self, frames: int, dim: int, generator: np.random.Generator
    ) -> tuple[Bool[np.ndarray, " frames"], Bool[np.ndarray, " dim"]]:
        """Frames and channels to hide in one utterance."""
        masked = span_mask(frames, self.frame_starts, self.frame_span, generator, min_spans=0)
        return masked, span_mask(dim, self.channel_starts, self.channel_span, generator, min_spans=0)


class MaskedEncoder(nn.Module):
    """States of an encoder with hidden frames and channels.

    The vector that stands in for a hidden frame is learned here: checkpoints hold the encoder and not what it was
    pretrained with. It begins with zeros, the middle of what frames are.

    Args:
        encoder: with the modules that STEPS names.
        still: never trained: it stays in evaluation mode, and nothing is hidden.
    """

    def __init__(self, encoder: nn.Module, *, still: bool) -> None:
        super().__init__()
        self.encoder, self.still = encoder, still
        self.mask = FrameMask(encoder.dim)
        nn.init.zeros_(self.mask.vector)

    def train(self, mode: bool = True) -> "MaskedEncoder":
        super().train(mode)
        if self.still:
            self.encoder.eval()
        return self

    def forward(
        self,
        waveforms: Float[Tensor, "batch samples"],
        lengths: Int[Tensor, " batch"],
        masked: Bool[Tensor, " total_frames"],
        channels: Bool[Tensor, "batch dim"],
        *,
        touched: bool = True,
    ) -> tuple[Float[Tensor, "layers total_frames dim"], Sequence[int]]:
        """All states, packed, and the frames of each utterance.

        Args:
            waveforms: utterances, of which `lengths` samples count.
            lengths: samples.
            masked: frames to hide in training.
            channels: channels of each utterance to hide in training, after the projection.
            touched: whether a gradient is to reach the encoder.
        """
        with torch.no_grad():
            latents, frames = self.encoder.raw_latents(waveforms, lengths)
        with torch.set_grad_enabled(torch.is_grad_enabled() and touched and not self.still):
            x = self.encoder.project(self.encoder.projection_norm(latents))
            if self.training and not self.still:
                x = self.mask(x, masked)
                counts = torch.tensor(frames, device=x.device)
                x = x.masked_fill(channels.repeat_interleave(counts, dim=0), 0.0)
            return torch.stack(self.encoder.transformer(x, frames)), frames


def trainable(upstream: catalog.Upstream, regularisation: dict[str, float]) -> nn.Module:
    """A copy of an upstream's model that can be trained, with other dropouts.

    Args:
        upstream: on the CPU.
        regularisation: dropouts of the encoder's config, by field.

    Raises:
        UserError: the model is of another kind than wav2vec 2.0's.
    """
    model = upstream.model
    if not all(hasattr(model, name) for name in STEPS):
        raise UserError(
            f"{upstream.name} cannot be fine-tuned",
            why=f"its family ({upstream.config['family']}) is not of the kind of wav2vec 2.0: convolutions, a "
            "projection and a transformer",
            remedy="wav2vec2, hubert, wavlm or data2vec; any upstream can be given to `wavbench run`",
        )
    with torch.random.fork_rng(devices=[]):
        copy = catalog.family(upstream.config["family"]).build(dataclasses.replace(model.config, **regularisation))
    copy.load_state_dict(model.state_dict())
    return copy
