"""Official checkpoints by name: `configs/upstream/NAME.yaml` says where one is and what was made of what."""

import os
from dataclasses import dataclass, fields
from pathlib import Path

from wavbench.benchmark.config import CONFIGS, read_yaml
from wavbench.upstream.errors import UserError

FOLDER = CONFIGS / "upstream"


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A released checkpoint.

    Args:
        title: as its authors call it.
        id: on the Hub.
        revision: commit of the id that was looked at; "main" where none is pinned.
        url: of a file, where there is no id.
        preset: of its shape here; "" where transformers builds it.
        model_type: of transformers, where there is no preset.
        licence: of the weights, one line.
        pretraining: corpora whose audio it was pretrained on: names of readers where there is one, or "undisclosed".
        hours: of that audio.
        normalisation: of waveforms, as its authors trained it.
        parameters: of the encoder, without what only pretraining needs.
        source: authors and year.
    """

    title: str
    licence: str
    pretraining: tuple[str, ...]
    hours: int
    normalisation: str
    parameters: int
    source: str
    id: str = ""
    revision: str = "main"
    url: str = ""
    preset: str = ""
    model_type: str = ""

    @property
    def file(self) -> str:
        """Name of the file behind the url."""
        return self.url.rpartition("/")[2]


def baseline_names() -> list[str]:
    """The files of configs/upstream."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find_baseline(name: str) -> Baseline | None:
    """The checkpoint of this name, None where there is none.

    Raises:
        UserError: its file has an unknown key, or lacks one.
    """
    if name not in baseline_names():
        return None
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(read_yaml(name, "upstream"))
    known = {item.name for item in fields(Baseline)}
    try:
        values["pretraining"] = tuple(values["pretraining"])
        return Baseline(**values)
    except (TypeError, KeyError) as error:
        raise UserError(
            "a checkpoint's description has unknown or missing keys", where=FOLDER / f"{name}.yaml", why=str(error),
            remedy=f"known keys: {', '.join(sorted(known))}",
        ) from None  # fmt: skip


def place_of(name: str, baseline: Baseline, checkpoints: str) -> tuple[str, str | None]:
    """What to load a checkpoint from: a folder of the person's, a file that is downloaded once, or the Hub.

    Args:
        checkpoints: folder that holds NAME, the id's last part, or the file; "" to use the Hub.

    Returns:
        A name for `catalog.load` and the revision.

    Raises:
        UserError: the folder has none of them, or the download fails.
    """
    if checkpoints:
        wanted = [name, *filter(None, [baseline.id, baseline.id.rpartition("/")[2], baseline.file])]
        found = next((path for each in wanted if (path := Path(checkpoints) / each).exists()), None)
        if found is None:
            raise UserError(
                f"the checkpoint of {name} is not there", where=f"checkpoints={checkpoints}",
                why=f"it has none of {', '.join(wanted)}",
                remedy=f"put {baseline.id or baseline.url} there, or leave checkpoints= out to download it",
            )  # fmt: skip
        return str(found.resolve()), None
    if baseline.id:
        return baseline.id, baseline.revision
    return str(_downloaded(baseline)), None


def _downloaded(baseline: Baseline) -> Path:
    from wavbench.benchmark.display import Display
    from wavbench.upstream.corpus import Archive
    from wavbench.upstream.fetch import Listener, fetch

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wavbench" / "checkpoints"
    path = cache / baseline.file
    if not path.is_file():
        with Display() as display:
            part = Archive(part=baseline.file, url=baseline.url)
            fetch([part], cache, Listener(display.say, display.progress))
    return path
