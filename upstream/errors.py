"""The one exception whose text is meant for the person at the keyboard."""


class UserError(Exception):
    """Bad input: what happened, where, why, and the way out. Commands print it and exit with code 2.

    Args:
        what: one sentence naming the thing that is wrong.
        where: file, row or argument that it was found in.
        why: the reason, when `what` does not say it.
        remedy: what to do about it.
    """

    def __init__(self, what: str, *, where: object = "", why: str = "", remedy: str = "") -> None:
        self.what, self.where, self.why, self.remedy = what, str(where), why, remedy
        super().__init__(self.screen())

    def __reduce__(self):
        return _rebuild, (type(self), self.what, self.where, self.why, self.remedy)

    def screen(self) -> str:
        """The error as the lines that a terminal shows."""
        lines = [f"error: {self.what}"]
        lines += [f"  {name}: {text}" for name, text in (("where", self.where), ("why", self.why)) if text]
        if self.remedy:
            lines.append(f"  way out: {self.remedy}")
        return "\n".join(lines)


def _rebuild(kind: type, what: str, where: str, why: str, remedy: str) -> UserError:
    """Unpickle in a parent process what a worker raised."""
    return kind(what, where=where, why=why, remedy=remedy)


def closest(name: str, known: list[str]) -> str:
    """A remedy sentence for a misspelt name: the nearest known ones, or all of them."""
    import difflib

    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}? (all: {', '.join(known)})"
    return f"one of: {', '.join(known)}"


def refuse_outside(values: object, bounds: dict[str, tuple[float, float]]) -> None:
    """Raise unless each of these fields of `values` lies between two numbers or is one of them (a NaN is not)."""
    for name, (low, high) in bounds.items():
        if not low <= (value := getattr(values, name)) <= high:
            raise UserError(f"{name}={value:g} is not possible", remedy=f"from {low:g} to {high:g}")


def refuse_below(values: object, least: dict[str, float]) -> None:
    """Raise unless each of these fields of `values` is at least so large (a NaN is not)."""
    for name, limit in least.items():
        if not (value := getattr(values, name)) >= limit:
            raise UserError(f"{name}={value:g} is not possible", remedy=f"at least {limit:g}")
