"""Who is told what goes on while long work is done."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Listener:
    """Two functions that do nothing where nobody listens.

    Args:
        say: a line of text.
        progress: (what is going on, done, total).
    """

    say: Callable[[str], None] = lambda text: None
    progress: Callable[[str, int, int], None] = lambda what, done, total: None
