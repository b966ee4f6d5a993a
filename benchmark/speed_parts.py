"""Which parts of our forward pass take the time, and how far each of them is from the peak of the processor."""

import time
from collections.abc import Callable, Iterator

from torch import nn

from wavbench.upstream.flops import forward_parts
from wavbench.upstream.models.wav2vec2 import Wav2Vec2

REST = "projection, norms, copies"


def part_table(model: Wav2Vec2, run: Callable[[], None], audio_seconds: float, seen: float, peak: float) -> list[dict]:
    """Time and operations of each part, and the share of the whole time that would go if the part ran at the peak.

    Args:
        model: on a CPU.
        run: forward passes of the model.
        audio_seconds: in them.
        seen: seconds of speech that a frame's attention sees, on average.
        peak: operations per CPU second.
    """
    operations = {name: count * audio_seconds for name, count in forward_parts(model, seen).items()}
    operations[REST] = operations.pop("projection")
    seconds = _part_seconds(model, run)
    total = sum(seconds.values())
    return [
        {
            "part": name,
            "time_share": round(spent / total, 4),
            "operations_share": round(operations[name] / sum(operations.values()), 4),
            "peak_share": round(operations[name] / spent / peak, 4),
            "lost_share": round((spent - operations[name] / peak) / total, 4),
        }
        for name, spent in seconds.items()
    ]


def _part_seconds(model: Wav2Vec2, run: Callable[[], None]) -> dict[str, float]:
    """CPU seconds in each part."""
    found, began, handles = {}, {}, []

    def begin(name: str) -> None:
        began[name] = time.process_time()

    def end(name: str) -> None:
        found[name] += time.process_time() - began[name]

    for name, module in _parts(model):
        found[name] = 0.0
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: begin(name)))
        handles.append(module.register_forward_hook(lambda *_, name=name: end(name)))
    try:
        start = time.process_time()
        run()
        total = time.process_time() - start
    finally:
        for handle in handles:
            handle.remove()
    return {**found, REST: total - sum(found.values())}


def _parts(model: Wav2Vec2) -> Iterator[tuple[str, nn.Module]]:
    yield "convolutions", model.conv
    yield "positions", model.transformer.positions
    for block in model.transformer.blocks:
        yield "attention", block.attention
        yield "feed-forward", block.feed_forward
