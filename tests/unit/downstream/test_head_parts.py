"""Parts of heads against plain loops: looped modules, utterances of equal length, pairs of frames, attention, norms."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from wavbench.downstream.heads.attentive import Attentive
from wavbench.downstream.heads.blstm import Blstm
from wavbench.downstream.looped import Looped
from wavbench.downstream.objectives.verify import s_norm
from wavbench.downstream.stacked import some_heads
from wavbench.downstream.utterances import of_equal_length, padded


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.dropout = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.norm(self.linear(x)))


def test_a_looped_module_trains_as_single_ones_do_running_statistics_and_dropout_among_it() -> None:
    torch.manual_seed(0)
    stack = Looped(2, Normed)
    singles = [copy.deepcopy(stack._one[0]) for _ in range(2)]
    optimisers = [torch.optim.Adam(m.parameters(), 1e-2) for m in (stack, *singles)]
    for step in range(3):
        x = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(step))
        torch.manual_seed(step)
        stack(x).square().sum().backward()
        for head, single in enumerate(singles):
            torch.manual_seed(step)
            single(x[head]).square().sum().backward()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
    for head, single in enumerate(singles):
        own = some_heads(stack, [head]).state_dict()
        for name, value in single.state_dict().items():
            torch.testing.assert_close(own[f"stack.{name}"][0], value, msg=name)


def test_utterances_are_read_one_length_at_a_time_in_their_order() -> None:
    lengths = torch.tensor([3, 5, 0, 3, 1])
    frames = torch.arange(12.0)[None, :, None].expand(2, -1, 1)
    seen = []

    def total(x: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(x.shape[1:3]))
        return x.sum(dim=2)

    sums = of_equal_length(frames, lengths, total, least=2)
    assert sums[0, :, 0].tolist() == [3, 25, 0, 27, 22]  # the last of one frame is seen twice
    assert sorted(seen) == [(1, 2), (1, 2), (1, 5), (2, 3)]


def test_pairs_of_frames_end_with_the_utterance() -> None:
    frames = torch.arange(1.0, 9.0)[:, None]
    pairs = padded(frames[None], torch.tensor([3, 0, 4, 1]), 2)
    assert pairs.tolist() == [[[[1, 2], [3, 0]], [[0, 0], [0, 0]], [[4, 5], [6, 7]], [[8, 0], [0, 0]]]]


def test_a_recurrent_head_reads_each_utterance_as_torch_does_alone() -> None:
    torch.manual_seed(0)
    head = Blstm(4, 3, 2, 6, 5).eval()
    lstm = torch.nn.LSTM(6, 5, 2, bidirectional=True)
    for layer, pair in enumerate(zip(head.forwards, head.backwards, strict=True)):
        for own, end in zip(pair, ("", "_reverse"), strict=True):
            for name, value in own.named_parameters():
                getattr(lstm, f"{name[:-1]}{layer}{end}").data.copy_(value.data)
    lengths, frames = torch.tensor([5, 0, 8, 3]), torch.randn(16, 4)
    together, first, step = head(frames, lengths), 0, 0
    for length in lengths.tolist():
        steps = -(-length // 2)
        if steps:
            x = torch.cat([frames[first : first + length], torch.zeros(2 * steps - length, 4)]).reshape(steps, 8)
            alone = head.classify(lstm(head.project(x))[0])
            torch.testing.assert_close(together[step : step + steps], alone)
        first, step = first + length, step + steps
    assert len(together) == step


def test_attentive_statistics_are_a_plain_loops() -> None:
    torch.manual_seed(1)
    head = Attentive(1, 6, 4)
    x = torch.randn(1, 1, 9, 256)
    pooled = head.pool(x)[0, 0]
    scores = [head.weigh(torch.tanh(head.look(frame[None, None]))).item() for frame in x[0, 0]]
    weights = np.exp(scores) / np.exp(scores).sum()
    frames = x[0, 0].numpy()
    mean = sum(w * f for w, f in zip(weights, frames, strict=True))
    deviation = np.sqrt(sum(w * (f - mean) ** 2 for w, f in zip(weights, frames, strict=True)))
    np.testing.assert_allclose(pooled.detach().numpy(), np.concatenate([mean, deviation]), rtol=1e-4, atol=1e-5)


def test_symmetric_normalisation_is_a_plain_loops() -> None:
    random = np.random.default_rng(0)
    embeddings, cohort = (random.standard_normal((n, 6)) for n in (7, 9))
    first, second = np.array([0, 1, 2, 0, 6]), np.array([1, 2, 3, 5, 4])
    scores = (embeddings[first] * embeddings[second]).sum(axis=1)
    ours = s_norm(scores, embeddings, first, second, cohort)
    for k, score in enumerate(scores):
        sides = [[float(embeddings[side[k]] @ other) for other in cohort] for side in (first, second)]
        expected = sum((score - np.mean(side)) / np.std(side) for side in sides) / 2
        assert ours[k] == pytest.approx(expected)


def test_after_speechbrain_every_module_in_memory_can_be_looked_at() -> None:
    """In a process of its own: whether it was imported here before is chance."""
    code = (
        "import sys, wavbench; from wavbench.downstream.heads.ecapa import Ecapa; Ecapa(8, 2); "
        "[getattr(module, '__file__', None) for module in list(sys.modules.values())]; "
        "import pickle; pickle.dumps(len); print('speechbrain.lobes.models.ECAPA_TDNN' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "True"
