"""Whole utterances in batches, and what is hidden of them in fine-tuning."""

import numpy as np
import pytest
import torch
from small_training import SMALL

from wavbench.upstream import catalog
from wavbench.upstream.batch_plan import plan_utterances
from wavbench.upstream.crops import loader
from wavbench.upstream.decoded import SCALE, Speech
from wavbench.upstream.errors import UserError
from wavbench.upstream.lengths import frames_from_samples
from wavbench.upstream.masked_encoder import MaskedEncoder, Masking, trainable
from wavbench.upstream.utterances import Utterances

LENGTHS = np.random.default_rng(0).integers(2_000, 20_000, 50)
CONV = tuple(zip(SMALL.conv_kernels, SMALL.conv_strides, strict=True))
MASKING = Masking(frame_starts=0.1, frame_span=3, channel_starts=0.1, channel_span=4)


def speech() -> Speech:
    samples = np.random.default_rng(1).integers(-9_000, 9_000, LENGTHS.sum()).astype(np.int16)
    ids = tuple(f"c/{k}" for k in range(50))
    return Speech(ids, ("train",) * 50, ("",) * 50, np.cumsum(LENGTHS) - LENGTHS, LENGTHS, samples, "", {})


def utterances(seed: int = 0) -> Utterances:
    places = np.arange(50)[::-1].copy()
    symbols = [[1 + k % 5] * (1 + k % 3) for k in range(50)]
    return Utterances(speech(), places, places + 100, symbols, CONV, SMALL.dim, MASKING, seed=seed)


def test_an_epoch_takes_every_utterance_once_in_batches_of_like_lengths() -> None:
    for epoch in range(3):
        plan = plan_utterances(LENGTHS, seed=1, epoch=epoch, batch_samples=60_000)
        assert sorted(row for batch in plan for row in batch.rows) == list(range(50))
        assert [batch.index for batch in plan] == list(range(len(plan)))
        for batch in plan:
            own = LENGTHS[list(batch.rows)]
            assert own.sum() <= 60_000
            assert batch.samples == own.max()
        padding = 1 - LENGTHS.sum() / sum(batch.samples * len(batch.rows) for batch in plan)
        assert padding < 0.15
    orders = {
        tuple(batch.rows for batch in plan_utterances(LENGTHS, seed=s, epoch=e, batch_samples=60_000))
        for s, e in ((1, 0), (1, 0), (1, 1), (2, 0))
    }
    assert len(orders) == 3  # the same seed and epoch give the same plan


def test_an_utterance_longer_than_a_batch_is_a_batch_of_its_own() -> None:
    plan = plan_utterances(LENGTHS, seed=0, epoch=0, batch_samples=1_000)
    assert [len(batch.rows) for batch in plan] == [1] * 50


def test_a_batch_has_whole_utterances_with_their_symbols() -> None:
    data = utterances()
    (plan, *_) = plan_utterances(LENGTHS[::-1], seed=0, epoch=0, batch_samples=60_000)
    (batch,) = data[(plan,)]
    spoken = speech()
    assert batch.hidden == len(batch.targets.symbols) == int(batch.targets.counts.sum())
    symbols = batch.targets.symbols.split(batch.targets.counts.tolist())
    for line, number in enumerate(plan.rows):
        place = 49 - number
        first = spoken.offsets[place]
        wanted = spoken.samples[first : first + LENGTHS[place]] / np.float32(SCALE)
        assert batch.ids[line] == f"c/{place}"
        assert batch.targets.rows[line] == place + 100
        assert int(batch.lengths[line]) == LENGTHS[place]
        np.testing.assert_array_equal(batch.waveforms[line, : LENGTHS[place]], wanted)
        assert not batch.waveforms[line, LENGTHS[place] :].any()
        assert symbols[line].tolist() == [1 + number % 5] * (1 + number % 3)


