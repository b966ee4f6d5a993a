"""Test transcripts decoded a second time, with a language model whose weights were chosen on dev."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from wavbench.downstream.language.causal_lm import CausalLm
from wavbench.downstream.language.decoding import decode_with_lm, load_lm, refuse_other_tokens, tokens_of, tune
from wavbench.downstream.language.ngrams import LanguageModel, estimate
from wavbench.downstream.language.search import BLANK, Search
from wavbench.downstream.metrics import edit_distances
from wavbench.upstream.errors import UserError

TRAIN = "train"  # in place of a file: the transcripts of the train split
MOST_DEV = 150  # utterances that weights are chosen on


@dataclass(frozen=True, kw_only=True)
class Model:
    """What helps to decode.

    Args:
        ngrams: an ARPA file, or TRAIN for a model of the train transcripts.
        order: of a model of the train transcripts.
        unit: what its tokens are, "word" or "character".
        neural: folder of a causal transformer that reorders the best hypotheses; "" for none.
        closed: whether only words of the n-gram model may be written.
        beam: hypotheses kept from frame to frame.
    """

    ngrams: str = TRAIN
    order: int = 3
    unit: str = "word"
    neural: str = ""
    closed: bool = False
    beam: int = 32

    def __post_init__(self) -> None:
        if self.unit not in ("word", "character"):
            raise UserError(f"lm_unit={self.unit} is not known", remedy="lm_unit=word or lm_unit=character")


def contents_of(model: Model) -> dict[str, str]:
    """Digests of the files of a choice, in the place of their names."""
    digests = {}
    for name in ("ngrams", "neural"):
        path = Path(getattr(model, name))
        if getattr(model, name) in ("", TRAIN):
            continue
        if not path.exists():
            raise UserError("there is no such language model", where=path, remedy="check the path, or lm=train")
        files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
        digests[name] = hashlib.blake2b(b"".join(hash_file(file) for file in files), digest_size=16).hexdigest()
    return digests


def hash_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def open_models(model: Model, transcripts: Sequence[str]) -> tuple[LanguageModel, CausalLm | None]:
    """The models of a choice, seen to be of the corpus' language and unit.

    Args:
        model: the choice.
        transcripts: of the train split.

    Raises:
        UserError: a file is missing or of other tokens, or a transformer stands in the place of n-grams.
    """
    sentences = [tokens_of(text, model.unit) for text in transcripts]
    found = estimate(sentences, model.order) if model.ngrams == TRAIN else load_lm(model.ngrams)
    if isinstance(found, CausalLm):
        raise UserError(
            "the search needs a model of n-grams, and this is a transformer",
            where=model.ngrams,
            remedy="lm=train or lm=FILE.arpa, and lm_neural=FOLDER for the transformer",
        )
    refuse_other_tokens(found, sentences, model.ngrams)
    neural = load_lm(model.neural) if model.neural else None
    if neural is not None and not isinstance(neural, CausalLm):
        raise UserError("lm_neural= takes a folder of a transformer", where=model.neural, remedy="lm=FILE for n-grams")
    return found, neural


def search_with(model: Model, found: LanguageModel, symbols: Sequence[str]) -> Search:
    """A search over the outputs of a head, CTC's blank first."""
    words = [token for token in found.tokens if not token.startswith("<")] if model.closed else None
    unit = "word" if model.unit == "word" else "symbol"
    return Search(symbols=(BLANK, *symbols), model=found, unit=unit, lexicon=words, beam=model.beam)


def decode_again(
    table: pd.DataFrame,
    model: Model,
    models: tuple[LanguageModel, CausalLm | None],
    symbols: Sequence[str],
    dev: tuple[Sequence[Float[np.ndarray, "_ classes"]], Sequence[str]],
    test: Sequence[Float[np.ndarray, "_ classes"]],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[pd.DataFrame, dict]:
    """A table of scores with the columns of a second decoding, and how that was done.

    Args:
        table: scores of test, with `reference`.
        model: the choice.
        models: opened.
        symbols: of the head, without CTC's blank.
        dev: emissions and references of dev.
        test: emissions of test, in the order of the table.
        progress: called with utterances decoded and in all, those of dev once for every choice of weights.
    """
    found, neural = models
    search, before = search_with(model, found, symbols), 0

    def on_dev(done: int, total: int) -> None:
        nonlocal before
        before = total
        if progress:
            progress(done, total + len(test))

    def on_test(done: int, total: int) -> None:
        if progress:
            progress(before + done, before + total)

    tuned = tune(dev[0], [list(text) for text in dev[1]], search, neural=neural, progress=on_dev)
    lists = decode_with_lm(test, search, tuned.search, neural=neural, rescoring=tuned.rescoring, progress=on_test)
    texts = [" ".join(own[0].words) if own else "" for own in lists]
    references = table["reference"].tolist()
    about = {
        **asdict(model),
        "ngrams": Path(model.ngrams).name,
        "neural": Path(model.neural).name,
        "weights": asdict(tuned.rescoring or tuned.search),
        **({"search_weights": asdict(tuned.search)} if tuned.rescoring else {}),
        "dev_error_rate": tuned.error_rate,
        "tried": len(tuned.trials),
    }
    return table.assign(
        errors_lm=edit_distances([r.split() for r in references], [text.split() for text in texts]),
        errors_characters_lm=edit_distances(references, texts),
        hypothesis_lm=texts,
    ), about
