"""What a figure of results must be given: rows, and finite numbers in each. Errors name the row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from dsrkit.evaluation.headline import row_label
from dsrkit.metrics import check_scores
from dsrkit.plots.style import COLUMN, fitted

Results = Mapping[str, Mapping[str, Any]]  # row name → what ``verification`` or ``identification`` returned
Bands = Mapping[str, pd.DataFrame]  # row name → what ``roc_band`` or ``cmc_band`` returned

LEGEND = COLUMN - 0.6  # inches that a legend's text may take beside its line


def require(data: Mapping[str, Any] | pd.DataFrame, what: str) -> None:
    """Raises ValueError when there is nothing to draw."""
    if not len(data):
        raise ValueError(f"Expected {what} to draw, got none. Run the evaluation first.")


def require_columns(row: str, table: pd.DataFrame, columns: Iterable[str]) -> None:
    """Raises ValueError for an empty table and for one that lacks a column."""
    missing = [column for column in columns if column not in table]
    if missing or not len(table):
        held = ", ".join(map(str, table.columns)) or "none"
        raise ValueError(
            f"{row}: expected a table with columns {', '.join(columns)}, got {len(table)} rows of {held}. "
            "Take it as the function that makes it returns it."
        )


def require_known(what: str, given: Iterable[str], rows: Iterable[str]) -> None:
    """Raises ValueError when ``given`` names a row that is not drawn."""
    if stray := sorted(set(given) - set(rows)):
        raise ValueError(f"{what}: expected rows that are drawn ({', '.join(rows)}), got also {', '.join(stray)}.")


def scored(results: Results) -> dict[str, tuple[Float[np.ndarray, " p"], Bool[np.ndarray, " p"]]]:
    """Scores and truth of every row.

    Raises ValueError naming the row: without scores, with NaN, or with genuine or impostor pairs only.
    """
    require(results, "verification results")
    checked = {}
    for row, result in results.items():
        try:
            checked[row] = check_scores(result["scores"], result["same"])
        except KeyError as error:
            raise ValueError(f"{row}: expected a verification result, got one without {error}. Give `verification`'s.") from error
        except ValueError as error:
            raise ValueError(f"{row}: {error}") from error
    return checked


def ranked(results: Results) -> dict[str, Float[np.ndarray, " s"]]:
    """The CMC of every row. Raises ValueError naming the row without one, or whose CMC holds other than shares."""
    require(results, "identification results")
    curves = {}
    for row, result in results.items():
        cmc = np.asarray(result.get("cmc", []), np.float64)
        if cmc.ndim != 1 or not len(cmc) or not ((cmc >= 0) & (cmc <= 1 + 1e-9)).all():
            raise ValueError(f"{row}: expected a CMC of shares in [0, 1], got {cmc[:3]}. Give the result of `identification`.")
        curves[row] = cmc
    return curves


def legend_label(row: str, fact: str = "", inches: float = LEGEND) -> str:
    """A row's name for people with a fact behind it, broken where it would leave the figure."""
    return fitted(", ".join(part for part in (row_label(row), fact) if part), inches)
