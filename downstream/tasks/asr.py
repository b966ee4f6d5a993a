"""Automatic speech recognition (ASR): the characters of the transcript by CTC, blanks between words among them."""

from wavbench.downstream.spec import WORD_ERROR_RATE, Budget, Task
from wavbench.upstream.transcripts import as_is


def target(row: dict) -> list[str]:
    """Transcripts are normalised when a corpus is imported: case and punctuation that are left are to be recognised."""
    return list(as_is(row["text"], ""))


task = Task(
    title="speech recognition",
    needs=("text",),
    target=target,
    objective="Transcribe",
    head="linear",
    metric=WORD_ERROR_RATE,
    budget=Budget(updates=2_000, batch=16, evaluate_every=200, learning_rates=(1e-3, 3.2e-3, 1e-2)),
    source="Yang et al. 2021, SUPERB, ASR (its data and metric; the head is that of its PR, without recurrent layers)",
)
