"""A head that writes looks neither ahead nor at other utterances, and its texts score as sacrebleu scores them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wavbench.downstream.decode import write_beams, write_greedily
from wavbench.downstream.fit import HeadStack, fit
from wavbench.downstream.heads import translator
from wavbench.downstream.heads.translator import Translator, Writer
from wavbench.downstream.metrics import bleu
from wavbench.downstream.objectives import Classify, Transcribe
from wavbench.downstream.objectives.translate import SMOOTHING, Translate, smoothed_loss, text_of
from wavbench.downstream.spec import Budget
from wavbench.downstream.stacked import StackedNorm, some_heads
from wavbench.downstream.text import IGNORED
from wavbench.upstream.errors import UserError

INPUTS, OUTPUTS = 6, 9
SHAPE = translator.Shape(width=32, hidden=64)
LENGTHS = torch.tensor([13, 1, 30, 8])


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translator, "ROOM", 5)


def model(heads: int = 2, seed: int = 0, spread: float = 0.1) -> Translator:
    """A stack whose heads have weights of their own, as after training."""
    torch.manual_seed(seed)
    made = Translator(heads, INPUTS, OUTPUTS, SHAPE)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return made


def frames(heads: int = 2) -> torch.Tensor:
    return torch.randn(heads, int(LENGTHS.sum()), INPUTS, generator=torch.Generator().manual_seed(1))


def test_a_later_symbol_never_changes_an_earlier_score() -> None:
    head, symbols = model(), torch.randint(1, OUTPUTS, (4, 7))
    before = head(frames(), LENGTHS, symbols)
    changed = symbols.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % OUTPUTS
    after = head(frames(), LENGTHS, changed)
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert not torch.allclose(before[:, :, 4:], after[:, :, 4:])


def test_an_utterance_scores_alone_as_in_any_batch() -> None:
    head, x, symbols = model(), frames(), torch.randint(0, OUTPUTS, (4, 7))
    together = head(x, LENGTHS, symbols)
    for row, part in enumerate(x.split(LENGTHS.tolist(), dim=1)):
        alone = head(part, LENGTHS[row : row + 1], symbols[row : row + 1])
        torch.testing.assert_close(alone[:, 0], together[:, row], rtol=1e-4, atol=1e-5)


def test_writing_symbol_by_symbol_scores_as_reading_all_at_once() -> None:
    head, x, symbols = model(), frames(), torch.randint(0, OUTPUTS, (4, 12))
    memory = head.encode(x, LENGTHS)
    whole = head.follow(memory, symbols).log_softmax(dim=3)
    writer = Writer(head, memory, 3)
    for place in range(12):
        step = writer.step(symbols[:, place, None].expand(2, 4, 3))
        for beam in range(3):
            torch.testing.assert_close(step[:, :, beam], whole[:, :, place], rtol=1e-4, atol=1e-5)
        writer.reorder(torch.tensor([2, 0, 1]).expand(2, 4, 3))


def test_an_utterance_without_frames_has_finite_scores() -> None:
    head = model()
    assert torch.isfinite(head(frames()[:, :5], torch.tensor([0, 5]), torch.zeros(2, 3, dtype=torch.long))).all()
    assert torch.isfinite(head(frames()[:, :0], torch.tensor([0]), torch.zeros(1, 3, dtype=torch.long))).all()


def test_a_head_is_the_same_whatever_is_trained_beside_it() -> None:
    """Dropout, too: a mix must not take the draws of the single layers behind it."""
    shape = translator.Shape(width=32, hidden=64, dropout=0.3)
    states, lengths = torch.randn(2, int(LENGTHS.sum()), INPUTS), LENGTHS.numpy()
    objective, rows = Translate([[*"ab"], [*"b"], [*"ba"], [*"a"]], np.arange(4), lengths, 50.0), np.arange(4)

    def gradient(mixed: int) -> torch.Tensor:
        torch.manual_seed(0)
        stack = HeadStack(mixed, [1], 2, lambda n: Translator(n, INPUTS, objective.outputs, shape), INPUTS).train()
        torch.manual_seed(1)
        losses = objective.train_loss(stack, states, rows, lengths, np.random.default_rng(0))
        losses.sum().backward()
        return next(stack.single.parameters()).grad

    torch.testing.assert_close(gradient(1), gradient(0))


def written(head: Translator, beams: int, bounds: np.ndarray, penalty: float = 1.0) -> list:
    writer = Writer(head, head.encode(frames(len(head.symbols)), LENGTHS), beams)
    with torch.inference_mode():
        return write_beams(writer, bounds, penalty) if beams else None


def greedily(head: Translator, bounds: np.ndarray) -> list:
    with torch.inference_mode():
        return write_greedily(Writer(head, head.encode(frames(len(head.symbols)), LENGTHS), 1), bounds)


BOUNDS = np.array([9, 0, 14, 5])


def test_one_beam_is_greedy_and_nothing_is_longer_than_its_bound() -> None:
    lengths = set()
    for seed in range(6):
        head = model(3, seed, 0.5)
        plain = greedily(head, BOUNDS)
        assert written(head, 1, BOUNDS) == plain
        for texts in (plain, written(head, 4, BOUNDS)):
            assert all(len(text) <= bound for own in texts for text, bound in zip(own, BOUNDS, strict=True))
        lengths |= {len(text) for own in plain for text in own}
    assert len(lengths) > 3  # some end, some are cut


def test_many_beams_find_the_best_sequence_there_is() -> None:
    """All sequences of up to three symbols, scored one by one."""
    head = some_heads(model(1, 3, 0.5), [0])
    memory = head.encode(frames(1), LENGTHS)
    sequences = [[]]
    for _ in range(3):
        sequences += [[*s, k] for s in sequences for k in range(1, OUTPUTS) if [*s, k] not in sequences]
    scores = []
    for sequence in sequences:
        follow = head.follow(memory, torch.tensor([[0, *sequence]] * 4)).log_softmax(dim=3)[0]
        ended = [*sequence, 0]
        scores.append([float(sum(follow[row, k, s] for k, s in enumerate(ended)) / len(ended)) for row in range(4)])
    best = [sequences[int(np.argmax([score[row] for score in scores]))] for row in range(4)]
    assert written(head, 600, np.full(4, 3)) == [best]


def test_what_is_written_does_not_depend_on_the_batch() -> None:
    head, x = model(2, 1, 0.5), frames()
    together = written(head, 3, BOUNDS)
    for row, part in enumerate(x.split(LENGTHS.tolist(), dim=1)):
        writer = Writer(head, head.encode(part, LENGTHS[row : row + 1]), 3)
        alone = write_beams(writer, BOUNDS[row : row + 1])
        assert [own[0] for own in alone] == [own[row] for own in together]


def test_some_heads_of_a_stack_write_what_they_write_in_it() -> None:
    head = model(3, 2, 0.5)
    chosen = some_heads(head, [2, 0])
    for name, parameter in chosen.named_parameters():
        assert torch.equal(parameter, head.get_parameter(name)[[2, 0]])
    whole = head(frames(3), LENGTHS, torch.zeros(4, 2, dtype=torch.long))
    torch.testing.assert_close(chosen(frames(3)[[2, 0]], LENGTHS, torch.zeros(4, 2, dtype=torch.long)), whole[[2, 0]])


def test_a_stacked_norm_is_as_many_layer_norms() -> None:
    norm, x = StackedNorm(3, 4), torch.randn(3, 5, 4)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(3, 1, 4)), norm.bias.copy_(torch.randn(3, 1, 4))
    for head in range(3):
        torch.testing.assert_close(norm(x)[head], F.layer_norm(x[head], (4,), norm.weight[head, 0], norm.bias[head, 0]))


def test_the_smoothed_loss_is_a_plain_loop() -> None:
    outputs, wanted = torch.randn(2, 2, 3, 5), torch.tensor([[1, 4, 0], [2, 0, IGNORED]])
    ours = smoothed_loss(outputs, wanted)
    for head in range(2):
        total = 0.0
        for row, place in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1)):
            logs = outputs[head, row, place].log_softmax(0)
            right = torch.full((5,), SMOOTHING / 5)
            right[wanted[row, place]] += 1 - SMOOTHING
            total -= float((right * logs).sum())
        assert float(ours[head]) == pytest.approx(total / 5, rel=1e-5)


class Sounds:
    """Features in which every letter sounds for some frames."""

    layers, dim = 2, 12

    def __init__(self, texts: list[str]) -> None:
        random, letters = np.random.default_rng(0), "abcdefgh "
        self.states = []
        for text in texts:
            line = np.zeros((8 * len(text), self.dim), np.float32)
            for place, letter in enumerate(text):
                line[8 * place : 8 * place + 8, letters.index(letter)] = 3
            self.states.append(torch.from_numpy(line + random.normal(size=line.shape).astype(np.float32)))
        self.lengths = np.array([len(line) for line in self.states])

    def take(self, rows: np.ndarray):
        states = torch.cat([self.states[row] for row in rows])
        return torch.stack([torch.randn(states.shape), states]), self.lengths[rows]

    def length(self, row: int) -> int:
        return int(self.lengths[row])


def test_a_small_copy_task_is_learned() -> None:
    random = np.random.default_rng(3)
    words = ["ab", "cad", "ef", "hag", "bed", "gh"]
    texts = [" ".join(random.choice(words, 5)) for _ in range(600)]
    data, train, dev = Sounds(texts), np.arange(560), np.arange(560, 600)
    objective = Translate([list(text) for text in texts], train, data.lengths, 50.0)
    torch.manual_seed(0)
    stack = HeadStack(1, [1], 2, lambda heads: Translator(heads, data.dim, objective.outputs, SHAPE))
    budget = Budget(updates=300, batch=16, evaluate_every=150, learning_rates=(3.2e-3,))
    done = fit(stack, objective, data, train, dev, [3.2e-3, 3.2e-3], budget, True, seed=0)
    assert (done.dev > 50).all()
    assert done.model.mix.weights()[0, 1] > 0.5
    with torch.inference_mode():
        states, lengths = data.take(dev)
        decoded = objective.test_look(done.model, states, dev, lengths, [1, 0])
    scores = objective.scores([decoded], [dev], 0)
    assert bleu(scores)[0] > 50


def test_characters_that_train_lacks_are_neither_learned_nor_refused() -> None:
    objective = Translate([list("ab a"), list("aéb")], np.array([0]), np.array([20, 20]), 50.0)
    objective.check(np.array([1]), "test")
    assert objective.classes[1].tolist() == [0, 2, 3, 0]
    scores = objective.scores([[[[2, 3]]]], [np.array([1])], 0)
    assert (scores["unseen"][0], scores["reference"][0], scores["hypothesis"][0]) == (1, "aéb", "ab")


def test_pieces_of_words_are_written_and_read_back_as_the_texts_they_were_made_of() -> None:
    words = ["the", "cat", "sat", "on", "a", "mat", "while", "some", "other", "cats", "were", "sitting", "there"]
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(words, 5)) for _ in range(80)] + ["the zebra sat"]
    lengths = np.full(len(texts), 60)
    objective = Translate([list(text) for text in texts], np.arange(80), lengths, 50.0)
    characters = [len(c) for c in objective.classes]
    objective.in_pieces(np.arange(80), lengths, 40)
    symbols = ["", *objective.vocabulary.symbols]
    for text, classes in zip(texts[:80], objective.classes, strict=False):
        assert text_of([symbols[c] for c in classes[1:-1]], True) == text
    assert objective.outputs == len(symbols) <= 41
    assert sum(map(len, objective.classes)) < 0.6 * sum(characters)
    assert objective.bounds.max() < max(characters)
    unseen = objective.scores([[[[], []]]], [np.array([0, 80])], 0)["unseen"].tolist()
    assert unseen == [0, 2]  # z and b; pieces are no characters
    with pytest.raises(UserError, match="no 3 pieces can be made"):
        objective.in_pieces(np.arange(80), lengths, 3)


def test_learning_rates_of_short_runs_are_chosen_by_the_loss() -> None:
    assert Translate.searched_by_loss
    assert Transcribe.searched_by_loss
    assert not hasattr(Classify, "searched_by_loss")
