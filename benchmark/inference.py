"""`wavbench transcribe | classify | verify | translate`: a trained head on audio files."""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import torch

from wavbench.benchmark import schemas
from wavbench.benchmark.config import refuse_idle
from wavbench.benchmark.loading import features_hash, load_upstream
from wavbench.upstream.errors import UserError

KINDS = {
    "transcribe": ("Transcribe", "Ctc"),
    "classify": ("Classify",),
    "verify": ("Verify",),
    "translate": ("Translate",),
}
NEURAL = 0.5  # weight of a transformer where none was tuned
SHOWN = 3  # classes beside the likeliest


def transcribe(config: schemas.Infer) -> int:
    """Text, or phones, with times."""
    from wavbench.downstream import use

    saved = _right(config, "transcribe")
    search = _search(config, saved) if config.lm else None
    stride = getattr(use.only_head(saved).model.one, "stride", 1)
    joined = saved.objective == "Transcribe"

    def one(states, upstream) -> dict:
        outputs, step = use.emissions(saved, states), stride / upstream.frame_rate
        symbols, last = use.only_head(saved).symbols, states.shape[1] / upstream.frame_rate
        if search:
            tokens = use.aligned(outputs, search(outputs), symbols, step)
        else:
            tokens = use.tokens_of(outputs, symbols, step)
        units = use.words_of(tokens) if joined else tokens
        text = " ".join(unit.symbol for unit in units)
        timed = [{"start": round(t.start, 3), "end": round(min(t.end, last), 3), "symbol": t.symbol} for t in units]
        return {"text": text, "words" if joined else "phones": timed}

    return _each(config, saved, one, lambda row: row["text"])


def classify(config: schemas.Infer) -> int:
    """The likeliest class, with its probability."""
    from wavbench.downstream import use

    saved = _right(config, "classify")

    def one(states, upstream) -> dict:
        shares = use.classify(saved, states)
        best = next(iter(shares))
        return {"label": best, "probability": round(shares[best], 4), "probabilities": _rounded(shares)}

    def words(row: dict) -> str:
        others = list(row["probabilities"].items())[1 : 1 + SHOWN]
        rest = ", ".join(f"{label} {100 * share:.0f} %" for label, share in others)
        return f"{row['label']}\t{100 * row['probability']:.0f} %\t({rest})"

    return _each(config, saved, one, words)


def translate(config: schemas.Infer) -> int:
    """What was said, in the language that the head writes."""
    from wavbench.downstream import use

    saved = _right(config, "translate")
    return _each(
        config,
        saved,
        lambda states, upstream: {"text": use.translate(saved, states, upstream.frame_rate)},
        lambda row: row["text"],
    )


def verify(config: schemas.Infer) -> int:
    """How alike the voices of two files are."""
    from wavbench.downstream import use

    saved = _right(config, "verify")
    if len(config.audio) != 2:
        raise UserError(
            f"two files are compared, and {len(config.audio)} were given", remedy="wavbench verify A.wav B.wav head=..."
        )
    upstream = _upstream(config, saved)
    voices = []
    for path in config.audio:
        row = _read(upstream, saved, path)
        if isinstance(row, str):
            raise UserError("not usable as speech", where=path, why=row, remedy="give two files of somebody speaking")
        voices.append(use.embed(saved, row))
    score = float(voices[0] @ voices[1])
    threshold = saved.about.get("threshold")  # where misses equalled false alarms on the test trials
    row: dict = {"a": config.audio[0], "b": config.audio[1], "score": round(score, 4)}
    if isinstance(threshold, int | float) and math.isfinite(threshold):
        row |= {"threshold": round(float(threshold), 4), "same": score >= threshold}
    if config.json:
        print(json.dumps(row, ensure_ascii=False))
    else:
        said = "" if "same" not in row else f"\t{'same speaker' if row['same'] else 'different speakers'}"
        print(f"{score:.4f}{said}" + (f" (threshold {threshold:.4f})" if said else ""))
    return 0


