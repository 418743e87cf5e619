"""The type checker for shapes: beartype, taking an int where a float is expected, as Python's typing does."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
