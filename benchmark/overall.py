"""One score over several tasks: SUPERB's, with the constants of its site, and the same formula on other corpora."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from wavbench.benchmark.leaderboard import Board
from wavbench.upstream.errors import UserError

POINTS = 1_000.0  # between filterbanks and the best model of SUPERB's paper


@dataclass(frozen=True)
class Metric:
    """A metric of SUPERB and the two values that its score lies between, both as percent where higher is better.

    Args:
        column: of the published table.
        task: that it belongs to.
        fbank: what filterbanks score.
        topline: the best model of the paper.
        is_error: whether the column counts errors, so that 100 minus it is higher where it is better.
    """

    column: str
    task: str
    fbank: float
    topline: float
    is_error: bool = False


# From the code of the leaderboard's site; the table of its policy page has two of them in the wrong rows.
METRICS = (
    Metric("pr_per", "PR", 17.99, 96.47, is_error=True),
    Metric("sid_accuracy", "SID", 20.058174, 90.3),
    Metric("ks_accuracy", "KS", 41.3826674, 96.66),
    Metric("qbe_mtwv", "QbE", 0.58, 7.36),
    Metric("ic_accuracy", "IC", 9.649354219, 98.76),
    Metric("asr_wer", "ASR", 76.82, 96.38, is_error=True),
    Metric("asv_eer", "SV", 90.44, 94.89, is_error=True),
    Metric("er_accuracy", "ER", 48.23672168, 67.62),
    Metric("sd_der", "SD", 89.95, 94.38, is_error=True),
    Metric("sf_f1", "SF", 69.64, 89.81),
    Metric("sf_cer", "SF", 47.06, 78.24, is_error=True),
    Metric("st_bleu", "ST", 2.32, 20.01),
    Metric("se_pesq", "SE", 2.55, 2.64),
    Metric("se_stoi", "SE", 93.6, 94.2),
    Metric("ss_sisdri", "SS", 9.2341, 10.4514),
)
SETS = {
    "paper": ("PR", "SID", "KS", "QbE", "IC", "ASR", "SV", "ER", "SD", "SF"),
    "public": ("PR", "SID", "QbE", "ASR", "SV", "ER", "SD", "ST", "SE", "SS"),
}


def superb_scores(published: pd.DataFrame) -> pd.DataFrame:
    """The scores of SUPERB over its task sets, for the rows that have all tasks of a set; NaN for the others.

    superb_s is the mean over tasks of 1000 (value - filterbanks) / (topline - filterbanks), where the metrics of one
    task are normalised first and averaged then; it exceeds 1000 for models that are better than the paper's. superb_r
    is the mean over tasks of how many rows of the table have a lower value. superb_sp and superb_rp are both over the
    parameters in millions (1 where there are fewer).

    Args:
        published: rows with `parameters` and the columns of METRICS.

    Returns:
        Columns superb_s, superb_r, superb_sp, superb_rp of the paper's ten tasks, and the same with `_public` behind.

    Raises:
        UserError: a column is missing or holds what is no number.

    Source: Yang et al. 2021, SUPERB; the code of its leaderboard's site.
    """
    tasks = _by_task(published)
    millions = (published["parameters"] / 1e6).clip(lower=1.0)
    columns = {}
    for name, chosen in SETS.items():
        own, suffix = tasks[list(chosen)], "" if name == "paper" else f"_{name}"
        beaten = pd.DataFrame({task: own[task].rank(method="min") - 1 for task in own})
        score, rank = (values.mean(axis=1, skipna=False) for values in (own, beaten))
        columns |= {f"superb_s{suffix}": score, f"superb_r{suffix}": rank}
        columns |= {f"superb_sp{suffix}": score / millions, f"superb_rp{suffix}": rank / millions}
    return pd.DataFrame(columns)


def _by_task(published: pd.DataFrame) -> pd.DataFrame:
    """The normalised value of every row in every task."""
    absent = [name for name in ("parameters", *(metric.column for metric in METRICS)) if name not in published]
    if absent:
        raise UserError(f"the published table has no column {absent[0]}", remedy=f"its columns: {', '.join(published)}")
    normal = {}
    for metric in METRICS:
        values = pd.to_numeric(published[metric.column], errors="coerce")
        wrong = values.isna() & published[metric.column].notna()
        if wrong.any():
            found = published[metric.column][wrong].iloc[0]
            raise UserError(
                f"the published table has a {metric.column} that is no number: {found}",
                remedy="a number in percent, or nothing where it was not published",
            )
        values = 100 - values if metric.is_error else values
        normal[metric] = POINTS * (values - metric.fbank) / (metric.topline - metric.fbank)
    tasks = list(dict.fromkeys(metric.task for metric in METRICS))
    return pd.DataFrame(
        {
            task: pd.DataFrame([normal[metric] for metric in METRICS if metric.task == task]).mean(skipna=False)
            for task in tasks
        }
    )


def relative_scores(boards: Sequence[Board], baseline: str = "fbank") -> pd.DataFrame:
    """SUPERB's formula on boards without public reference points: between filterbanks and the best row of each board.

    Boards without a row of the baseline, or on which nothing is better than it, say nothing and are left out. Only rows
    that stand on all of the others are scored.

    Args:
        boards: of which each counts as one task.
        baseline: upstream that scores 0.

    Returns:
        Columns upstream, score (1000 would be the best row of every board), borda (mean over boards of how many of
        these rows are worse) and boards (how many count), best first.
    """
    counted, values = [], {}
    for board in boards:
        sign = 1.0 if board.higher_is_better else -1.0
        own = {row.upstream: sign * row.value for row in board.rows}
        if baseline in own and max(own.values()) > own[baseline]:
            counted.append(board)
            values[len(counted)] = own
    table = pd.DataFrame(values).dropna()
    if table.empty:
        return pd.DataFrame(columns=["upstream", "score", "borda", "boards"])
    floor, best = pd.DataFrame(values).loc[baseline], pd.DataFrame(values).max()
    scores = POINTS * ((table - floor) / (best - floor)).mean(axis=1)
    found = pd.DataFrame({"score": scores, "borda": (table.rank(method="min") - 1).mean(axis=1)})
    found = found.assign(boards=len(counted)).rename_axis("upstream").reset_index()
    return found.sort_values(["score", "upstream"], ascending=[False, True], ignore_index=True)
