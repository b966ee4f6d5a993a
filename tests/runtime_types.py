"""The type checker of the tests: annotations at run time, where numpy's numbers are numbers and an int is a float."""

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

NUMBERS = {int: int | np.integer, float: float | int | np.floating | np.integer}

typed = beartype(conf=BeartypeConf(hint_overrides=FrozenDict(NUMBERS)))
