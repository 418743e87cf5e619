"""Libraries that tell every step of an export: kept quiet, while errors are raised all the same."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quietly(logger: str = "") -> Iterator[None]:
    """Without standard output, warnings, and what the named logger (the root logger, if empty) says below an error."""
    talker = logging.getLogger(logger)
    level = talker.level
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        talker.setLevel(logging.ERROR)
        try:
            yield
        finally:
            talker.setLevel(level)
