"""How `key=value` arguments become the typed schema of a command (schemas.py).

A name that does not exist, or a value of the wrong type, fails here with the names that do exist. Values are plain
data: nothing in them is interpolated, imported or called.
"""

import difflib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from wavbench.upstream.errors import UserError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def compose(schema: type, arguments: list[str], positional: tuple[str, ...] = (), recipe: dict | None = None) -> Any:
    """A filled-in schema from `key=value` words; words without `=` fill `positional` fields in order, a list with all.

    Args:
        recipe: values that stand in for what the words leave out.

    Raises:
        UserError: an unknown key, a wrong type, a missing value; names what there is.
    """
    from omegaconf import OmegaConf

    words = _keyed(arguments, positional, schema)
    base = _base(schema, words.get("experiment", ""))
    if recipe:
        base = _merge(base, recipe, words.get("preset", "the recipe"))
    for key, value in words.items():
        base = _merge(base, _nested(schema, key, value), f"{key}={value}")
    missing = sorted(str(key) for key in OmegaConf.missing_keys(base))
    if missing:
        raise UserError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing",
            why=(schema.__doc__ or "").strip().partition("\n")[0],
            remedy=f"give {' '.join(f'{key}=...' for key in missing)}; known keys: {', '.join(known_keys(schema))}",
        )
    return OmegaConf.to_object(base)


def known_keys(schema: type) -> list[str]:
    return [item.name for item in fields(schema)]


def refuse_idle(given: Any, names: Sequence[str], owner: str) -> None:
    """Raise a UserError for an option that nothing would look at: what it was given for would not come of it.

    Args:
        given: a filled-in schema.
        names: options that have no effect as things are.
        owner: what they go with.
    """
    for item in fields(given):
        value = getattr(given, item.name)
        if item.name in names and value != item.default:
            raise UserError(
                f"{item.name}={value} would change nothing", remedy=f"it goes with {owner}; else leave it out"
            )


def _base(schema: type, experiment: str) -> Any:
    """The schema, typed, with an experiment of configs/experiment (or of a file) laid over it."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    ConfigStore.instance().store(name="schema", node=schema)
    is_file = experiment.endswith((".yaml", ".yml"))
    loaded = read_yaml(experiment, "experiment") if experiment else None  # names what there is, refuses what is no data
    overrides = [f"+experiment={experiment}"] if experiment and not is_file else []
    try:
        with initialize_config_module("wavbench.configs", version_base="1.3"):
            base = hydra_compose("schema", overrides)
    except (HydraException, OmegaConfBaseException) as error:
        cause = str(error.__cause__ or error).strip()
        raise UserError(
            "the experiment does not fit the schema of `wavbench sweep`",
            where=experiment,
            why=cause.splitlines()[0][:300] if cause else "",
            remedy=f"known keys: {', '.join(known_keys(schema))}",
        ) from None
    return _merge(base, loaded, experiment) if is_file else base


def read_yaml(name: str, group: str) -> Any:
    """A YAML file of a configuration group, or by path, as plain data.

    Raises:
        UserError: there is none, or it is no mapping.
    """
    from omegaconf import OmegaConf

    folder = CONFIGS / group
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.yaml"))
        raise UserError(
            f"there is no {group} {name!r}", where=path, remedy=f"one of: {', '.join(known)}; or a path to a .yaml file"
        )
    try:
        loaded = OmegaConf.load(path)
        if not OmegaConf.is_dict(loaded):
            raise ValueError("it is no mapping of keys to values")
        _refuse_interpolation(OmegaConf.to_container(loaded, resolve=False), path)
    except UserError:
        raise
    except Exception as error:  # OmegaConf and PyYAML raise many kinds
        raise UserError(f"the {group} cannot be read", where=path, why=str(error)[:300]) from None
    return loaded


def _keyed(arguments: list[str], positional: tuple[str, ...], schema: type) -> dict[str, str | list[str]]:
    words, places = {}, list(positional)
    lists = {item.name for item in fields(schema) if item.type == list[str]}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        # files: a name may hold anything, an equals sign too
        if places and places[0] in lists and (not equals or key not in known_keys(schema)):
            _refuse_interpolation(argument, argument)
            words.setdefault(places[0], []).append(argument)
            continue
        if not equals:
            if not places:
                raise UserError(
                    f"{argument!r} is not of the form key=value", remedy=f"known keys: {', '.join(known_keys(schema))}"
                )
            key, value = places.pop(0), argument
        elif key not in known_keys(schema):
            near = difflib.get_close_matches(key, known_keys(schema), n=1)
            raise UserError(
                f"there is no key {key!r}",
                where=argument,
                remedy=f"{f'did you mean {near[0]}? ' if near else ''}known keys: {', '.join(known_keys(schema))}",
            )
        if key in words:
            raise UserError(f"{key} is given twice", where=argument)
        _refuse_interpolation(value, argument)
        words[key] = value
    return words


def _nested(schema: type, key: str, value: str | list[str]) -> dict:
    """A command-line value; lists are written 1,2,3."""
    if isinstance(value, list):
        return {key: value}
    kind = next(item.type for item in fields(schema) if item.name == key)
    if kind in (list[int], list[str]):
        return {key: [part for part in value.strip("[]").split(",") if part]}
    if str(kind).startswith("list"):
        raise UserError(f"{key} cannot be given on the command line", remedy="write it into an experiment's YAML")
    return {key: value}


def _merge(base: Any, values: Any, where: str) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.merge(base, values)
    except OmegaConfBaseException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(
            "a configuration value does not fit",
            where=where,
            why=lines[0] if lines else "",
            remedy=f"known keys: {', '.join(str(key) for key in base)}",
        ) from None


def _refuse_interpolation(value: object, where: object) -> None:
    """Configuration is data: `${...}` would read the environment or other files."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in values:
        _refuse_interpolation(part, where)
    if isinstance(value, str) and "${" in value:
        raise UserError("interpolation is not allowed in configuration", where=where, remedy="write the value itself")
