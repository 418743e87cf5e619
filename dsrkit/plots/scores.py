"""What scores look like and what a threshold costs: histograms, threshold sweep, reliability."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from dsrkit.plots.results import Results, legend_label, require, require_columns, scored
from dsrkit.plots.style import COLOURS, COLUMN, GREY, SMALL, hide_unused, look, panels, styled

Thresholds = Mapping[str, float] | float | None

_FEWEST = 10  # pairs behind a point of a reliability diagram; the share among fewer is noise
_SHARES = {"correct": "named rightly", "wrong": "named wrongly", "unknown": "unknown", "fpir": "strangers named (FPIR)"}


@styled
def plot_score_histograms(results: Results) -> Figure:
    """Genuine and impostor scores of each row, one beneath the other on one axis, with the row's threshold and d′.

    Args:
        results: row name → ``verification`` result (scores, same, threshold, d_prime).

    Raises ValueError naming the row, for NaN scores and where genuine or impostor pairs are missing.
    """
    checked = scored(results)
    labels = [legend_label(row, f"d′ {result['d_prime']:.2f}", COLUMN - 0.2) for row, result in results.items()]
    lines = sum(label.count("\n") for label in labels)
    figure, axes = panels(len(results), 1, height=0.62 + (0.55 + 0.12 * lines) / len(results), sharex=True)
    every = np.concatenate([scores for scores, _ in checked.values()])
    bins = np.linspace(every.min(), max(every.max(), every.min() + 1e-3), 61).tolist()
    for axis, row, label in zip(axes[:, 0], results, labels, strict=True):
        scores, same = checked[row]
        axis.hist(scores[~same], bins, density=True, color="#C8C8C8", label="impostor")
        axis.hist(scores[same], bins, density=True, color=COLOURS[0], histtype="step", linewidth=1.2, label="genuine")
        axis.axvline(results[row]["threshold"], color=COLOURS[1], linestyle="--", linewidth=1.0, label="threshold")
        axis.set_title(label, fontsize=SMALL)
        axis.set(yticks=[], xlim=(bins[0], bins[-1]))
        axis.spines["left"].set_visible(False)
        axis.grid(visible=False)
    axes[-1, 0].set_xlabel("cosine")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    return figure


def _sweep(axis: Axes, sweep: pd.DataFrame, threshold: float | None) -> None:
    every = max(1, len(sweep) // 5)
    for number, (column, label) in enumerate(_SHARES.items()):
        if sweep[column].notna().any():
            axis.plot(sweep["threshold"], sweep[column], markevery=(number * every // 4, every), label=label, **look(number))
    if threshold is not None:
        axis.axvline(threshold, color=GREY, linestyle="-", linewidth=0.8, label="frozen threshold")
    axis.set_ylim(-0.03, 1.03)
    axis.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))


@styled
def plot_threshold_sweep(sweeps: pd.DataFrame | Mapping[str, pd.DataFrame], threshold: Thresholds = None) -> Figure:
    """What share of faces is named rightly, wrongly or not at all as the threshold rises.

    Args:
        sweeps: a table of ``threshold_sweep``, or row name → table for one panel each.
        threshold: the frozen one, drawn as a line; row name → threshold where rows have their own.

    Raises ValueError for an empty table, or one that lacks a column.
    """
    require(sweeps, "a sweep")
    tables = {"": sweeps} if isinstance(sweeps, pd.DataFrame) else sweeps
    for row, table in tables.items():
        require_columns(row or "sweep", table, ("threshold", *_SHARES))
    frozen = {row: threshold.get(row) if isinstance(threshold, Mapping) else threshold for row in tables}
    columns = min(2, len(tables))
    height = 2.8 if columns == 1 else 1.25 + 0.7 / -(-len(tables) // 2)
    figure, axes = panels(-(-len(tables) // columns), columns, COLUMN / columns, height, sharex=True, sharey=True)
    every = pd.concat(list(tables.values()))
    telling = every.loc[every["unknown"] < 1, "threshold"]  # beyond it everybody is unknown
    highest = max([telling.max() if len(telling) else every["threshold"].max(), *(value or -1 for value in frozen.values())])
    used = hide_unused(axes, len(tables))
    for axis, (row, table) in zip(used, tables.items(), strict=True):
        _sweep(axis, table, frozen[row])
        axis.set_title(legend_label(row, inches=COLUMN / columns - 0.4), fontsize=SMALL)
        axis.set_xlim(every["threshold"].min(), highest + 0.05)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.tick_params(labelbottom=axis in used[-columns:])
    figure.supxlabel("threshold (cosine)")
    figure.supylabel("share of faces (%)")
    handles = {label: handle for axis in used for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2)
    return figure


def _apart(table: pd.DataFrame) -> float:
    """Expected calibration error: how far observed and predicted lie apart in the mean over pairs."""
    weights = table["count"] / table["count"].sum()
    return float((weights * (table["observed"] - table["predicted"]).abs()).sum())


@styled
def plot_reliability(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Observed over predicted share of genuine pairs, and below it how many pairs stand behind each point.

    A reliability diagram (DeGroot & Fienberg 1983); on the diagonal a score says how likely the pair is genuine. Bins of fewer
    than ten pairs have no point above, only their count below (the line there is at ten). The legend gives the expected
    calibration error (ECE), over all bins: the mean distance from the diagonal, weighted by pairs.

    Args:
        tables: row name → table of ``metrics.reliability`` (predicted, observed, count); bins without pairs are left out.

    Raises ValueError naming the row without a filled bin, with other columns, or with shares outside [0, 1].
    """
    require(tables, "tables of reliability")
    figure, axes = panels(2, 1, height=1.55 + 0.07 * len(tables), sharex=True, height_ratios=(2.6, 1))
    upper, lower = axes[:, 0]
    upper.plot([0, 1], [0, 1], color=GREY, linestyle="-", linewidth=0.6)
    lower.axhline(_FEWEST, color=GREY, linestyle="-", linewidth=0.6)
    for number, (row, table) in enumerate(tables.items()):
        require_columns(row, table, ("predicted", "observed", "count"))
        filled = table[table["count"] > 0].sort_values("predicted")
        if not len(filled) or not filled[["predicted", "observed"]].apply(lambda part: part.between(0, 1)).all(axis=None):
            raise ValueError(f"{row}: expected bins with pairs and shares in [0, 1], got none or others. Look for NaN scores.")
        solid, label = filled[filled["count"] >= _FEWEST], legend_label(row, f"ECE {_apart(filled):.3f}")
        upper.plot(solid["predicted"], solid["observed"], label=label, **look(number))
        lower.plot(filled["predicted"], filled["count"], **look(number))
    upper.set(ylabel="observed share", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    lower.set(ylabel="pairs", xlabel="predicted share of genuine pairs", yscale="log")
    figure.align_ylabels([upper, lower])
    figure.legend(loc="outside lower center")
    return figure
