"""Automatic speech recognition (ASR): the characters of the transcript by CTC, blanks between words among them."""

from wavbench.downstream.spec import SUPERB_RATES, WORD_ERROR_RATE, Augment, Budget, Superb, Task
from wavbench.upstream.transcripts import as_is


def target(row: dict) -> list[str]:
    """Transcripts are normalised when a corpus is imported: case and punctuation that are left are to be recognised."""
    return list(as_is(row["text"], ""))


task = Task(
    title="speech recognition",
    needs=("text",),
    target=target,
    objective="Transcribe",
    head="blstm",
    metric=WORD_ERROR_RATE,
    # the width of bands is a share of the channels, so that filterbanks lose as much as transformers' states
    budget=Budget(
        updates=3_000,
        batch=8,  # of 4 s; longer ones are fewer, shorter ones more
        evaluate_every=300,
        learning_rates=(1e-3, 3.2e-3),
        search=400,
        seconds=32.0,
        augment=Augment(time_width=20),
    ),
    heads={"linear": Budget(updates=2_000, batch=16, evaluate_every=200, learning_rates=(1e-3, 3.2e-3, 1e-2))},
    source="Yang et al. 2021, SUPERB, ASR (its data, metric and kind of head; the LSTMs are of 256 on pairs of frames)",
    superb=Superb(
        head="blstm_superb",
        budget=Budget(
            updates=200_000,
            batch=16,  # its file says 32, its code halves that
            evaluate_every=2_000,
            learning_rates=SUPERB_RATES,
            augment=Augment(warp=5),
        ),
    ),
)
