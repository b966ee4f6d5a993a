"""What every file in downstream/tasks promises, on a store that was made from the labels.

In the store layer 1 shows every label (what an ideal upstream would know), layer 2 shows it faintly, layer 0 is
noise. A task must read layer 1, must find nothing once the labels are shuffled, and must never learn from test.
"""

import importlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sacrebleu import corpus_bleu

from wavbench.benchmark.stats import interval
from wavbench.downstream import fold as module
from wavbench.downstream import objectives
from wavbench.downstream.fold import HEADS, statistics_of
from wavbench.downstream.heads import translator
from wavbench.downstream.metrics import METRICS, edit_distances
from wavbench.downstream.mix import MIX
from wavbench.downstream.probe import Result, probe
from wavbench.downstream.spec import Task, load_task, task_names
from wavbench.downstream.splits import shared, splits_of
from wavbench.downstream.text import SILENCE, frame_labels
from wavbench.downstream.trials import draw_trials
from wavbench.upstream.errors import UserError
from wavbench.upstream.row_checks import COLUMNS
from wavbench.upstream.shards import AudioStamp, Writer
from wavbench.upstream.store import Fingerprint, Info, Store, create_store, open_store, seal

RATE = 50.0  # frames per second of the made store
SPEAKERS, EACH = 30, 8
PHONES = ("a", "e", "k", "m", "s", "t")
EMOTIONS, LANGUAGES = ("anger", "calm", "joy", "fear"), ("en", "pl", "sw")
CODE = 8  # dimensions that a speaker's voice takes
DIM = len(PHONES) + 1 + len(EMOTIONS) + len(LANGUAGES) + CODE
KEYWORDS, INTENTS = dict(zip(LANGUAGES, ("yes", "no", "up"), strict=True)), dict(zip(EMOTIONS, "abcd", strict=True))
SAID = {"anger": "be off with you", "calm": "all is well here", "joy": "what a fine day", "fear": "I saw some wolves"}
WHERE = {"en": "in their old house", "pl": "at our new school", "sw": "on these green hills"}
QUICK_HEADS = {"asr": "linear"}  # where the task's own is dear; all heads are trained by what follows at the end
UPDATES = {"Ctc": 250, "Transcribe": 300, "Translate": 150}  # where 120 are too few for made features


@dataclass(frozen=True)
class Made:
    """A corpus without sound: its table, and a store of features that carry its labels."""

    table: pd.DataFrame
    store: Store


def made_table(seed: int = 0) -> pd.DataFrame:
    """All columns that a task may need, crossed so that no label predicts another."""
    random, rows = np.random.default_rng(seed), []
    for k in range(SPEAKERS * EACH):
        phones, ends, now = [], [], 0.0
        count = random.integers(5, 9)
        for place in range(count):  # silences anywhere within: a shuffled transcript fits nowhere
            silence = 0.16 * (0 < place < count - 1)
            phones.append(str(random.choice([*PHONES, "SIL"], p=[(1 - silence) / 6] * 6 + [silence])))
            now += 0.02 * int(random.integers(2, 5))
            ends.append(f"{now:.2f}")
        # silence parts words; a letter said twice without one between cannot be heard and is written once
        words = "".join(" " if phone in SILENCE else phone for phone, _ in itertools.groupby(phones)).strip()
        emotion, language = str(random.choice(EMOTIONS)), str(random.choice(LANGUAGES))
        rows.append(
            {
                "id": f"u{k:04d}",
                "audio": f"u{k:04d}.wav",
                "split": "train" if k < 16 * EACH else "dev" if k < 22 * EACH else "test",
                "speaker": f"s{k // EACH:02d}",
                "emotion": emotion,
                "language": language,
                "phones": " ".join(phones),
                "phone_ends": " ".join(ends),
                "text": words or "a",
                "translation": f"{SAID[emotion]} {WHERE[language]}",
                "keyword": KEYWORDS[language],
                "intent": INTENTS[emotion],
                "translation_language": "sw",
                "session": f"d{k % 2}",
                "duration": now,
            }
        )
    return pd.DataFrame(rows)


