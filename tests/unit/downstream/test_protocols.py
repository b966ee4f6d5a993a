"""Protocols: what SUPERB's does otherwise than ours, and where it cannot be had."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from wavbench.downstream import fit as module
from wavbench.downstream.fit import fit
from wavbench.downstream.fold import effective_batch, trials_of
from wavbench.downstream.heads import mean_linear
from wavbench.downstream.objectives import Classify
from wavbench.downstream.spec import CLEAN, PROTOCOLS, SUPERB_RATES, Budget, find_protocol, load_task, task_names
from wavbench.downstream.splits import Split, splits_of
from wavbench.upstream.errors import UserError

SUPERB = PROTOCOLS["superb"]


def sessions(count: int = 5, each: int = 20) -> pd.DataFrame:
    """A corpus of IEMOCAP's shape: sessions of two speakers each."""
    rows = [
        {
            "id": f"u{s}-{k}",
            "session": str(s),
            "speaker": f"s{s}{'FM'[k % 2]}",
            "emotion": "ab"[k // 2 % 2],
            "split": "train",
        }
        for s in range(1, count + 1)
        for k in range(each)
    ]
    return pd.DataFrame(rows)


def test_a_corpus_of_sessions_leaves_each_out_with_the_next_as_dev() -> None:
    table = sessions()
    folds = splits_of(table, load_task("er"))
    assert [fold.name for fold in folds] == ["1", "2", "3", "4", "5"]
    for fold in folds:
        held = [set(table["session"].iloc[part]) for part in (fold.train, fold.dev, fold.test)]
        assert [len(part) for part in held] == [3, 1, 1]
        assert held[2] == {fold.name}
        speakers = [set(table["speaker"].iloc[part]) for part in (fold.train, fold.dev, fold.test)]
        assert not speakers[0] & (speakers[1] | speakers[2])


def test_superb_draws_a_fifth_of_the_other_sessions_as_dev_whoever_speaks() -> None:
    table = sessions()
    for fold in splits_of(table, load_task("er"), SUPERB):
        assert (len(fold.train), len(fold.dev), len(fold.test)) == (64, 16, 20)
        assert set(table["session"].iloc[fold.test]) == {fold.name}
        assert sorted(np.concatenate([fold.train, fold.dev, fold.test])) == list(range(len(table)))
        assert set(table["speaker"].iloc[fold.dev]) & set(table["speaker"].iloc[fold.train])
    again = splits_of(table, load_task("er"), SUPERB)
    assert all((a.dev == b.dev).all() for a, b in zip(splits_of(table, load_task("er"), SUPERB), again, strict=True))


def test_superb_has_its_own_budgets_and_five_rates_on_a_log_scale() -> None:
    budget = load_task("er").chosen(SUPERB).budget
    assert (budget.updates, budget.batch, budget.evaluate_every) == (30_000, 32, 1_000)
    assert load_task("pr").chosen(SUPERB).budget.updates == 100_000
    assert SUPERB_RATES == (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    assert load_task("er").chosen(CLEAN).budget == load_task("er").budget


def test_superb_has_heads_of_its_own_where_the_task_has_another() -> None:
    heads = {name: load_task(name).chosen(SUPERB).head for name in ("asr", "asv", "er", "pr")}
    assert heads == {"asr": "blstm_superb", "asv": "xvector", "er": "mean_linear", "pr": "linear"}
    asv = load_task("asv").chosen(SUPERB).budget
    assert (asv.clip, asv.batch, asv.crop, asv.weight_decay) == (1_000, 50, 8.0, 0.01)


def test_a_head_that_a_task_does_not_take_is_named() -> None:
    with pytest.raises(UserError, match="no head 'xvector' in protocol clean") as caught:
        load_task("er").chosen(CLEAN, "xvector")
    assert caught.value.remedy == "head=mean_linear or head=attentive or head=ecapa"


def test_a_task_that_superb_has_not_says_so() -> None:
    with pytest.raises(UserError, match="no protocol superb") as caught:
        load_task("phones").chosen(SUPERB)
    assert caught.value.remedy == "protocol=clean"


def test_every_task_has_the_clean_protocol() -> None:
    assert all(load_task(name).chosen(CLEAN).budget.updates for name in task_names())


def test_a_misspelt_protocol_is_named() -> None:
    with pytest.raises(UserError, match="no protocol 'supreb'") as caught:
        find_protocol("supreb")
    assert "superb" in caught.value.remedy


def test_constant_rates_are_constant_and_others_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    step = module.StackedAdam.step
    monkeypatch.setattr(module.StackedAdam, "step", lambda self, share=1.0: (shares.append(share), step(self, share)))

    class Batches:
        def take(self, rows: np.ndarray):
            return torch.randn(1, len(rows), 4), None

        def length(self, row: int) -> int:
            return 1

    objective = Classify(["a", "b"] * 10, np.arange(20))
    budget = Budget(updates=10, batch=4, evaluate_every=5, learning_rates=(1e-3,))
    rows = np.arange(20)
    for falls in (True, False):
        model = module.HeadStack(0, [0], 1, lambda heads: mean_linear.build(heads, 4, 2))
        fit(model, objective, Batches(), rows, rows, [1e-3], budget, True, 0, falls=falls)
    assert shares[:10] == [1, 1, 1, 1, 1, 1, 0.8, pytest.approx(0.6), pytest.approx(0.4), pytest.approx(0.2)]
    assert shares[10:] == [1.0] * 10


def test_any_column_can_be_classified() -> None:
    task = load_task("classify-gender")
    assert (task.needs, task.target({"gender": "f"})) == (("gender",), "f")
    for name in ("classify", "classify-", "clasify-gender", "er-gender"):
        with pytest.raises(UserError, match="there is no task") as caught:
            load_task(name)
    assert "er" in caught.value.remedy
    with pytest.raises(UserError, match="has no classes"):
        load_task("classify-id")


def test_superb_chooses_verification_on_test() -> None:
    table = pd.DataFrame({"split": ["train"] * 4 + ["dev"] * 2 + ["test"] * 3, "speaker": [*"abcdefghi"]})
    (split,) = splits_of(table, load_task("asv"), SUPERB)
    assert split.dev.tolist() == split.test.tolist() == [6, 7, 8]
    (clean,) = splits_of(table, load_task("asv"))
    assert clean.dev.tolist() == [4, 5]


def test_given_trials_are_what_dev_is_judged_by_where_dev_is_test() -> None:
    table = pd.DataFrame({"id": [*"abcdefghij"], "speaker": [*"kkllmmnnoo"]})
    given = pd.DataFrame({"enroll": ["g", "g"], "test": ["h", "i"], "target": [1, 0]})
    dev, test = np.arange(2, 6), np.arange(6, 10)
    same = trials_of(table, Split("", train=np.arange(2), dev=test, test=test), given, 0)
    assert same["dev"].equals(given)
    assert same["test"].equals(given)
    apart = trials_of(table, Split("", train=np.arange(2), dev=dev, test=test), given, 0)
    assert set(apart["dev"]["enroll"]) <= set("cdef")
    assert apart["test"].equals(given)


def test_rates_that_warm_up_fall_with_the_root_of_the_updates() -> None:
    budget = Budget(updates=100, batch=4, evaluate_every=5, learning_rates=(1e-3,), warmup=16)
    shares = [module.share_of_rate(update, budget, True) for update in (4, 16, 64)]
    assert shares == [0.25, 1.0, 0.5]


def test_a_budget_is_described_by_what_the_first_records_had_and_by_what_is_set() -> None:
    budget = Budget(updates=10, batch=4, evaluate_every=5, learning_rates=(1e-3,))
    assert set(budget.described()) == {"updates", "batch", "evaluate_every", "learning_rates"}
    assert replace(budget, crop=2.0).described()["crop"] == 2.0


def test_what_an_update_sees_is_stated_in_utterances_and_seconds() -> None:
    frames = np.full(20, 100)  # 2 s each
    budget = Budget(updates=10, batch=8, evaluate_every=5, learning_rates=(1e-3,))
    assert effective_batch(budget, frames, 50.0) == {"utterances": 6.67, "audio_seconds": 13.33}  # 8, 8 and 4
    assert effective_batch(replace(budget, crop=0.5), frames, 50.0)["audio_seconds"] == 3.33
    assert effective_batch(replace(budget, seconds=8.0), frames, 50.0) == {"utterances": 4.0, "audio_seconds": 8.0}
