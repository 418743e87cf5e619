"""A training as it goes: small multiples over epochs, and a figure that keeps itself up to date in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dsrkit.plots.style import COLOURS, GREY, PAGE, hide_unused, look, panels, styled

History = Sequence[Mapping[str, Any]]  # numbers, or None where an epoch was not measured
Groups = Mapping[str, Sequence[str]]

# Measures that say more on one panel; whatever a history holds beside them gets a panel of its own.
_TOGETHER: dict[str, tuple[str, ...]] = {
    "equal error rate": ("eer", "hr_eer"),
    "AUC": ("auc",),
    "mean score": ("genuine_mean", "impostor_mean"),
    "cosine to HR embedding": ("identity_similarity", "hr_similarity"),
    "d′": ("d_prime",),
    "effective rank": ("effective_rank",),
    "PSNR (dB)": ("psnr",),
    "SSIM": ("ssim",),
    "learning rate": ("learning_rate",),
}
_NOT_MEASURES = ("epoch", "seconds")


def history_groups(history: History) -> dict[str, list[str]]:
    """Which measures share a panel: title → keys. Losses come first, then validation measures, then the learning rate."""
    keys = [key for key in dict.fromkeys(key for record in history for key in record) if key not in _NOT_MEASURES]
    groups = {"training losses": [key for key in keys if key.startswith("loss")]}
    groups["gradient norms"] = [key for key in keys if key.startswith("gradient")]
    groups |= {title: [key for key in together if key in keys] for title, together in _TOGETHER.items()}
    known = {key for group in groups.values() for key in group}
    groups |= {key.replace("_", " "): [key] for key in keys if key not in known}
    groups["learning rate"] = groups.pop("learning rate")
    return {title: group for title, group in groups.items() if group}


def _panel(axis: Axes, history: History, title: str, keys: Sequence[str]) -> None:
    values = [record[key] for key in keys for record in history if record.get(key) is not None]
    for number, key in enumerate(keys):
        points = [(record["epoch"], record[key]) for record in history if record.get(key) is not None]
        name = key.removeprefix("loss_").removeprefix("gradient_").replace("_", " ")
        axis.plot(*zip(*points, strict=True), label=name, markevery=max(1, len(points) // 8), **look(number))
    if title in ("training losses", "gradient norms") and min(values) > 0:
        axis.set_yscale("log")  # the terms differ by orders of magnitude
        axis.set_ylim(top=max(values) * max(4, (max(values) / min(values)) ** 0.8))  # room for the legend
    axis.set_title(title)
    last = max(1, *(record["epoch"] for record in history))
    axis.set_xlim(-0.04 * last, 1.04 * last)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    if title == "learning rate":
        axis.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    if len(keys) > 1:
        crowded = len(keys) > 2
        axis.legend(loc="upper center" if crowded else "best", handlelength=2.5, ncols=2 if crowded else 1, columnspacing=1)


@styled
def plot_history(history: History, groups: Groups | None = None) -> Figure:
    """Small multiples over epochs: training losses, validation measures, learning rate.

    Args:
        history: a record an epoch, with "epoch" and any measures; a record may lack some (epoch 0 has no losses).
        groups: panel title → keys; ``history_groups`` by default.

    Raises ValueError for an empty history, and for a key that no record holds.
    """
    if not history:
        raise ValueError("history: expected a record of one epoch or more, got none. Train first.")
    groups = history_groups(history) if groups is None else groups
    held = {key for record in history for key in record}
    if missing := sorted({key for group in groups.values() for key in group} - held):
        raise ValueError(f"groups: expected keys of the history ({', '.join(sorted(held))}), got also {', '.join(missing)}.")
    columns = min(3, len(groups))
    figure, axes = panels(-(-len(groups) // columns), columns, width=PAGE / 3, height=1.75)
    used = hide_unused(axes, len(groups))
    for axis, (title, keys) in zip(used, groups.items(), strict=True):
        _panel(axis, history, title, keys)
    figure.supxlabel("epoch", fontsize="medium")
    return figure


@styled
def plot_steps(table: pd.DataFrame, measure: str) -> Figure:
    """The gain of every step of a cycle with its interval: filled where accepted, hollow where refused.

    Args:
        table: a row a step, with cycle, step, gain, gain_low, gain_high and accepted.
        measure: what the gain is of.
    """
    figure, axes = panels(1, 1, height=0.8 + 0.35 * len(table))
    axis, places = axes[0, 0], range(len(table))
    for place, row in zip(places, table.itertuples(), strict=True):
        colour = COLOURS[2] if row.accepted else COLOURS[1]
        axis.plot([row.gain_low, row.gain_high], [place, place], color=colour, linestyle="-", marker="|")
        axis.plot(row.gain, place, color=colour, marker="o", markersize=7, markerfacecolor=colour if row.accepted else "white")
    axis.axvline(0, color=GREY, linestyle="-", linewidth=0.8)
    labels = [f"cycle {row.cycle}, {row.step}\n{'accepted' if row.accepted else 'refused'}" for row in table.itertuples()]
    axis.set_yticks(list(places), labels)
    axis.set_ylim(len(table) - 0.5, -0.5)
    axis.set_xlabel(f"gain in {measure.upper()} (validation)")
    return figure


class LivePlot:
    """Call it with the history after each epoch: in a notebook that a person watches, one figure is kept up to date.

    Args:
        interactive: whether a person watches (``dsrkit.runs.is_interactive()``); otherwise nothing happens, and the
            notebook draws ``plot_history`` once at the end.
        groups: as in ``plot_history``.
    """

    def __init__(self, interactive: bool, groups: Groups | None = None) -> None:
        self.interactive, self.groups = interactive, groups
        self._handle: Any = None

    def __call__(self, history: History) -> None:
        if not self.interactive:
            return
        figure = plot_history(history, self.groups)
        if self._handle is None:
            self._handle = display(figure, display_id=True)
        else:
            self._handle.update(figure)