def frames_of(row: dict) -> np.ndarray:
    """What an ideal upstream knows of an utterance: (frames, dim)."""
    phones, ends = row["phones"].split(), [float(end) for end in row["phone_ends"].split()]
    frames = np.zeros((round(ends[-1] * RATE), DIM), np.float32)
    centres = (np.arange(len(frames)) + 0.5) / RATE
    symbols = [*PHONES, "SIL"]
    for frame, centre in enumerate(centres):
        frames[frame, symbols.index(phones[int(np.searchsorted(ends, centre))])] = 1
    at = len(symbols)
    frames[:, at + EMOTIONS.index(row["emotion"])] = 1
    at += len(EMOTIONS)
    frames[:, at + LANGUAGES.index(row["language"])] = 1
    voice = np.random.default_rng([ord(letter) for letter in row["speaker"]])
    frames[:, at + len(LANGUAGES) :] = voice.normal(size=CODE)
    return frames


def made_store(path: Path, table: pd.DataFrame, disturb: Callable | None = None, seed: int = 0) -> Store:
    """A frame store, written as extraction writes it.

    Args:
        disturb: from (row of the table, states) to other states.
    """
    random = np.random.default_rng(seed)
    fingerprint = Fingerprint(
        weights="made", config={}, layers=(0, 1, 2), kind="frames", dtype="float32", resampler="-", normalisation="-"
    )
    info = Info(upstream="made", checkpoint="made", manifest="made.csv", dim=DIM, frame_rate=RATE, parameters=0)
    create_store(path, fingerprint, info)
    writer = Writer(path / "shards", fingerprint.hash(), "float32", False)
    for position, row in enumerate(table.to_dict("records")):
        clean, noise = frames_of(row), random.normal(size=(3, *frames_of(row).shape))
        states = (np.stack([np.zeros_like(clean), clean, clean]) + np.array([1, 0.15, 2])[:, None, None] * noise) * 3
        states = states.astype(np.float32)
        if disturb:
            states = disturb(row, states).astype(np.float32)
        writer.add(position, row["id"], states, AudioStamp("made", 0, 0, np.nan, np.nan))
    writer.publish("00000-made", 0.0)
    seal(path, table["id"])
    return open_store(path)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Made:
    table = made_table()
    return Made(table, made_store(tmp_path_factory.mktemp("made") / "store", table))


