"""Speech translation (ST): a sentence in another language, written character by character."""

from wavbench.downstream.spec import BLEU, Budget, Task
from wavbench.upstream.transcripts import as_is


def target(row: dict) -> list[str]:
    """Case and punctuation stay: BLEU counts them."""
    return list(as_is(row["translation"], ""))


task = Task(
    title="speech translation",
    needs=("translation",),
    target=target,
    objective="Translate",
    head="translator",
    metric=BLEU,
    budget=Budget(updates=1_200, batch=16, evaluate_every=150, learning_rates=(3.2e-4, 1e-3, 3.2e-3), search=150),
    source="Yang et al. 2021, SUPERB, ST (a smaller transformer, no vocabulary but characters, fewer beams)",
)
