"""Runs side by side: measures against the pixels of a VLR face, and every run's value with its interval."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from dsrkit.evaluation.headline import TTA, row_label, row_order
from dsrkit.plots.style import COLUMN, GREY, look, panels, styled, text_width

SHOWN = {"verification_accuracy": "verification accuracy", "tar_at_far_0.01": "TAR at FAR 1 %", "rank1": "rank-1"}
_BESIDE_A_LABEL = 0.45  # inches of a legend's column: the line, and space around


def comparison_figures(numbers: pd.DataFrame) -> dict[tuple[str, str], Figure]:
    """The figures that a comparison calls for, by kind ("pixels" or "runs") and protocol.

    Against pixels where there are several VLR sizes; run beside run where there is one size, or one has several runs.

    Args:
        numbers: of ``dsrkit.comparison.tables.numbers``; the judge's rows and those with TTA are left out.
    """
    drawn = numbers[(numbers["recognizer"] == "run") & ~numbers["row"].str.endswith(TTA) & numbers["value"].notna()]
    columns = drawn[["run", "vlr_size"]].drop_duplicates()
    several = columns["vlr_size"].nunique() > 1
    plots = {"pixels": plot_against_pixels} if several else {}
    if not several or columns["vlr_size"].duplicated().any():
        plots["runs"] = plot_runs
    return {
        (kind, str(protocol)): plot(part)
        for kind, plot in plots.items()
        for protocol, part in drawn.groupby("protocol", sort=False)
    }


def figure_name(kind: str, protocol: str) -> str:
    """A name for the files of a figure: "hr+lr" is no plain one."""
    return f"{kind}_{re.sub('[^A-Za-z0-9-]', '_', protocol.replace('+', '-and-'))}"


def _measures(numbers: pd.DataFrame) -> dict[str, str]:
    """The measures to draw, with their titles. Raises ValueError when there is none."""
    known = set(numbers.loc[numbers["value"].notna(), "measure"])
    if not known & set(SHOWN):
        raise ValueError(f"Expected numbers of {', '.join(SHOWN)}, got none. Choose a protocol that the runs have.")
    return {measure: title for measure, title in SHOWN.items() if measure in known}


def _systems(numbers: pd.DataFrame) -> list[str]:
    """The rows in the order of every table, whichever run has them."""
    return sorted(numbers["row"].unique(), key=lambda name: row_order({"row": name}))


def _bar(axis: Axes, along: str, places: Sequence[float], part: pd.DataFrame, **style: Any) -> None:
    """Values and their intervals at ``places``; where no interval is known, the value alone."""
    value, low, high = (part[column].astype(float).to_numpy() for column in ("value", "low", "high"))
    ends = np.nan_to_num(np.stack([value - low, high - value])).clip(min=0)
    style = {"markersize": 4, "capsize": 1.5, "elinewidth": 0.9} | style
    if along == "y":
        axis.errorbar(places, value, yerr=ends, **style)
    else:
        axis.errorbar(value, places, xerr=ends, **style)


@styled
def plot_against_pixels(numbers: pd.DataFrame) -> Figure:
    """A panel a measure: each system's value with its 95 % interval against the VLR size, sizes by their number of pixels.

    Args:
        numbers: rows of one protocol and recogniser of ``dsrkit.comparison.tables.numbers``.

    Where a size has several runs, the line goes through the first, and the others stand beside it, hollow.
    """
    measures = _measures(numbers)
    sizes = numbers.sort_values("pixels", kind="stable")["vlr_size"].drop_duplicates().tolist()
    names = _systems(numbers)
    # The place of a run among those of its size: 0 is the first named.
    nth = numbers.groupby("vlr_size", sort=False)["run"].transform(lambda runs: pd.factorize(runs)[0])
    slots = len(names) * (nth.max() + 1)
    figure, axes = panels(len(measures), 1, height=1.85)
    for axis, (measure, title) in zip(axes.flat, measures.items(), strict=True):
        of_measure = numbers.assign(nth=nth)[(numbers["measure"] == measure) & numbers["value"].notna()]
        for number, name in enumerate(names):
            mine = of_measure[of_measure["row"] == name].sort_values("pixels", kind="stable")
            for order, nth_run in enumerate(np.unique(mine["nth"])):
                part = mine[mine["nth"] == nth_run]
                slot = number * (nth.max() + 1) + nth_run  # side by side, so that no interval hides another
                shift = min(0.055, 0.8 / slots) * (slot - (slots - 1) / 2)
                style = look(number) | ({"linestyle": "none", "markerfacecolor": "white"} if nth_run else {})
                places = [sizes.index(size) + shift for size in part["vlr_size"]]
                label = None if order else row_label(name)  # once, also of a system that stands in further runs alone
                _bar(axis, "y", places, part, label=label, **style)
        axis.set_title(title)
        axis.set_xticks(range(len(sizes)), [size.replace("x", "×") for size in sizes])
        axis.set_xlim(-0.5, len(sizes) - 0.5)
        axis.grid(visible=False, axis="x")
        axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.set_xlabel("VLR size in pixels")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if nth.max():
        handles.append(Line2D([], [], color=GREY, linestyle="none", marker="o", markerfacecolor="white"))
        labels.append("hollow: a further run of that size")
    figure.legend(handles, labels, loc="outside lower center")
    return figure


@styled
def plot_runs(numbers: pd.DataFrame) -> Figure:
    """A panel a measure: a line a system, on it each run's value with its 95 % interval.

    Args:
        numbers: as for ``plot_against_pixels``.
    """
    measures = _measures(numbers)
    names = _systems(numbers)
    runs = list(zip(*(numbers[["run", "vlr_size"]].drop_duplicates()[key] for key in ("run", "vlr_size")), strict=True))
    height = 0.4 + len(names) * max(0.27, 0.1 * len(runs))
    figure, axes = panels(len(measures), 1, height=height)
    for axis, (measure, title) in zip(axes.flat, measures.items(), strict=True):
        for number, (run, size) in enumerate(runs):
            mine = (numbers["run"] == run) & (numbers["vlr_size"] == size) & (numbers["measure"] == measure)
            part = numbers[mine & numbers["value"].notna()]
            shift = 0.7 / len(runs) * (number - (len(runs) - 1) / 2)
            style = look(number) | {"linestyle": "none"}
            places = [names.index(name) + shift for name in part["row"]]
            _bar(axis, "x", places, part, label=f"{run}, {size.replace('x', '×')}", **style)
        axis.set_title(title)
        axis.set_yticks(range(len(names)), [textwrap.fill(row_label(name), 20) for name in names])
        axis.set_ylim(len(names) - 0.45, -0.55)
        axis.grid(visible=False, axis="y")
        for edge in range(1, len(names)):
            axis.axhline(edge - 0.5, color="#E0E0E0", linewidth=0.6, linestyle="-")
        axis.xaxis.set_major_formatter(PercentFormatter(1))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    side_by_side = 2 * (max(map(text_width, labels)) + _BESIDE_A_LABEL) <= COLUMN
    figure.legend(handles, labels, loc="outside lower center", ncols=2 if side_by_side else 1)
    return figure
