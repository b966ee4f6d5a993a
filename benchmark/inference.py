"""`wavbench transcribe | classify | verify | translate`: a trained head on audio files."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from wavbench.benchmark import schemas
from wavbench.benchmark.loading import load_upstream
from wavbench.upstream.errors import UserError

KINDS = {
    "transcribe": ("Transcribe", "Ctc"),
    "classify": ("Classify",),
    "verify": ("Verify",),
    "translate": ("Translate",),
}
SHOWN = 3  # classes beside the likeliest


def transcribe(config: schemas.Infer) -> int:
    """Text, or phones, with times."""
    from wavbench.downstream import use
    from wavbench.downstream.saved import load_heads

    saved = _right(load_heads(config.head), "transcribe")
    search = _search(config, use.only_head(saved).symbols) if config.lm else None
    stride = getattr(use.only_head(saved).model.one, "stride", 1)
    joined = saved.objective == "Transcribe"

    def one(states, upstream) -> dict:
        outputs, step = use.emissions(saved, states), stride / upstream.frame_rate
        tokens = use.tokens_of(outputs, use.only_head(saved).symbols, step)
        if search:
            return {"text": search(outputs)}
        units = use.words_of(tokens) if joined else tokens
        text = " ".join(unit.symbol for unit in units)
        timed = [{"start": round(t.start, 3), "end": round(t.end, 3), "symbol": t.symbol} for t in units]
        return {"text": text, "words" if joined else "phones": timed}

    return _each(config, saved, one, lambda row: row["text"])


def classify(config: schemas.Infer) -> int:
    """The likeliest class, with its probability."""
    from wavbench.downstream import use
    from wavbench.downstream.saved import load_heads

    saved = _right(load_heads(config.head), "classify")

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
    from wavbench.downstream.saved import load_heads

    saved = _right(load_heads(config.head), "translate")
    return _each(
        config,
        saved,
        lambda states, upstream: {"text": use.translate(saved, states, upstream.frame_rate)},
        lambda row: row["text"],
    )


def verify(config: schemas.Infer) -> int:
    """How alike the voices of two files are."""
    from wavbench.downstream import use
    from wavbench.downstream.saved import load_heads

    saved = _right(load_heads(config.head), "verify")
    if len(config.audio) != 2:
        raise UserError(
            f"two files are compared, and {len(config.audio)} were given", remedy="wavbench verify A.wav B.wav head=..."
        )
    upstream = _upstream(config, saved)
    voices = []
    for path in config.audio:
        row = _read(upstream, saved, path)
        if isinstance(row, str):
            raise UserError("not usable as speech", where=path, why=row)
        voices.append(use.embed(saved, row))
    score = float(voices[0] @ voices[1])
    threshold = saved.about.get("threshold")  # where misses equalled false alarms on the test trials
    row: dict = {"a": config.audio[0], "b": config.audio[1], "score": round(score, 4)}
    if isinstance(threshold, int | float):
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
        raise UserError("no audio was given", remedy="name one file or many: wavbench transcribe A.wav B.wav head=...")
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


def _right(saved, command: str):
    """A head of the kind that a command takes."""
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
    options = schemas.Extract(
        upstream=name,
        weights=str(known.get("weights") or ""),
        seed=int(known.get("seed") or 0),
        revision=str(known.get("revision") or ""),
        language=str(known.get("language") or ""),
    )
    here = saved.folder / name
    beside = not config.upstream and name and not Path(name).is_absolute() and here.exists()
    upstream = load_upstream(
        str(here) if beside else name,
        options,
        device=config.device,
        precision=str(known.get("precision") or "fp32"),
        checkpoints=config.checkpoints,
    )
    refuse_other_upstream(saved, upstream.weights_hash, upstream.name)
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


def _search(config: schemas.Infer, symbols: Sequence[str]) -> Callable:
    """From emissions to the text that a language model and the sound agree on."""
    from wavbench.downstream.language_models import decode_with_lm, load_lm
    from wavbench.downstream.search import Weights
    from wavbench.downstream.with_lm import Model, search_with

    found = load_lm(config.lm)
    if not hasattr(found, "tokens"):
        raise UserError("a transformer alone cannot search", where=config.lm, remedy="lm=FILE.arpa, of `wavbench lm`")
    search = search_with(Model(ngrams=config.lm, unit=config.lm_unit), found, symbols)
    weights = Weights(lm=config.lm_weight, length=config.lm_length)

    def text(outputs) -> str:
        ((best,),) = decode_with_lm([outputs], search, weights)
        return " ".join(best.words)

    return text
