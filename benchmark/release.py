"""A finished training run to what is passed on: an fp16 checkpoint, its model card and its curves."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from wavbench.benchmark.figures import COLOURS
from wavbench.benchmark.record import write_text
from wavbench.upstream.errors import UserError
from wavbench.upstream.kept import HEARD

# of data2vec's targets and what is made of them: none of the two may fall to nothing
DEVIATIONS = {"target_deviation": "deviation of targets", "prediction_deviation": "deviation of predictions"}


def release(run: Path, name: str, out: Path, *, licence: str, notes: str = "", heard: Sequence[str] = ()) -> Path:
    """Write `<name>.safetensors`, `<name>.md` and `<name>.png` into a folder.

    Args:
        run: folder of `wavbench pretrain`.
        name: of the preset that the checkpoint is for.
        out: folder; `upstream/weights` makes the preset find its weights.
        licence: of the weights, and of the data they come from.
        notes: a paragraph for the card.
        heard: corpora whose audio is in the training data under other names: boards mark the weights there.

    Raises:
        UserError: the folder holds no run, or its model is not the preset's.
    """
    from wavbench.upstream import catalog
    from wavbench.upstream.checkpoints import read_checkpoint
    from wavbench.upstream.kept import heard_of

    stem, config, _ = read_checkpoint(run / "checkpoint.safetensors", with_weights=False)
    wanted = catalog.find_preset(name)
    if wanted != (stem, config):
        raise UserError(
            f"the run did not train {name}",
            where=run,
            why=_differences(wanted, stem, config),
            remedy=f"a preset of {stem} with the run's config",
        )
    if absent := [file for file in ("run.json", "train.csv") if not (run / file).is_file()]:
        raise UserError(f"the run has no {' and no '.join(absent)}", where=run, remedy="the folder of a training")
    try:
        about = json.loads((run / "run.json").read_text())
        about["hyperparameters"], about["data"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            "the settings of the run cannot be read",
            where=run / "run.json",
            why=f"{type(error).__name__}: {error}",
            remedy="give the command of the training again: it writes them anew, also where nothing is left to train",
        ) from None
    tables = {
        kind: pd.read_csv(run / f"{kind}.csv") for kind in ("train", "dev", "probe") if (run / f"{kind}.csv").is_file()
    }
    path = out / f"{name}.safetensors"
    parameters = halve(run / "checkpoint.safetensors", path, heard)
    _curves(tables, out / f"{name}.png")
    known = sorted({*heard_of(run / "checkpoint.safetensors"), *heard})  # not what an older card at the place says
    write_text(out / f"{name}.md", _card(name, about, tables, parameters, licence, notes, known))
    return path


def halve(checkpoint: Path, path: Path, heard: Sequence[str] = ()) -> int:
    """Write a checkpoint of `wavbench pretrain` in half precision, but for what must not be rounded, and count weights.

    Args:
        checkpoint: as the training left it.
        path: ends in `.safetensors`; replaced if it exists.
        heard: corpora that the weights have heard, beside those that the checkpoint names.
    """
    from wavbench.upstream import catalog
    from wavbench.upstream.checkpoints import read_checkpoint, write_checkpoint
    from wavbench.upstream.kept import heard_of, plain, trained_of

    stem, config, state = read_checkpoint(checkpoint)
    exact = getattr(catalog.family(stem), "EXACT", ())  # prefixes of weights
    kept = {key: value if key.startswith(exact) else value.half() for key, value in state.items()}
    trained = trained_of(checkpoint)
    known = (*heard_of(checkpoint), *heard)
    write_checkpoint(path, stem, config, kept, trained=plain(trained) if trained else None, heard=known)
    return sum(value.numel() for value in state.values())


def _differences(wanted: tuple[str, object] | None, stem: str, config: object) -> str:
    """What a run's model has otherwise than a preset."""
    if wanted is None or wanted[0] != stem:
        return f"it trained a model of {stem}"
    own, preset = vars(config), vars(wanted[1])
    return ", ".join(f"{key}={own[key]}, and the preset has {preset[key]}" for key in own if own[key] != preset[key])


