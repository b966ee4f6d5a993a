"""How many threads tensors are computed with."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """So many for a while.

    Heads take one: they are small, and on a busy machine two threads that wait for each other were ten times slower.
    Cells run side by side instead (`wavbench sweep workers=N`).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
