"""Curves of an evaluation: ROC, score histograms, threshold sweep, CMC. ``results`` map a row's name to its result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter
from sklearn.metrics import roc_curve

from dsrkit.evaluation.headline import row_label
from dsrkit.plots.style import COLOURS, COLUMN, GREY, hide_unused, look, panels, styled

Results = Mapping[str, Mapping[str, Any]]


def _require(data: Mapping[str, Any] | pd.DataFrame, what: str) -> None:
    if not len(data):
        raise ValueError(f"Expected {what} to draw, got none. Run the evaluation first.")


@styled
def plot_roc(results: Results) -> Figure:
    """TAR over FAR (logarithmic, from one impostor pair on), with markers at FAR 0.1, 0.01 and 0.001.

    Args:
        results: row name → ``verification`` result (scores, same, tar_at_far).
    """
    _require(results, "verification results")
    figure, axes = panels(1, 1, height=2.8 + 0.17 * len(results))
    axis = axes[0, 0]
    fewest = min(int(np.sum(~result["same"])) for result in results.values())
    for number, (name, result) in enumerate(results.items()):
        far, tar, _ = roc_curve(result["same"], result["scores"], drop_intermediate=False)
        style = look(number)
        marker = style.pop("marker")
        # A step, not a slope, between measured rates: between them no threshold lies.
        axis.plot(far, tar, drawstyle="steps-post", label=f"{row_label(name)}, AUC {result['auc']:.4f}", **style)
        marks = [(rate, value) for rate, value in result["tar_at_far"].items() if rate >= 1 / fewest]
        axis.plot(*zip(*marks, strict=True), linestyle="none", marker=marker, color=style["color"])
    axis.set_xscale("log")
    axis.set(xlim=(min(1 / fewest, 0.05), 1), ylim=(0, 1.02), xlabel="false accept rate (FAR)", ylabel="true accept rate (TAR)")
    figure.legend(loc="outside lower center")
    return figure


@styled
def plot_score_histograms(results: Results) -> Figure:
    """Genuine and impostor scores of each row in a panel of its own, with the row's threshold and d′.

    Args:
        results: row name → ``verification`` result (scores, same, threshold, d_prime).
    """
    _require(results, "verification results")
    columns = min(2, len(results))
    figure, axes = panels(-(-len(results) // columns), columns, width=3.6, height=2.1)
    every = np.concatenate([result["scores"] for result in results.values()])
    bins = np.linspace(every.min(), max(every.max(), every.min() + 1e-3), 51).tolist()
    used = hide_unused(axes, len(results))
    for axis, (name, result) in zip(used, results.items(), strict=True):
        scores, same = result["scores"], result["same"]
        axis.hist(scores[~same], bins, density=True, color=COLOURS[1], alpha=0.35, label="impostor")
        axis.hist(scores[same], bins, density=True, color=COLOURS[0], histtype="step", linewidth=1.4, label="genuine")
        axis.axvline(result["threshold"], color=GREY, linestyle="--", linewidth=1.2, label="threshold")
        axis.set_title(f"{row_label(name)}, d′ = {result['d_prime']:.2f}")
        axis.set(yticks=[], xlim=(bins[0], bins[-1]))
        axis.spines["left"].set_visible(False)
        axis.grid(visible=False)
    figure.supxlabel("cosine", fontsize="medium")
    figure.legend(*used[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def _sweep(axis: Axes, sweep: pd.DataFrame, threshold: float | None) -> None:
    names = [("correct", "named rightly"), ("wrong", "named wrongly"), ("unknown", "unknown"), ("fpir", "strangers named (FPIR)")]
    for number, (column, label) in enumerate(names):
        if sweep[column].notna().any():
            every = max(1, len(sweep) // 10)
            axis.plot(sweep["threshold"], sweep[column], markevery=(number * every // 4, every), label=label, **look(number))
    if threshold is not None:
        axis.axvline(threshold, color=GREY, linestyle="--", linewidth=1.2, label=f"threshold {threshold:.2f}")
    axis.set_ylim(-0.02, 1.02)
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


@styled
def plot_threshold_sweep(sweeps: pd.DataFrame | Mapping[str, pd.DataFrame], threshold: float | None = None) -> Figure:
    """What share of faces is named rightly, wrongly or not at all as the threshold rises.

    Args:
        sweeps: a table of ``threshold_sweep``, or row name → table for one panel each.
        threshold: the frozen one, drawn as a line.
    """
    _require(sweeps, "a sweep")
    tables = {"": sweeps} if isinstance(sweeps, pd.DataFrame) else sweeps
    columns = min(2, len(tables))
    width, height = (COLUMN, 3.2) if columns == 1 else (3.6, 2.6)
    figure, axes = panels(-(-len(tables) // columns), columns, width, height)
    used = hide_unused(axes, len(tables))
    every = pd.concat(list(tables.values()))
    telling = every.loc[every["unknown"] < 1, "threshold"]  # beyond it everybody is unknown
    lowest, highest = every["threshold"].min(), telling.max() if len(telling) else every["threshold"].max()
    for axis, (name, table) in zip(used, tables.items(), strict=True):
        _sweep(axis, table, threshold)
        axis.set_title(row_label(name))
        axis.set_xlim(lowest, max(highest, highest if threshold is None else threshold) + 0.05)
    figure.supxlabel("threshold (cosine)", fontsize="medium")
    figure.supylabel("share of faces", fontsize="medium")
    handles = {label: handle for axis in used for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2 if columns == 1 else 3)
    return figure


@styled
def plot_cmc(results: Results, most: int = 20) -> Figure:
    """Share of probes whose subject is among the best k, for k = 1 … ``most`` (closed set).

    Args:
        results: row name → ``identification`` result (cmc).
    """
    _require(results, "identification results")
    figure, axes = panels(1, 1, height=2.6 + 0.17 * len(results))
    axis = axes[0, 0]
    longest = max(1, *(min(most, len(result["cmc"])) for result in results.values()))
    for number, (name, result) in enumerate(results.items()):
        cmc = np.asarray(result["cmc"])[:most]
        label = f"{row_label(name)}, rank-1 {100 * cmc[0]:.1f} %"
        axis.plot(np.arange(1, len(cmc) + 1), cmc, label=label, **look(number))
    axis.set_xscale("log")
    ticks = [rank for rank in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if rank <= longest]
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda rank, _: f"{rank:.0f}"))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.set(xlabel="rank k", ylabel="found among the best k", xlim=(0.95, max(longest, 2) * 1.05))
    axis.set_ylim(top=1.02)
    figure.legend(loc="outside lower center")
    return figure
