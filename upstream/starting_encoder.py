"""What a training begins with: the dropouts of its encoder, and weights that were trained before."""

import dataclasses
from collections.abc import Collection

from torch import nn

from wavbench.upstream import catalog
from wavbench.upstream.errors import UserError


def regularised(stem: str, preset, regularisation: dict[str, float]):
    """The config of a preset with dropouts.

    Raises:
        UserError: one is no share, or the family has none, as those of convolutions alone.
    """
    known = {field.name for field in dataclasses.fields(preset)}
    for name, value in regularisation.items():
        if not 0 <= value < 1:
            raise UserError(f"{name}={value:g} is not possible", remedy="a share from 0 to below 1")
    idle = [name for name, value in regularisation.items() if value and name not in known]
    if idle:
        raise UserError(
            f"{idle[0]}={regularisation[idle[0]]:g} would change nothing",
            why=f"{stem} has no {idle[0]}",
            remedy=f"leave it out, or {idle[0]}=0 where a recipe sets it",
        )
    return dataclasses.replace(preset, **{name: value for name, value in regularisation.items() if name in known})


def begin_with(encoder: nn.Module, init: catalog.Upstream, free: Collection[str]) -> None:
    """Give an encoder trained weights.

    Two models may have the same weights and yet be different functions of them (by their number of heads, or their
    activation), so that their configs are compared too.

    Args:
        encoder: to be trained.
        init: trained, of whatever family.
        free: fields of the config in which they may differ.

    Raises:
        UserError: they are not of the same shape.
    """
    theirs, differ = getattr(init.model, "config", None), []
    if dataclasses.is_dataclass(theirs):
        names = [field.name for field in dataclasses.fields(encoder.config) if field.name not in free]
        pairs = {
            name: (getattr(theirs, name), getattr(encoder.config, name)) for name in names if hasattr(theirs, name)
        }
        differ = [f"{name} is {there} there, and {here} here" for name, (there, here) in pairs.items() if there != here]
    try:
        if differ:
            raise RuntimeError("; ".join(differ))
        encoder.load_state_dict(init.model.state_dict())
    except RuntimeError as error:
        raise UserError(
            "the training cannot begin with these weights",
            where=init.name,
            why=str(error).splitlines()[-1].strip(),
            remedy="give a checkpoint of the same preset",
        ) from None
