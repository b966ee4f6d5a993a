"""`wavbench lm`: sentences to a language model."""

import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

from wavbench.benchmark import schemas
from wavbench.benchmark.config import refuse_idle
from wavbench.benchmark.display import Display
from wavbench.benchmark.loading import check_seed
from wavbench.downstream.language.ngrams import Fit
from wavbench.upstream.errors import UserError, refuse_below
from wavbench.upstream.transcripts import as_is

MAX_LINE = 1 << 20  # bytes: a longer line is no sentence
MAX_TEXT = 8 << 30  # bytes
HELD_OUT = 0.05  # share of a text file that a transformer is measured on


def lm(config: schemas.Lm) -> int:
    """An n-gram model to an ARPA file, or a transformer to a folder."""
    kinds = {"ngram": ("word", "character"), "transformer": ("character",)}
    if config.kind not in kinds:
        raise UserError(f"kind={config.kind} is not known", remedy="kind=ngram or kind=transformer")
    unit = config.unit or kinds[config.kind][0]
    if unit not in kinds[config.kind]:
        remedy = " or ".join(f"unit={name}" for name in kinds[config.kind])
        raise UserError(f"unit={unit} is not known for kind={config.kind}", remedy=remedy)
    if bool(config.text) == bool(config.manifest):
        given = "both" if config.text else "none"
        raise UserError(
            "a language model is made from one source of text",
            where=f"given: {given}",
            remedy="text=FILE, a sentence on each line, or manifest=FILE",
        )
    check_seed("seed", config.seed)
    refuse_below(config, {"epochs": 1})
    own = {"ngram": ("order", "prune"), "transformer": ("epochs", "seed")}
    other = next(kind for kind in own if kind != config.kind)
    refuse_idle(config, own[other], f"kind={other}")
    out = Path(config.out)
    if config.kind == "ngram":
        return _ngram(config, unit, out)
    return _transformer(config, out)


def _ngram(config: schemas.Lm, unit: str, out: Path) -> int:
    from wavbench.downstream.language.arpa import write_arpa
    from wavbench.downstream.language.decoding import tokens_of
    from wavbench.downstream.language.ngrams import estimate, fit_of

    if out.suffix != ".arpa" or out.is_dir():
        raise UserError(f"out={out} is no name for an n-gram model", remedy="a file that ends in .arpa")
    counts = {"sentences": 0, "tokens": 0}

    with Display() as display:

        def learnt() -> Iterator[list[str]]:
            for sentence, done, total in _sentences(config, "train"):
                tokens = tokens_of(sentence, unit)
                counts["sentences"], counts["tokens"] = counts["sentences"] + 1, counts["tokens"] + len(tokens)
                if counts["sentences"] % 500 == 0 or done == total:
                    display.progress("counting", done, total)
                yield tokens

        model = estimate(learnt(), config.order, config.prune)
        plural = f"{unit}s" if config.column != "phones" else "phones"
        display.say(
            f"train: {counts['sentences']} sentences, {counts['tokens']} {plural}, {len(model.tokens)} different, "
            f"{len(model.probabilities)} n-grams"
        )
        if config.manifest:
            dev = [tokens_of(sentence, unit) for sentence, _, _ in _sentences(config, "dev")]
            display.say(_measured(fit_of(model, dev), plural))
        write_arpa(model, out)
    print(f"lm: {out}")
    return 0


def _transformer(config: schemas.Lm, out: Path) -> int:
    from wavbench.downstream.language.causal_lm import fit_of_characters, refuse_folder, train, write_causal_lm

    if out.suffix == ".arpa":
        raise UserError(f"out={out} is no name for a transformer", remedy="a folder, which need not exist")
    if config.column != "text":
        raise UserError(f"column={config.column} is not possible for kind=transformer", remedy="kind=ngram")
    refuse_folder(out)
    sentences = [sentence for sentence, _, _ in _sentences(config, "train")]
    if config.manifest:
        dev = [sentence for sentence, _, _ in _sentences(config, "dev")]
    else:
        if len(sentences) < 2:
            raise UserError("there is no text to train and to measure on", remedy="two sentences or more")
        held = set(Random(config.seed).sample(range(len(sentences)), max(round(HELD_OUT * len(sentences)), 1)))
        dev = [sentence for number, sentence in enumerate(sentences) if number in held]
        sentences = [sentence for number, sentence in enumerate(sentences) if number not in held]
    with Display() as display:
        display.say(
            f"train: {len(sentences)} sentences, {sum(map(len, sentences))} characters, "
            f"{len(set().union(*sentences))} different; dev: {len(dev)} sentences"
        )
        try:
            trained = train(
                sentences,
                dev,
                seed=config.seed,
                epochs=config.epochs,
                say=display.say,
                progress=lambda done, total: display.progress("training", done, total),
            )
        except KeyboardInterrupt:
            print(f"\ninterrupted; nothing was written to {out}, and the same command begins anew", file=sys.stderr)
            return 130
        display.say(_measured(fit_of_characters(trained.model, dev), "characters"))
        write_causal_lm(trained, out)
    print(f"lm: {out}")
    return 0


def _measured(fit: Fit, plural: str) -> str:
    unknown = f", {100 * fit.unknown / fit.tokens:.1f} % of them unknown" if fit.unknown else ""
    known = f" ({fit.perplexity_known:.2f} without unknown ones)" if fit.unknown and fit.perplexity_known > 0 else ""
    return f"dev: perplexity {fit.perplexity:.2f}{known} over {fit.tokens} {plural} and ends of sentences{unknown}"


def _sentences(config: schemas.Lm, split: str) -> Iterator[tuple[str, int, int]]:
    """Sentences with how far the source has been read: those of a split, or all lines of a text file."""
    if config.manifest:
        yield from _of_manifest(config, split)
    else:
        yield from _of_text(Path(config.text))


def _of_manifest(config: schemas.Lm, split: str) -> Iterator[tuple[str, int, int]]:
    from wavbench.downstream.text import SILENCE
    from wavbench.upstream.manifest import read_manifest

    manifest = read_manifest(config.manifest, config.root)
    manifest.need([config.column])
    texts = [as_is(text, "") for text in manifest.table.loc[manifest.table["split"] == split, config.column]]
    if config.column == "phones":
        texts = [" ".join(phone for phone in text.split() if phone not in SILENCE) for text in texts]
    texts = [text for text in texts if text]
    if not texts:
        raise UserError(
            f"the {split} split has no {config.column}",
            where=config.manifest,
            remedy=f"rows with split={split} and {config.column}, or text=FILE",
        )
    for done, text in enumerate(texts, start=1):
        yield text, done, len(texts)


def _of_text(path: Path) -> Iterator[tuple[str, int, int]]:
    if not path.is_file():
        raise UserError("there is no such text", where=f"text={path}", remedy="check the path")
    total, done = path.stat().st_size, 0
    if total > MAX_TEXT:
        raise UserError(f"the text has {total / 1e9:.0f} GB", where=path, remedy="KenLM's lmplz, whose files are read")
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number, done = number + 1, done + len(line)
            try:
                if len(line) > MAX_LINE:
                    raise ValueError(f"a line of more than {MAX_LINE} bytes")
                text = as_is(line.decode("utf-8-sig" if number == 1 else "utf-8"), "")
            except ValueError as error:
                raise UserError(
                    "the text cannot be read",
                    where=f"{path}, line {number}",
                    why=str(error)[:200],
                    remedy="UTF-8 with one sentence on each line",
                ) from None
            if text:
                yield text, done, total