@pytest.fixture(autouse=True)
def small_translator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head of translation, narrow enough to be trained many times."""
    small = translator.Shape(width=48, hidden=96)
    monkeypatch.setattr(translator, "build", partial(translator.Translator, shape=small))


@pytest.fixture(params=[*task_names(), "classify-emotion"])
def task(request: pytest.FixtureRequest) -> Task:
    return load_task(request.param).chosen(head=QUICK_HEADS.get(request.param, ""))


@pytest.fixture
def made(request: pytest.FixtureRequest, made_once: Made) -> Made:
    """The corpus; where speakers are the classes, every split has utterances of each."""
    task = request.getfixturevalue("task")
    if task.objective != "Classify" or task.needs != ("speaker",):
        return made_once
    parts = ["train"] * (EACH - 4) + ["dev"] * 2 + ["test"] * 2
    return replace(made_once, table=made_once.table.assign(split=parts * SPEAKERS))


def short(task: Task, updates: int | None = None) -> Task:
    updates = updates or UPDATES.get(task.objective, 120)
    rates = (task.budget.learning_rates[0], task.budget.learning_rates[-1])
    return replace(
        task, budget=replace(task.budget, updates=updates, evaluate_every=updates // 4, learning_rates=rates, search=0)
    )


def by_layer(results: list[Result]) -> dict:
    return {result.layers: result for result in results}


def ladder(task: Task, value: float, nothing: float) -> float:
    """How far a value stands from knowing nothing (0) to knowing all (1)."""
    perfect = 100.0 if task.metric.higher_is_better else 0.0
    return (value - nothing) / (perfect - nothing)


def knowing_nothing(task: Task, result: Result, made: Made) -> float:
    """The score of the best answer that looks at no features."""
    if task.objective == "Verify":
        return 50.0
    table = made.table
    if task.objective == "Classify":
        share = result.scores["label"].value_counts(normalize=True)
        return 100 * float(share.max())
    targets = [task.target(row) for row in table.to_dict("records")]
    (split,) = splits_of(table, task)
    if task.objective == "Joined":
        return 100.0  # of silence throughout: frames that are learned one by one know no sequence
    if task.objective == "Frames":
        objective = objectives.Frames(targets, split.train, made.store.lengths, RATE)
        labels = [
            frame_labels(targets[row], int(made.store.lengths[row]), RATE, objective.vocabulary) for row in split.test
        ]
        labels = np.concatenate(labels)
        return 100 * float(np.bincount(labels[labels >= 0]).max() / (labels >= 0).sum())
    guesses = [[], *(targets[row] for row in split.train)]
    if task.objective == "Translate":
        references = ["".join(targets[row]) for row in split.test]
        return max(corpus_bleu(["".join(guess)] * len(references), [references]).score for guess in guesses)
    if task.objective == "Transcribe":
        targets, guesses = (["".join(text).split() for text in texts] for texts in (targets, guesses))
    references = [targets[row] for row in split.test]
    tokens = sum(len(reference) for reference in references)
    return min(100 * float(edit_distances(references, [g] * len(references)).sum()) / tokens for g in guesses)


def shuffled(task: Task, table: pd.DataFrame) -> Task:
    """The task with targets of other utterances, in every split."""
    order = np.random.default_rng(5).permutation(len(table))
    rows = table.to_dict("records")
    given = {row["id"]: task.target(rows[other]) for row, other in zip(rows, order, strict=True)}
    return replace(task, target=lambda row: given[row["id"]])


def test_there_are_tasks() -> None:
    assert {"er", "lid", "pr", "phones", "asv"} <= set(task_names())


def test_names_columns_objective_head_and_metric_that_there_are(task: Task) -> None:
    assert task.needs
    assert set(task.needs) <= {*COLUMNS, "keyword", "intent"}  # any other column of a manifest can be a label, too
    assert not task.splits_separate or task.splits_separate in COLUMNS
    assert hasattr(objectives, task.objective)
    assert (HEADS / f"{task.head}.py").is_file()
    assert importlib.import_module(f"wavbench.downstream.heads.{task.head}").build
    assert task.metric.name in METRICS
    assert task.title
    assert task.source


def test_its_budget_can_be_run(task: Task) -> None:
    budget = task.budget
    assert 0 < budget.evaluate_every <= budget.updates
    assert budget.batch > 0
    assert len(set(budget.learning_rates)) == len(budget.learning_rates) >= 2
    assert all(rate > 0 for rate in budget.learning_rates)


def test_its_target_comes_from_the_columns_it_needs_alone(task: Task, made: Made) -> None:
    row = made.table.iloc[0].to_dict()
    assert task.target({column: row[column] for column in task.needs}) == task.target(row)


def test_every_task_has_a_docstring_and_fits_one_screen() -> None:
    for name in task_names():
        source = importlib.import_module(f"wavbench.downstream.tasks.{name}")
        assert source.__doc__
        assert len(Path(source.__file__).read_text().splitlines()) <= 50, name


def test_features_that_hold_the_label_score_far_above_chance_and_noise_does_not(task: Task, made: Made) -> None:
    found = by_layer(probe(short(task), made.store, made.table, [MIX, 0, 1, 2]))
    nothing = knowing_nothing(task, found[1], made)
    assert ladder(task, found[1].value, nothing) > 0.8
    assert ladder(task, found[MIX].value, nothing) > 0.6
    assert ladder(task, found[0].value, nothing) < 0.3
    assert ladder(task, found[2].value, nothing) < ladder(task, found[1].value, nothing)
    weights = found[MIX].layer_weights
    assert sum(weights) == pytest.approx(1, abs=1e-4)
    assert weights[1] > max(weights[0], 1 / 3)  # layer 2 helps where noise averages out over frames


def test_shuffled_labels_score_what_knowing_nothing_scores(task: Task, made: Made) -> None:
    trials = None
    if task.objective == "Verify":
        test = made.table[made.table["split"] == "test"]
        trials = draw_trials(test["id"].tolist(), test["speaker"].tolist(), 0)
        trials["target"] = np.random.default_rng(5).permutation(trials["target"])
        wrong = task
    else:
        wrong = shuffled(task, made.table)
    (result,) = probe(short(wrong), made.store, made.table, [1], trials=trials)
    nothing = knowing_nothing(wrong, result, made)
    scores = result.scores.assign(utterance=result.scores["row"].astype(str))
    if "row_b" in scores:
        scores["utterance_b"] = scores["row_b"].astype(str)
    low, high, _ = interval(task.metric.name, scores)
    if task.objective in ("Verify", "Classify"):
        chance = nothing if task.objective == "Verify" else 100 / result.secondary["classes"]
        assert low <= chance <= high, (low, chance, high)
    # nothing was learned: the value is that of the best constant answer, or worse, and never far from it
    assert -0.25 < ladder(task, result.value, nothing) < 0.05


def test_all_layers_at_once_give_what_each_gives_alone(task: Task, made: Made) -> None:
    quick = short(task, 40)
    together = by_layer(probe(quick, made.store, made.table, [MIX, 0, 1, 2]))
    for choice in (MIX, 1, 2):
        (alone,) = probe(quick, made.store, made.table, [choice])
        assert alone.learning_rates == together[choice].learning_rates
        assert alone.value == pytest.approx(together[choice].value, abs=0.1)
        for one, other in zip(alone.curve, together[choice].curve, strict=True):
            assert one["dev"] == pytest.approx(other["dev"], abs=0.5)
    assert list(together) == [MIX, 0, 1, 2]


def test_the_learning_rate_is_the_best_on_dev(task: Task, made: Made) -> None:
    quick = short(task, 40)
    rates = (1e-9, *quick.budget.learning_rates, 1e3)  # one that learns nothing, and one that breaks
    quick = replace(quick, budget=replace(quick.budget, learning_rates=rates))
    for result in probe(quick, made.store, made.table, [MIX, 1]):
        for rate, fold in zip(result.learning_rates, result.curve, strict=True):
            assert set(fold["dev"]) == {str(each) for each in rates}
            best = max if task.metric.higher_is_better else min
            assert fold["dev"][str(rate)] == best(fold["dev"].values())
            assert fold["dev"]["1e-09"] != fold["dev"][str(rate)]
            assert 0 < fold["updates"] <= quick.budget.updates


def trained(task: Task, store: Store, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> tuple[list, list]:
    """Results, and the weights of every head that was trained."""
    weights, fit = [], module.fit

    def keep(*arguments, **more):
        done = fit(*arguments, **more)
        weights.append({name: value.clone() for name, value in done.model.state_dict().items()})
        return done

    with monkeypatch.context() as patch:
        patch.setattr(module, "fit", keep)
        return probe(task, store, table, [MIX, 1]), weights


def test_test_rows_influence_neither_weights_nor_choices(
    task: Task, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = short(task, 40)
    results, weights = trained(quick, made.store, made.table, monkeypatch)
    table = made.table.copy()
    test = np.flatnonzero(table["split"] == "test")
    for column in ("emotion", "language", "speaker"):
        table.loc[test, column] = np.random.default_rng(3).permutation(table.loc[test, column])
    random = np.random.default_rng(4)

    def disturb(row: dict, states: np.ndarray) -> np.ndarray:
        return 40 * random.normal(size=states.shape) + 7 if row["split"] == "test" else states

    # the features of train and dev are the same; all of test is something else
    store = made_store(tmp_path / "store", made.table, disturb)
    others, other_weights = trained(quick, store, table, monkeypatch)
    for ours, theirs in zip(weights, other_weights, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for ours, theirs in zip(results, others, strict=True):
        assert ours.learning_rates == theirs.learning_rates
        assert ours.curve == theirs.curve
        assert ours.layer_weights == theirs.layer_weights
    assert results[1].value != others[1].value  # the disturbance was there


def test_the_same_seed_gives_the_same_result_and_another_seed_other_weights(
    task: Task, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = short(task, 20)
    (first, weights), (again, same) = (trained(quick, made.store, made.table, monkeypatch) for _ in range(2))
    assert [r.value for r in first] == [r.value for r in again]
    assert all(torch.equal(weights[0][name], same[0][name]) for name in weights[0])
    for ours, theirs in zip(first, again, strict=True):
        pd.testing.assert_frame_equal(ours.scores, theirs.scores)
    other = probe(quick, made.store, made.table, [1], seed=1)
    assert other[0].curve != first[1].curve


def test_no_split_shares_what_the_task_separates(task: Task, made: Made) -> None:
    if not task.splits_separate:
        pytest.skip("the corpus decides")
    for split in splits_of(made.table, task):
        assert shared(made.table, split, task.splits_separate) == 0
        values = made.table[task.splits_separate].to_numpy()
        assert not set(values[split.train]) & set(values[split.dev])
    mixed = made.table.assign(speaker=[f"s{k % 6}" for k in range(len(made.table))])  # six speakers in every split
    if task.folds:
        folds = splits_of(mixed, task)
        assert len(folds) == 6
        for fold in folds:
            parts = [set(mixed[task.splits_separate].iloc[rows]) for rows in (fold.train, fold.dev, fold.test)]
            assert sum(map(len, parts)) == len(set.union(*parts)) == 6
        return
    (result,) = probe(short(task, 4), made.store, mixed, [1])
    assert result.secondary["shared_speakers"] == 6  # it is the corpus' split, and the record says what it is


def test_folds_pool_their_scores_over_all_speakers(task: Task, made: Made) -> None:
    if not task.folds:
        pytest.skip("the task has no folds")
    few = made.table.assign(speaker=[f"s{k % 4}" for k in range(len(made.table))])
    (result,) = probe(short(task, 60), made.store, few, [1])
    assert sorted(result.scores["row"]) == list(range(len(few)))
    assert len(result.learning_rates) == len(result.curve) == 4
    assert ladder(task, result.value, knowing_nothing(task, result, made)) > 0.8


def test_a_class_of_test_that_train_lacks_is_refused(task: Task, made: Made) -> None:
    if task.objective in ("Verify", "Transcribe", "Translate"):
        pytest.skip("what is new in test is scored: speakers by design, characters as errors")
    table, last = made.table.copy(), len(made.table) - 1
    for column in ("emotion", "language", "keyword", "intent", "speaker"):
        table.loc[last, column] = "tlh"
    table.loc[last, "phones"] = table.loc[last, "phones"].rpartition(" ")[0] + " qq"
    with pytest.raises(UserError, match="occurs in test and never in train"):
        probe(short(task, 4), made.store, table, [1])


def test_a_character_that_train_lacks_is_scored_as_wrong(task: Task, made: Made) -> None:
    if task.objective not in ("Transcribe", "Translate"):
        pytest.skip("its classes are not characters")
    table, last = made.table.copy(), len(made.table) - 1
    table.loc[last, ["text", "translation"]] = "ℵℵ"
    (result,) = probe(short(task, 4), made.store, table, [1])
    scores = result.scores.set_index("row").loc[last]
    assert scores["reference"] == "ℵℵ"
    assert "ℵ" not in scores["hypothesis"]
    assert result.secondary["utterances_with_unseen_characters"] == 1


def test_an_empty_split_is_refused_with_the_counts(task: Task, made: Made) -> None:
    table = made.table[made.table["split"] != "dev"].reset_index(drop=True)
    with pytest.raises(UserError, match="no row in the dev split") as error:
        probe(short(task, 4), made.store, table, [1])
    assert "dev 0" in error.value.why


def test_a_head_of_frames_refuses_a_pooled_store_and_others_take_it(task: Task, made: Made, tmp_path: Path) -> None:
    store = open_store(made.store.path)
    store.pooled = True
    quick = short(task, 4)
    if statistics_of(task) is None:
        with pytest.raises(UserError, match="needs a frame store") as error:
            probe(quick, store, made.table, [1])
        assert "pool=none" in error.value.remedy
    else:
        assert probe(quick, store, made.table, [1])


FURTHER = [("er", "attentive"), ("er", "ecapa"), ("asv", "xvector"), ("asv", "ecapa_speaker"), ("pr_frames", "linear")]


def test_every_further_head_of_a_task_is_among_those_that_are_trained_here() -> None:
    heads = {head for name in [*task_names(), "classify-emotion"] for head in load_task(name).heads}
    assert heads <= {head for _, head in FURTHER}


@pytest.mark.parametrize(("name", "head"), [*FURTHER, ("asr", "blstm")])
def test_a_further_head_overfits_sixteen_utterances(name: str, head: str, made_once: Made) -> None:
    """Trained, chosen and scored on the same ones, of four speakers."""
    some = made_once.table["speaker"].isin(made_once.table["speaker"].unique()[:4])
    table = made_once.table[some].groupby("speaker").head(4)
    table = pd.concat([table.assign(split=part) for part in ("train", "dev", "test")], ignore_index=True)
    task = replace(load_task(name), folds=False).chosen(head=head)
    rate = task.budget.learning_rates[:1] if name != "asr" else (1e-2,)
    quick = replace(task.budget, updates=60, evaluate_every=30, search=0, batch=16, augment=None, learning_rates=rate)
    (result,) = probe(replace(task, budget=replace(quick, crop=min(quick.crop, 0.5))), made_once.store, table, [1])
    nothing = 50.0 if task.objective == "Verify" else result.secondary["chance"]
    assert ladder(task, result.value, nothing) > 0.8
