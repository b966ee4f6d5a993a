"""The type checker of the tests: annotations at run time, where an int may stand for a float."""

from beartype import BeartypeConf, beartype

typed = beartype(conf=BeartypeConf(is_pep484_tower=True))