def test_what_is_hidden_of_an_utterance_depends_on_no_other() -> None:
    data = utterances()
    found = {}
    for size in (60_000, 1_000):
        for plan in plan_utterances(LENGTHS[::-1], seed=0, epoch=0, batch_samples=size):
            (batch,) = data[(plan,)]
            masked = batch.targets.masked.split([frames_from_samples(n, CONV) for n in batch.lengths.tolist()])
            for id, frames, channels in zip(batch.ids, masked, batch.targets.channels, strict=True):
                found.setdefault(id, []).append((frames.tolist(), channels.tolist()))
    assert all(one == other for one, other in found.values())
    share = np.mean([value for (frames, _), _ in found.values() for value in frames])
    assert 0.15 < share < 0.35  # of spans of 3 at a tenth of the frames
    assert len({tuple(channels) for (_, channels), _ in found.values()}) > 10
    (again,) = utterances(seed=1)[(plan,)]
    assert not torch.equal(again.targets.masked, batch.targets.masked)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_the_number_of_workers_changes_no_batch() -> None:
    steps = [(batch,) for batch in plan_utterances(LENGTHS[::-1], seed=0, epoch=0, batch_samples=60_000)][:4]
    for (one,), (other,) in zip(*(loader(utterances(), iter(steps), workers) for workers in (0, 2)), strict=True):
        assert one.ids == other.ids
        assert torch.equal(one.waveforms, other.waveforms)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(one.targets, other.targets, strict=True))


def test_hidden_frames_and_channels_are_replaced_before_the_transformer_and_nothing_is_in_evaluation() -> None:
    upstream = catalog.Upstream(
        "small", catalog.build_random("wav2vec2", SMALL, 0), config=catalog.describe("wav2vec2", SMALL), checkpoint=""
    )
    encoder = MaskedEncoder(trainable(upstream, {"dropout": 0.5}), still=False)
    assert encoder.encoder.config.dropout == 0.5
    assert not encoder.mask.vector.any()
    torch.nn.init.normal_(encoder.mask.vector)
    seen = []
    encoder.encoder.transformer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    (plan, *_) = plan_utterances(LENGTHS[::-1], seed=0, epoch=0, batch_samples=60_000)
    (batch,) = utterances()[(plan,)]
    inputs = (batch.waveforms, batch.lengths, batch.targets.masked, batch.targets.channels)
    encoder.eval()
    with torch.no_grad():
        states, frames = encoder(*inputs)
        wanted, counts = upstream.model.packed(batch.waveforms, batch.lengths)
    assert list(frames) == list(counts)
    assert torch.equal(states, torch.stack(wanted))
    encoder.train()
    encoder(*inputs)
    plain, masked = seen
    channels = batch.targets.channels.repeat_interleave(torch.tensor(frames), dim=0)
    hidden = batch.targets.masked[:, None].expand_as(channels)
    torch.testing.assert_close(masked[~hidden & ~channels], plain[~hidden & ~channels])
    assert torch.equal(masked[hidden & ~channels], encoder.mask.vector.expand_as(plain)[hidden & ~channels])
    assert not masked[channels].any()
    assert hidden.any()
    assert channels.any()


def test_an_encoder_that_is_still_gets_no_gradient_and_has_nothing_hidden() -> None:
    upstream = catalog.Upstream(
        "small", catalog.build_random("wav2vec2", SMALL, 0), config=catalog.describe("wav2vec2", SMALL), checkpoint=""
    )
    encoder = MaskedEncoder(trainable(upstream, {"dropout": 0.5, "layerdrop": 0.9}), still=True).train()
    waveforms, lengths = 0.1 * torch.randn(1, 6_000), torch.tensor([6_000])
    masked = torch.ones(frames_from_samples(6_000, CONV), dtype=torch.bool)
    states, _ = encoder(waveforms, lengths, masked, torch.ones(1, SMALL.dim, dtype=torch.bool))
    assert not states.requires_grad
    with torch.no_grad():
        assert torch.equal(states, torch.stack(upstream.model.packed(waveforms, lengths)[0]))


def test_an_upstream_of_another_kind_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"fbank cannot be fine-tuned(.|\n)*way out: wav2vec2, hubert"):
        trainable(catalog.load("fbank"), {})


def test_masks_that_cannot_be_are_named() -> None:
    with pytest.raises(UserError, match="frame_span=0"):
        Masking(frame_span=0)
