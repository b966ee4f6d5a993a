"""Speech translation (ST): a sentence in another language, written by characters or pieces of words."""

from wavbench.downstream.spec import BLEU, SUPERB_RATES, Budget, Superb, Task
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
    source="Tsai et al. 2022, SUPERB-SG, ST (a smaller transformer, fewer beams)",
    superb=Superb(
        head="translator_superb",
        budget=Budget(
            updates=32_000,
            batch=256,
            evaluate_every=2_000,
            learning_rates=SUPERB_RATES,
            seconds=1_600.0,  # its 10,000 tokens of a batch are frames at 50 Hz, and eight batches make an update
            clip=10.0,
            warmup=10_000,
        ),
        differs="frames are laid side by side where its recipe has two strided convolutions",
    ),
)
