"""Adapters of one language in a multilingual model (MMS): small layers in every block, one file per language.

Source: Pratap et al. 2023, Scaling Speech Technology to 1,000+ Languages, section 4.1.
"""

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from wavbench.upstream import checkpoints
from wavbench.upstream.errors import UserError, closest

CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # ISO 639-3, and a script where there are several
PREFIX = "wav2vec2."  # adapter files come from models with a CTC layer


def file_name(code: str) -> str:
    """Where the adapters of a language lie in a Hugging Face folder.

    Raises:
        UserError: the code could lead out of the folder.
    """
    if not CODE.fullmatch(code):
        raise UserError(
            f"language={code!r} is no language code",
            remedy="three letters as in eng, with a script where there are several: azj-script_latin",
        )
    return f"adapter.{code}.safetensors"


def codes(folder: Path) -> list[str]:
    """The languages whose adapters lie in a folder."""
    return sorted(path.name.split(".")[1] for path in folder.glob("adapter.*.safetensors"))


def set_language(model: nn.Module, sources: dict[str, tuple[str, ...]], folder: Path, code: str) -> None:
    """Put the adapters of a language into a model, all or none.

    Args:
        model: a native one with adapters.
        sources: the names of transformers for every weight of `model`.
        folder: holds `adapter.<code>.safetensors`.
        code: of the language.

    Raises:
        UserError: the folder has no such language, or its file is damaged or of another model.
    """
    path = folder / file_name(code)
    if not path.is_file():
        raise unknown_language(code, codes(folder), folder)
    wanted = {ours: theirs for ours, theirs in sources.items() if all(".adapter_layer." in part for part in theirs)}
    found = checkpoints.read_safetensors(path)
    state = {name.removeprefix(PREFIX): tensor for name, tensor in found.items() if not name.startswith("lm_head.")}
    adapters: dict[str, Tensor] = checkpoints.joined(wanted, state, path)
    checkpoints.refuse_not_finite(adapters, path)
    ours = dict(model.named_parameters())
    checkpoints.refuse_misfits(
        path,
        misshapen=[
            f"{name} {tuple(tensor.shape)}, not {tuple(ours[name].shape)}"
            for name, tensor in adapters.items()
            if tensor.shape != ours[name].shape
        ],
    )
    with torch.no_grad():
        for name, tensor in adapters.items():
            ours[name].copy_(tensor)


def unknown_language(code: str, known: list[str], where: object) -> UserError:
    """What is said of a language that has no adapters."""
    shown = closest(code, known) if len(known) <= 40 else near_codes(code, known)
    return UserError(
        f"there are no adapters for language {code!r}",
        where=where,
        why=f"adapters of {len(known)} languages are there",
        remedy=shown if known else "a folder with adapter.<code>.safetensors, such as that of facebook/mms-1b-all",
    )


def near_codes(code: str, known: list[str]) -> str:
    """The closest of many codes, and the first of the rest: a screen does not hold a thousand."""
    import difflib

    near = difflib.get_close_matches(code, known, n=5, cutoff=0.3)
    said = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{said}({len(known)} are known: {', '.join(known[:40])}, ...)"