def _each(config: schemas.Infer, saved, one: Callable, words: Callable[[dict], str]) -> int:
    """Run over all files; those that cannot be used are said and do not stop the others."""
    if not config.audio:
        raise UserError("no audio was given", remedy="name one file or many before head=: A.wav B.wav head=...")
    upstream, failed = _upstream(config, saved), 0
    for path in config.audio:
        states = _read(upstream, saved, path)
        if isinstance(states, str):
            failed += 1
            print(f"not usable as speech: {path}: {states}", file=sys.stderr)
            if config.json:
                print(json.dumps({"audio": path, "error": states}, ensure_ascii=False), flush=True)
            continue
        row = one(states, upstream)
        if config.json:
            print(json.dumps({"audio": path, **row}, ensure_ascii=False), flush=True)
        else:
            print(f"{path}\t{words(row)}" if len(config.audio) > 1 else words(row), flush=True)
    return 2 if failed else 0


def _right(config: schemas.Infer, command: str):
    """The head, seen to be of the kind that a command takes."""
    from wavbench.downstream.saved import load_heads

    saved = load_heads(config.head)
    if config.lm and command != "transcribe":
        raise UserError(f"`wavbench {command}` has no use for a language model", remedy="leave lm= out")
    if not config.lm:
        refuse_idle(config, [item.name for item in fields(config) if item.name.startswith("lm_")], "lm=FILE.arpa")
    if not config.lm_neural:
        refuse_idle(config, ["lm_neural_weight"], "lm_neural=FOLDER")
    if saved.objective not in KINDS[command]:
        fitting = next((name for name, kinds in KINDS.items() if saved.objective in kinds), "")
        raise UserError(
            f"the head was trained for {saved.task}, which `wavbench {command}` does not do",
            where=saved.folder,
            remedy=f"wavbench {fitting} takes it" if fitting else "its scores are in the record",
        )
    return saved


def _upstream(config: schemas.Infer, saved):
    """The upstream that the head was trained on, as it was loaded then or from where it lies now."""
    from wavbench.downstream.saved import refuse_other_upstream

    known = saved.upstream
    name = config.upstream or str(known.get("name", ""))
    options = schemas.Extract(upstream=name, language=str(known.get("language") or ""))
    if not config.upstream:  # where it lies now it has neither a revision nor a seed, and its hash says whether it fits
        options.weights = str(known.get("weights") or "")
        options.seed = int(known.get("seed") or 0)
        options.revision = str(known.get("revision") or "")
    here = saved.folder / name
    beside = not config.upstream and name and not Path(name).is_absolute() and here.exists()
    upstream = load_upstream(
        str(here) if beside else name,
        options,
        device=config.device,
        precision=str(known.get("precision") or "fp32"),
        checkpoints=config.checkpoints,
    )
    refuse_other_upstream(saved, upstream.weights_hash, upstream.name, features_hash(upstream))
    return upstream


def _read(upstream, saved, path: str):
    """States of the layers that the head reads; the reason where the file cannot be used."""
    from wavbench.upstream import audio

    try:
        samples = audio.load_audio(path)
    except audio.AudioError as error:
        return str(error)
    if len(samples) < upstream.min_samples:
        return f"too short: {len(samples)} samples at 16 kHz give no frame"
    layers = [layer for layer in saved.layers if layer < upstream.num_states]
    if len(layers) < len(saved.layers):
        raise UserError(
            f"the head reads layer {saved.layers[-1]}, and {upstream.name} has {upstream.num_states} states",
            where=saved.folder,
        )
    parts: dict[int, list] = {layer: [] for layer in layers}
    for layer, start, states in upstream.recording(torch.from_numpy(samples), layers):
        parts[layer].append((start, states))
    return torch.stack([torch.cat([states for _, states in sorted(own, key=_start)]) for own in parts.values()])


def _start(part: tuple) -> int:
    return part[0]


def _rounded(shares: dict[str, float]) -> dict[str, float]:
    return {name: round(share, 4) for name, share in shares.items()}


