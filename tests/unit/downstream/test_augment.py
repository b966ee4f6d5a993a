"""What an update sees of its utterances, against hand-made places."""

import numpy as np
import torch

from wavbench.downstream.augment import crop, hide
from wavbench.downstream.spec import Augment

LENGTHS = np.array([10, 3, 25])
PLAIN = Augment(time_masks=0, channel_masks=0)


def counted(layers: int = 2, dim: int = 4) -> torch.Tensor:
    """Frames that say which utterance and which frame they are: 100 * utterance + frame."""
    values = torch.cat([100.0 * k + torch.arange(n) for k, n in enumerate(LENGTHS.tolist())])
    return values[None, :, None].expand(layers, -1, dim).clone()


def test_a_crop_is_a_stretch_of_the_utterance_and_a_short_one_is_repeated() -> None:
    random = np.random.default_rng(0)
    starts = set()
    for _ in range(60):
        states, lengths = crop(counted(), LENGTHS, 8, random)
        assert lengths.tolist() == [8, 8, 8]
        first, second, third = states[1, :, 0].reshape(3, 8)
        assert (first.diff() == 1).all()
        assert 0 <= first[0] <= 2
        assert second.tolist() == [100, 101, 102, 100, 101, 102, 100, 101]
        assert (third.diff() == 1).all()
        starts.add(int(third[0]) - 200)
    empty = np.append(LENGTHS, 0)  # an utterance without frames behind the others
    states, lengths = crop(counted(), empty, 8, random)
    assert lengths.tolist() == [8] * 4
    assert not states[:, 24:].any()
    assert {0, 17} <= starts <= set(range(18))


def test_hidden_stretches_and_bands_are_the_same_in_all_layers_and_end_with_the_utterance() -> None:
    states = torch.ones(3, int(LENGTHS.sum()), 40)
    how = Augment(time_masks=1, time_width=4, channel_masks=1, channel_width=0.2)
    hidden = hide(states, LENGTHS, how, np.random.default_rng(1))
    assert all(torch.equal(hidden[0], layer) for layer in hidden)
    for own in hidden[0].split(LENGTHS.tolist()):
        rows = (own == 0).all(dim=1)
        channels = (own[~rows] == 0).all(dim=0)
        assert rows.sum() <= 4
        assert channels.sum() <= 8
        assert torch.equal(own != 0, ~rows[:, None] & ~channels[None])
    assert (hidden == 0).any()


def test_hiding_commutes_with_the_mix() -> None:
    states, weights = torch.randn(3, int(LENGTHS.sum()), 40), torch.tensor([0.2, 0.3, 0.5])
    how = Augment(warp=3)
    first = torch.einsum("l,lfd->fd", weights, hide(states, LENGTHS, how, np.random.default_rng(2)))
    mixed = torch.einsum("l,lfd->fd", weights, states)[None]
    torch.testing.assert_close(first, hide(mixed, LENGTHS, how, np.random.default_rng(2))[0])


def test_warping_moves_a_point_and_keeps_the_ends() -> None:
    warped = hide(counted(), LENGTHS, Augment(time_masks=0, channel_masks=0, warp=4), np.random.default_rng(3))
    first, short, last = warped[0, :, 0].split(LENGTHS.tolist())
    assert (first[0], first[-1], last[0], last[-1]) == (0, 9, 200, 224)
    assert torch.equal(short, torch.tensor([100.0, 101, 102]))  # too short to be warped
    assert (last.diff() > 0).all()
    assert not torch.equal(last, counted()[0, -25:, 0])


def test_nothing_to_hide_changes_nothing() -> None:
    assert torch.equal(hide(counted(), LENGTHS, PLAIN, np.random.default_rng(0)), counted())
