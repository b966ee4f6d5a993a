"""Losses against torch's own, decoding against plain loops, labels against hand-made timings."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wavbench.downstream.decode import greedy_ctc
from wavbench.downstream.objectives import Classify, Ctc, Frames, Transcribe, Verify
from wavbench.downstream.spec import load_task
from wavbench.downstream.text import IGNORED, Segment, Vocabulary, frame_labels, segments_of
from wavbench.upstream.errors import UserError


class Fixed(nn.Module):
    """A model that returns its states, for losses that call one."""

    takes_lengths = False

    def forward(self, states: torch.Tensor, lengths: np.ndarray | None = None) -> torch.Tensor:
        return states

    def steps(self, lengths: np.ndarray) -> np.ndarray:
        return lengths


def test_greedy_decoding_joins_repeats_and_drops_blanks_utterance_by_utterance() -> None:
    path = [
        1,
        1,
        0,
        1,
        2,
        2,
        2,
        0,
        3,
    ]  # utterances of 5 and 4 frames; the second begins with the symbol that ends the first
    outputs = torch.stack(
        [F.one_hot(torch.tensor(path), 4).float(), F.one_hot(torch.zeros(9, dtype=torch.long), 4).float()]
    )
    assert greedy_ctc(outputs, np.array([5, 4])) == [[[1, 1, 2], [2, 3]], [[], []]]


def test_greedy_decoding_of_an_utterance_without_frames_is_empty() -> None:
    outputs = F.one_hot(torch.tensor([[1, 2]]), 3).float()
    assert greedy_ctc(outputs, np.array([0, 2, 0])) == [[[], [1, 2], []]]


def test_the_ctc_loss_of_each_head_is_torchs_mean_over_utterances() -> None:
    torch.manual_seed(0)
    targets = [["b", "a"], ["c"], ["a", "b", "c", "a"]]
    objective = Ctc(targets, np.arange(3), [9, 7, 12], 50.0)
    assert objective.vocabulary.symbols == ("a", "b", "c")
    outputs, lengths = torch.randn(2, 28, 4), np.array([9, 7, 12])
    ours = objective.loss(Fixed(), outputs, np.arange(3), lengths)
    for head in range(2):
        losses = [
            nn.CTCLoss()(part.log_softmax(1)[:, None], torch.tensor([symbols]), (len(part),), (len(symbols),))
            for part, symbols in zip(outputs[head].split([9, 7, 12]), [[2, 1], [3], [1, 2, 3, 1]], strict=True)
        ]
        assert float(ours[head]) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


def test_an_utterance_with_fewer_frames_than_symbols_teaches_nothing_and_breaks_nothing() -> None:
    objective = Ctc([["a", "b", "a", "b"], ["a"]], np.arange(2), [2, 5], 50.0)
    outputs = torch.randn(1, 7, 3, requires_grad=True)
    objective.loss(Fixed(), outputs, np.arange(2), np.array([2, 5])).sum().backward()
    assert torch.isfinite(outputs.grad).all()
    assert (outputs.grad[0, :2] == 0).all()


def test_phone_error_counts_come_with_their_texts() -> None:
    objective = Ctc([["a", "b"], ["b"]], np.arange(2), [4, 3], 50.0)
    decoded = [[[[1, 2], [1, 2]]]]  # one batch, one head: "a b", "a b"
    scores = objective.scores(decoded, [np.arange(2)], 0)
    assert scores["errors"].tolist() == [0, 1]
    assert scores["tokens"].tolist() == [2, 1]
    assert scores["hypothesis"].tolist() == ["a b", "a b"]
    assert objective.values(decoded, [np.arange(2)])[0] == pytest.approx(100 / 3)


def test_a_frame_belongs_to_the_segment_that_holds_its_centre() -> None:
    vocabulary = Vocabulary(("SIL", "a", "b"))
    segments = [Segment(0.0, 0.035, "SIL"), Segment(0.035, 0.1, "a"), Segment(0.1, 0.12, "b")]
    # 50 Hz: centres at 0.01, 0.03, 0.05, 0.07, 0.09, 0.11, 0.13
    assert frame_labels(segments, 7, 50.0, vocabulary).tolist() == [0, 0, 1, 1, 1, 2, IGNORED]


def test_frames_that_two_segments_claim_are_ignored() -> None:
    vocabulary = Vocabulary(("a", "b"))
    segments = [Segment(0.0, 0.06, "a"), Segment(0.04, 0.1, "b")]
    assert frame_labels(segments, 5, 50.0, vocabulary).tolist() == [0, 0, IGNORED, 1, 1]


def test_long_speech_segments_and_times_that_go_back_are_left_out() -> None:
    row = {"phones": "SIL a b c d", "phone_ends": "0.9 1.0 2.0 1.1 1.2"}
    # b lasts a second, c ends before it begins, silence may be long
    assert [(s.start, s.phone) for s in segments_of(row, 0.5)] == [(0.0, "SIL"), (0.9, "a"), (1.1, "d")]


def test_frame_scores_count_speech_apart_and_leave_ignored_frames_out() -> None:
    segments = [[Segment(0, 0.04, "SIL"), Segment(0.04, 0.08, "a")], [Segment(0, 0.04, "a")]]
    objective = Frames(segments, np.arange(2), [5, 3], 50.0)
    assert objective.vocabulary.symbols == ("SIL", "a")
    outputs = F.one_hot(torch.tensor([[0, 1, 1, 1, 0, 0, 1, 0]]), 2).float()
    counts = [objective.decode(Fixed(), outputs, np.arange(2), np.array([5, 3]))]
    scores = objective.scores(counts, [np.arange(2)], 0)
    assert scores["errors"].tolist() == [1, 1]
    assert scores["tokens"].tolist() == [4, 2]
    assert scores["errors_speech"].tolist() == [0, 1]
    assert scores["tokens_speech"].tolist() == [2, 2]
    assert objective.values(counts, [np.arange(2)])[0] == pytest.approx(100 * 4 / 6)


def test_the_frame_loss_is_the_mean_over_labelled_frames() -> None:
    objective = Frames([[Segment(0, 0.04, "a"), Segment(0.04, 0.06, "b")]], np.arange(1), [5], 50.0)
    outputs = torch.randn(2, 5, 2)
    expected = F.cross_entropy(outputs[1, :3], torch.tensor([0, 0, 1]))
    assert float(objective.loss(Fixed(), outputs, np.arange(1), None)[1]) == pytest.approx(float(expected), rel=1e-6)
    drawn = objective.train_loss(Fixed(), outputs, np.arange(1), None, np.random.default_rng(0))
    assert float(drawn[1]) == pytest.approx(float(expected), rel=1e-6)


def test_the_verification_loss_is_am_softmax() -> None:
    torch.manual_seed(0)
    objective = Verify(["s1", "s2", "s1"], np.arange(3))

    class Model(nn.Module):
        speakers = torch.randn(1, 4, 2)

        def stacked(self, name: str) -> torch.Tensor:
            return getattr(self, name)

        def trained(self, outputs: torch.Tensor) -> torch.Tensor:
            return outputs

    outputs = torch.randn(1, 3, 4)
    cosines = F.normalize(outputs[0], dim=1) @ F.normalize(Model.speakers[0], dim=0)
    losses = []
    for row, speaker in enumerate([0, 1, 0]):  # eq. 6, written out
        own = torch.exp(30 * (cosines[row, speaker] - 0.4))
        losses.append(-torch.log(own / (own + torch.exp(30 * cosines[row, 1 - speaker]))))
    ours = objective.loss(Model(), outputs, np.arange(3), None)
    assert float(ours[0]) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


def test_trial_scores_are_cosines() -> None:
    objective = Verify(["s1", "s2", "s1", "s2"], np.arange(4))
    objective.trials = {"test": (np.array([0, 0]), np.array([2, 3]), np.array([True, False]))}
    outputs = torch.randn(1, 4, 5)
    scores = objective.scores([objective.decode(Fixed(), outputs, np.arange(4), None)], [np.arange(4)], 0)
    expected = [F.cosine_similarity(outputs[0, 0], outputs[0, k], dim=0).item() for k in (2, 3)]
    np.testing.assert_allclose(scores["score"], expected, rtol=1e-5)


def test_a_class_of_test_that_train_lacks_is_named() -> None:
    objective = Classify(["joy", "anger", "fear"], np.array([0, 1]))
    with pytest.raises(UserError, match="'fear' occurs in test and never in train"):
        objective.check(np.array([2]), "test")


def test_a_train_split_of_one_class_is_refused() -> None:
    with pytest.raises(UserError, match="one class only: 'joy'"):
        Classify(["joy", "joy", "fear"], np.array([0, 1]))


def test_predictions_carry_their_class_names() -> None:
    objective = Classify(["x", "y", "x"], np.arange(3))
    outputs = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    scores = objective.scores([objective.decode(Fixed(), outputs, np.arange(3), None)], [np.arange(3)], 0)
    expected = pd.DataFrame({"errors": [0, 1, 0], "label": ["x", "y", "x"], "prediction": ["x", "x", "x"]})
    pd.testing.assert_frame_equal(scores[list(expected)], expected, check_dtype=False)


def spelled(objective: Transcribe, text: str) -> list[int]:
    return [objective.vocabulary.symbols.index(character) + 1 for character in text]


def test_a_character_that_train_lacks_is_an_error_and_is_counted() -> None:
    objective = Transcribe([list("cafe"), list("café"), list("中文")], np.array([0]), [30] * 3, 50.0)
    objective.check(np.array([1, 2]), "test")
    decoded = [[[spelled(objective, "cafe"), []]]]
    scores = objective.scores(decoded, [np.array([1, 2])], 0)
    assert scores["errors"].tolist() == [1, 1]
    assert scores["errors_characters"].tolist() == [1, 2]
    assert scores["unseen"].tolist() == [1, 2]
    assert torch.isfinite(objective.loss(Fixed(), torch.randn(1, 20, 5), np.array([1, 2]), np.array([9, 11]))).all()
    with pytest.raises(UserError, match="'é' occurs in test and never in train"):
        Ctc(objective.targets, np.array([0]), [30] * 3, 50.0).check(np.array([1]), "test")


def test_characters_are_composed_and_blanks_single() -> None:
    target = load_task("asr").target
    assert target({"text": "cafe\u0301   au lait "}) == list("caf\u00e9 au lait")
