"""One pretraining step of wav2vec 2.0, masks and negatives included, against transformers' Wav2Vec2ForPreTraining.

Both train the same shape on the same crops in the same precision with fused AdamW, in turn; the ratio of medians is
what counts, as machines are shared.

    python tests/benchmarks/pretraining_speed.py [--preset tiny|base] [--device cpu|cuda] [--precision bf16|fp32]
        [--seconds AUDIO PER STEP] [--crop SECONDS] [--threads N] [--steps N] [--out FILE.json]
"""

import argparse
import dataclasses
import functools
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from wavbench.upstream import catalog
from wavbench.upstream.batch_plan import plan_epoch
from wavbench.upstream.crops import Crops, loader
from wavbench.upstream.decoded import Speech
from wavbench.upstream.flops import peak_flops, training_flops
from wavbench.upstream.pretrain import wav2vec2

CLIP = 5.0


def speech_of(count: int, seconds: float) -> Speech:
    """Noise: what a step costs does not depend on what it hears."""
    size = int(seconds * 16_000)
    samples = np.random.default_rng(0).normal(0, 3_000, count * size).astype(np.int16)
    return Speech(
        tuple(f"noise/{i}" for i in range(count)), ("train",) * count, ("",) * count, np.arange(count) * size,
        np.full(count, size), samples, "", {},
    )  # fmt: skip


def ours(preset: str, speech: Speech, options: argparse.Namespace):
    """A function that does one step and gives the seconds of audio in it."""
    config = wav2vec2.Config(feature_gradient=1.0)
    encoder = catalog.build_random("wav2vec2", _regular(catalog.find_preset(f"wav2vec2_{preset}")[1]), 0)
    module = wav2vec2.build(encoder, config, None).to(options.device)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    samples = torch.from_numpy(speech.samples).to(options.device) if options.device == "cuda" else None
    crops = Crops(
        speech, np.arange(len(speech.ids)), encoder.conv.sizes, functools.partial(wav2vec2.targets, config), seed=0,
        with_waveforms=samples is None,
    )  # fmt: skip

    def steps():
        epoch = 0
        while True:
            for batch in plan_epoch(
                speech.lengths, speech.languages, seed=0, epoch=epoch, crop_samples=int(options.crop * 16_000),
                batch_samples=int(options.seconds * 16_000),
            ):  # fmt: skip
                yield (batch,)
            epoch += 1

    batches = loader(crops, steps(), options.workers)

    def step() -> float:
        (piece,) = next(batches)
        seconds = piece.seconds
        piece = piece.to(torch.device(options.device), samples)
        with _autocast(options):
            losses = module(piece.waveforms, piece.lengths, piece.targets, 0)
        (losses.total / piece.hidden).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return seconds

    return step, training_flops(encoder, options.crop)


def theirs(preset: str, speech: Speech, options: argparse.Namespace):
    """The same with transformers, as its pretraining example does it."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    shape = catalog.find_preset(f"wav2vec2_{preset}")[1]
    model = Wav2Vec2ForPreTraining(
        Wav2Vec2Config(
            conv_dim=list(shape.conv_channels), hidden_size=shape.dim, num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads, intermediate_size=shape.inner_dim,
            num_conv_pos_embeddings=shape.position_kernel, num_conv_pos_embedding_groups=shape.position_groups,
            do_stable_layer_norm=shape.pre_norm, feat_extract_norm=shape.conv_norm, layerdrop=0.0,
        )
    ).to(options.device).train()  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    count = int(options.seconds / options.crop)
    size = int(options.crop * 16_000)
    frames = int(model._get_feat_extract_output_lengths(size))
    random = np.random.default_rng(0)

    def step() -> float:
        rows = random.integers(0, len(speech.ids), count)
        crops = np.stack([speech.crop(int(row), 0, size) for row in rows])
        masked = _compute_mask_indices((count, frames), mask_prob=0.65, mask_length=10)
        negatives = _sample_negative_indices((count, frames), 100, masked)
        with _autocast(options):
            output = model(
                torch.from_numpy(crops).to(options.device),
                mask_time_indices=torch.from_numpy(masked).to(options.device),
                sampled_negative_indices=torch.from_numpy(negatives).to(options.device),
            )
        (output.loss / masked.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return count * size / 16_000

    return step


def _regular(shape):
    """transformers' default dropouts, so that both do the same work."""
    return dataclasses.replace(shape, dropout=0.1, attention_dropout=0.1, inner_dropout=0.1, projection_dropout=0.0)


def _autocast(options: argparse.Namespace):
    return torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--seconds", type=float, default=32.0)
    parser.add_argument("--crop", type=float, default=8.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    speech = speech_of(max(64, int(4 * options.seconds / options.crop)), options.crop)
    mine, flops = ours(options.preset, speech, options)
    contenders = {"wavbench": mine, "transformers": theirs(options.preset, speech, options)}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(options.steps + 2):
        for name, step in contenders.items():
            if options.device == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter()
            seconds = step()
            if options.device == "cuda":
                torch.cuda.synchronize()
            if number >= 2:  # the first two warm up
                rates[name].append(seconds / (time.perf_counter() - began))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    peak = peak_flops(torch.device(options.device), options.precision)
    result = {
        "what": "one training step of wav2vec 2.0, audio seconds per second, medians",
        **{name: getattr(options, name) for name in ("preset", "device", "precision", "seconds", "crop", "threads")},
        **{f"{name}_rate": round(rate, 2) for name, rate in medians.items()},
        "ratio": round(medians["wavbench"] / medians["transformers"], 3),
        "flop_utilisation": round(medians["wavbench"] * flops / peak, 3),
        "machine": torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or "CPU",
        "torch": torch.__version__,
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