def _card(
    name: str,
    about: dict,
    tables: dict[str, pd.DataFrame],
    parameters: int,
    licence: str,
    notes: str,
    heard: Sequence[str],
) -> str:
    settings, last = about["hyperparameters"], tables["train"].iloc[-1]
    data = [
        f"| {row['corpus']} | {row['language'] or '-'} | {row['utterances']} | {row['hours']:.2f} |"
        for row in about["data"]
    ]
    dev = tables["dev"].iloc[-1] if "dev" in tables else {}
    column, title = _score(tables["train"])
    lines = [
        f"# {name}", "",
        f"{parameters / 1e6:.1f} M parameters, objective `{settings['objective']}`, half precision.", "",
        *([notes, ""] if notes else []),
        f"- steps: {int(last['step'])}",
        f"- audio seen: {last['audio_hours']:.1f} h",
        f"- last train loss: {last['loss']:.3f}, {title} {last[column]:.3f}",
        *([f"- dev loss: {dev['loss']:.3f}, {title} {dev[column]:.3f}"] if len(dev) else []),
        *([f"- codebook perplexity: {last['code_perplexity']:.0f}"] if "code_perplexity" in last else []),
        *[f"- {title} at the end: {last[name]:.3f}" for name, title in DEVIATIONS.items() if name in last],
        *([f"{HEARD}{', '.join(heard)}"] if heard else []),
        f"- licence: {licence}", "",
        "## Data", "", "| corpus | language | utterances | hours |", "|---|---|---|---|", *data, "",
        "## Curves", "", f"![loss, {title} and phones probe]({name}.png)", "",
        *_probe_lines(tables), "## Settings", "", "```json", json.dumps(settings, indent=1), "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _score(train: pd.DataFrame) -> tuple[str, str]:
    """Column and name of what says more than the loss."""
    if "explained_variance" in train:
        return "explained_variance", "explained variance at hidden frames"
    return "accuracy", "accuracy of predictions" if "predictions_per_frame" in train else "accuracy at hidden frames"


def _probe_lines(tables: dict[str, pd.DataFrame]) -> list[str]:
    if "probe" not in tables:
        return []
    table = tables["probe"][["step", "audio_hours", "phones_best", "phones_best_layer"]]
    rows = [
        f"| {step} | {hours:.1f} | {best:.1f} | {layer} |" for step, hours, best, layer in table.itertuples(index=False)
    ]
    head = ["Frame accuracy of the phones probe while it was trained (a part of the corpus, few updates):", ""]
    return [*head, "| step | audio hours | best layer's accuracy, % | layer |", "|---|---|---|---|", *rows, ""]


def _curves(tables: dict[str, pd.DataFrame], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    wanted = [("loss", "loss", ("train", "dev")), (*_score(tables["train"]), ("train", "dev"))]
    if "code_perplexity" in tables["train"]:
        wanted.append(("code_perplexity", "codebook perplexity", ("train",)))
    wanted += [(name, title, ("train",)) for name, title in DEVIATIONS.items() if name in tables["train"]]
    if "probe" in tables:
        wanted.append(("phones_best", "phones probe, %", ("probe",)))
    dots = {"train": "", "dev": ".", "probe": "o"}  # of a single point a line shows nothing
    figure, axes = plt.subplots(1, len(wanted), figsize=(3.2 * len(wanted), 2.4), squeeze=False)
    for axis, (column, title, kinds) in zip(axes[0], wanted, strict=True):
        for kind, colour in zip(kinds, COLOURS, strict=False):
            if kind in tables:
                table = tables[kind]
                axis.plot(
                    table["audio_hours"], table[column], color=colour, label=kind, linewidth=1.2, marker=dots[kind]
                )
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("hours of audio seen", fontsize=8)
        axis.tick_params(labelsize=7)
        if len(kinds) > 1:
            axis.legend(frameon=False, fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)
