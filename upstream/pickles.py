"""Pickles of torch, read without running anything in them.

`torch.load(weights_only=True)` builds tensors and plain values. The settings that fairseq keeps beside its weights are
objects of argparse, omegaconf and fairseq itself: each of those names is given a stand-in that keeps what it is
handed and does nothing, and the stand-ins are then opened to plain values. Any other name is refused, and there is
no second try that would call it.
"""

import _compat_pickle
import contextlib
import pickle
import pickletools
import re
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from wavbench.upstream.errors import UserError

# Whatever lies in these is replaced, never imported.
INERT_MODULES = ("argparse", "examples", "fairseq", "hydra", "numpy", "omegaconf", "pathlib", "typing")
INERT_NAMES = ("_operator.getitem", "operator.getitem")  # how a type such as List[int] is pickled
INERT_TYPES = ("bool", "bytes", "dict", "float", "frozenset", "int", "list", "object", "str", "tuple", "type")


class StandIn:
    """Keeps what a pickle hands to some class or function, and does nothing with it."""

    __slots__ = ("arguments", "state")

    def __new__(cls, *arguments: object) -> "StandIn":
        self = super().__new__(cls)
        self.arguments, self.state = arguments, {}
        return self

    def __init__(self, *arguments: object) -> None:
        pass  # `__new__` has kept them, which is all that a pickle may call

    def __setstate__(self, state: object) -> None:
        parts = state if isinstance(state, tuple) else (state,)  # with __slots__ a class pickles two dicts
        for part in parts:
            if isinstance(part, dict):
                self.state |= part


def _plain_dict(*_: object) -> dict:
    """In the place of `collections.defaultdict`: items may be set on a true dict only."""
    return {}


def read_pickle(path: Path) -> object:
    """The content of a file that `torch.save` wrote: tensors in dicts, lists and plain values.

    Raises:
        UserError: the file is damaged, or asks for anything but tensors and settings.
    """
    try:
        wanted = {name: stand_in for name in _globals_of(path) if (stand_in := _stand_in(name)) is not None}
        with (
            torch.serialization.safe_globals([(stand_in, name) for name, stand_in in wanted.items()]),
            warnings.catch_warnings(action="ignore"),  # about the protocol and the storages of damaged files
        ):
            content = torch.load(path, map_location="cpu", weights_only=True)
        return _opened(content, {})
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        # torch's own words advise to load it without the check, so only what it stumbled over is passed on
        stopped = re.search(r"WeightsUnpickler error:\s*([^\n]+)", str(error))
        raise UserError(
            f"{path.name} is damaged, or holds more than tensors and settings",
            where=path,
            why=f"it asks for {refused[1]}, which could run code"
            if refused
            else f"the loader of tensors stopped at: {stopped[1] if stopped else type(error).__name__}",
            remedy="nothing in it was run: take the checkpoint from its makers, or convert it to model.safetensors",
        ) from None
    except Exception as error:  # on damaged bytes torch's loader raises whatever comes first
        raise UserError(
            f"{path.name} is damaged", where=path, why=_first_sentence(error), remedy="fetch it again"
        ) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A pickle that is one table of tensors, such as `pytorch_model.bin`.

    Raises:
        UserError: it is damaged, or anything else.
    """
    state = read_pickle(path)
    if not is_table_of_tensors(state):
        raise UserError(f"{path.name} is no table of tensors", where=path, remedy="convert it to model.safetensors")
    return state


def is_table_of_tensors(content: object) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )


def _globals_of(path: Path) -> set[str]:
    """The names of all classes and functions that the file's pickles ask for; nothing is looked up or called."""
    names: set[str] = set()
    with contextlib.suppress(Exception):  # damage of any kind: torch's loader says what it is
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    if member.endswith("data.pkl"):
                        with archive.open(member) as file:
                            _note_globals(file, names)
        else:
            with open(path, "rb") as file:
                for _ in range(5):  # magic number, protocol, system, the object, keys of its storages
                    _note_globals(file, names)
    return names


def _note_globals(file, names: set[str]) -> None:
    strings: list[str] = []
    for operation, argument, _ in pickletools.genops(file):
        if operation.name in ("GLOBAL", "INST"):
            module, name = argument.split(" ", 1)
            module, name = _compat_pickle.NAME_MAPPING.get(
                (module, name), (_compat_pickle.IMPORT_MAPPING.get(module, module), name)
            )
            names.add(f"{module}.{name}")
        elif operation.name == "STACK_GLOBAL":
            names.add(".".join(strings[-2:]))
        elif isinstance(argument, str):
            strings.append(argument)


def _stand_in(name: str) -> object | None:
    """What a name is replaced by; None where torch's own list decides."""
    module, _, rest = name.partition(".")
    if name == "collections.defaultdict":
        return _plain_dict
    inert = module in INERT_MODULES or name in INERT_NAMES or (module == "builtins" and rest in INERT_TYPES)
    return StandIn if inert else None


def _opened(value: object, known: dict[int, object]) -> object:
    """The value with every stand-in in it replaced by what it holds: a dict, a list, or a plain value."""
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, dict):
        result: object = known.setdefault(id(value), {})
        result |= {_key(key): _opened(part, known) for key, part in value.items()}
    elif isinstance(value, list | tuple):
        result = known.setdefault(id(value), [])
        result += [_opened(part, known) for part in value]
    elif isinstance(value, StandIn):
        known[id(value)] = None  # an object that holds itself
        if "_content" in value.state:  # a container of omegaconf
            result = _opened(value.state["_content"], known)
        elif "_val" in value.state:  # a node of omegaconf
            result = _opened(value.state["_val"], known)
        elif value.state:  # a namespace
            result = {key: _opened(part, known) for key, part in value.state.items()}
        else:  # an enumeration's member, a path
            result = _opened(value.arguments[0], known) if len(value.arguments) == 1 else None
        known[id(value)] = result
    else:
        result = None if value is StandIn else value
    return result


def _key(key: object) -> object:
    return key.arguments[0] if isinstance(key, StandIn) and key.arguments else key


def _first_sentence(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__