def _search(config: schemas.Infer, saved) -> Callable[..., tuple[int, ...]]:
    """From emissions to the symbols that a language model and the sound agree on.

    Weights are those that were tuned on dev where the head was trained with lm=, unless others are given.
    """
    from wavbench.downstream import use
    from wavbench.downstream.language.decoding import decode_with_lm, load_lm
    from wavbench.downstream.language.search import BLANK, BOUNDARIES, Search
    from wavbench.downstream.language.with_lm import Model, search_with

    if config.lm == "train" and not Path(config.lm).exists():
        raise UserError(
            "the model of the train transcripts is not kept with a head",
            where="lm=train",
            remedy="`wavbench lm manifest=FILE out=train.arpa` makes it again; then lm=train.arpa",
        )
    found = load_lm(config.lm)
    if not hasattr(found, "tokens"):
        raise UserError("a transformer alone cannot search", where=config.lm, remedy="lm=FILE.arpa, of `wavbench lm`")
    tuned = saved.about.get("lm")
    tuned = tuned if isinstance(tuned, dict) else {}
    joined = saved.objective == "Transcribe"
    unit = config.lm_unit or str(tuned.get("unit") or "word")
    if joined and unit == "word" and any(sign in found.tokens for sign in BOUNDARIES):
        sign = next(sign for sign in BOUNDARIES if sign in found.tokens)
        raise UserError(
            "the language model is one of characters",
            where=config.lm,
            why=f"{sign!r} is among its tokens, which stands for a blank",
            remedy="lm_unit=character",
        )
    symbols = use.only_head(saved).symbols
    if joined:
        search = search_with(Model(ngrams=config.lm, unit=unit, closed=tuned.get("closed") is True), found, symbols)
    else:
        search = Search(symbols=(BLANK, *symbols), model=found, unit="symbol", together=False)
    weights = _weights(config, tuned, saved.folder)
    neural, rescoring = None, None
    if config.lm_neural:
        neural = _neural(config, joined)
        rescoring = _weights(config, tuned, saved.folder, rescoring=True)

    def classes(outputs) -> tuple[int, ...]:
        (hypotheses,) = decode_with_lm([outputs], search, weights, neural=neural, rescoring=rescoring)
        return hypotheses[0].classes if hypotheses else ()

    return classes


def _neural(config: schemas.Infer, joined: bool):
    """The transformer that puts the best hypotheses in another order."""
    from wavbench.downstream.language.causal_lm import CausalLm
    from wavbench.downstream.language.decoding import load_lm

    if not joined:
        raise UserError("a transformer reads words, and the head writes phones", remedy="leave lm_neural= out")
    found = load_lm(config.lm_neural)
    if not isinstance(found, CausalLm):
        raise UserError(
            "lm_neural= takes a folder of a transformer", where=config.lm_neural, remedy="lm=FILE for n-grams"
        )
    return found


def _weights(config: schemas.Infer, tuned: dict, folder: Path, rescoring: bool = False):
    """What was given, else what was tuned, else what is the default: of the search, or of the order behind it."""
    from wavbench.downstream.language.search import Weights

    both = "search_weights" in tuned  # the head was trained with a transformer, too
    names = ("lm", "length", "unknown", "neural") if rescoring and both else ("lm", "length", "unknown")
    try:
        kept = tuned.get("weights" if rescoring or not both else "search_weights") or {}
        weights = {"neural": NEURAL} if rescoring else {}
        weights |= {name: float(kept[name]) for name in names if name in kept}
    except (TypeError, ValueError):
        raise UserError(
            "the saved head has weights of a language model that are no numbers",
            where=folder / "head.json",
            remedy="train it again: `wavbench run task=asr lm=train save=FOLDER`",
        ) from None
    given = {"lm": config.lm_weight, "length": config.lm_length}
    given |= {"neural": config.lm_neural_weight} if rescoring else {}
    weights |= {name: value for name, value in given.items() if value is not None}
    if wrong := next((name for name, value in weights.items() if not math.isfinite(value)), ""):
        raise UserError(f"the weight {wrong!r} of the language model is no number", remedy="lm_weight=0.5 lm_length=1")
    return Weights(**weights)
