"""Curves of an evaluation: ROC, DET and CMC, with bands where they are given. ``results`` map a row's name to its result."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from scipy.special import ndtri
from sklearn.metrics import roc_curve

from dsrkit.metrics import FARS
from dsrkit.plots.results import Bands, Results, legend_label, ranked, require_known, scored
from dsrkit.plots.style import GREY, look, panels, styled

Rates = Float[np.ndarray, " t"]

BAND = "95 % band (bootstrap by subject)"

# The rates that ISO/IEC 19795 and NIST reports write at a DET's axes.
_DET_TICKS = (1e-5, 1e-4, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99)


def _percents(share: float, _: int = 0) -> str:
    return f"{100 * share:g}"


def _draw_bands(axis: Axes, bands: Bands, rows: list[str], x: str, step: Literal["post"] | None = "post") -> None:
    """Shade between low and high over column ``x`` in the colour of each row, and say in the legend what the shade is."""
    for row, band in bands.items():
        colour = look(rows.index(row))["color"]
        axis.fill_between(band[x], band["low"], band["high"], step=step, color=colour, alpha=0.18, linewidth=0)
    if bands:
        axis.fill_between([], [], [], color=GREY, alpha=0.25, linewidth=0, label=BAND)


@styled
def plot_roc(results: Results, bands: Bands | None = None) -> Figure:
    """TAR over FAR (logarithmic, from one impostor pair on), with markers at FAR 0.1, 0.01 and 0.001.

    Args:
        results: row name → ``verification`` result (scores, same, auc, tar_at_far).
        bands: row name → ``roc_band``; two or three rows' stay legible.

    Raises ValueError naming the row, for NaN scores and where genuine or impostor pairs are missing.
    """
    checked, bands = scored(results), bands or {}
    require_known("bands", bands, results)
    figure, axes = panels(1, 1, height=2.3 + 0.14 * len(results))
    axis, rows, lowest = axes[0, 0], list(results), 1.0
    fewest = min(int(np.sum(~same)) for _, same in checked.values())
    left = min(1 / fewest, 0.05)
    for number, (row, (scores, same)) in enumerate(checked.items()):
        far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
        style = look(number)
        marker = style.pop("marker")
        # A step, not a slope, between measured rates: between them no threshold lies.
        axis.plot(far, tar, drawstyle="steps-post", **style)
        marks = [(rate, value) for rate, value in results[row]["tar_at_far"].items() if rate >= 1 / fewest]
        axis.plot(*zip(*marks, strict=True), linestyle="none", marker=marker, color=style["color"])
        axis.plot([], label=legend_label(row, f"AUC {results[row]['auc']:.4f}"), marker=marker, **style)
        lowest = min(lowest, tar[far <= left][-1])
    _draw_bands(axis, bands, rows, "far")
    axis.set_xscale("log")
    bottom = np.floor(10 * min(lowest, 0.9)) / 10
    axis.set(xlim=(left, 1), ylim=(bottom, 1 + 0.02 * (1 - bottom)))
    axis.set(xlabel="false accept rate (%)", ylabel="true accept rate (%)")
    axis.xaxis.set_major_formatter(FuncFormatter(_percents))
    axis.yaxis.set_major_formatter(FuncFormatter(_percents))
    figure.legend(loc="outside lower center")
    return figure


def _deviates(shares: Rates | float, count: int) -> Rates:
    """Normal deviates (probit); rates of 0 and 1, which lie infinitely far, half a trial away from them."""
    return ndtri(np.clip(shares, 0.5 / count, 1 - 0.5 / count))


def _det_axes(axis: Axes, left: float, bottom: float, top: float) -> None:
    """Rates in per cent at normal deviates, none so near to the one before that they would touch."""
    for where, low, high, room in ((axis.xaxis, left, 0.5, 0.09), (axis.yaxis, bottom, top, 0.06)):
        chosen: list[float] = []
        for rate in _DET_TICKS:
            if low <= rate <= high and not (chosen and ndtri(rate) - ndtri(chosen[-1]) < room * (ndtri(high) - ndtri(low))):
                chosen.append(rate)
        where.set_ticks(ndtri(chosen), [_percents(rate) for rate in chosen])
    axis.set(xlim=ndtri([left, 0.5]), ylim=ndtri([bottom, top]))
    axis.set(xlabel="false accept rate (%)", ylabel="false reject rate (%)")


@styled
def plot_det(results: Results, bands: Bands | None = None) -> Figure:
    """FRR over FAR, both on normal deviates, where normal scores give straight lines; markers at the equal
    error rate (on the diagonal) and at FAR 0.1, 0.01 and 0.001.

    The detection error trade-off of Martin et al., "The DET curve in assessment of detection task performance" (1997), as
    ISO/IEC 19795-1:2021 reports it; from one impostor pair and one genuine pair on.

    Args: as ``plot_roc`` (scores, same, eer). Raises ValueError as ``plot_roc``.
    """
    checked, bands = scored(results), bands or {}
    require_known("bands", bands, results)
    figure, axes = panels(1, 1, height=2.6 + 0.14 * len(results))
    axis, rows, highest = axes[0, 0], list(results), 0.1
    impostors, genuine = (min(int(np.sum(same == kind)) for _, same in checked.values()) for kind in (False, True))
    left, bottom = (min(1 / count, 0.1) for count in (impostors, genuine))
    diagonal = ndtri(np.clip([min(left, bottom), 0.999], 1e-6, None))
    axis.plot(diagonal, diagonal, color=GREY, linestyle="-", linewidth=0.6)
    for number, (row, (scores, same)) in enumerate(checked.items()):
        far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
        style = look(number)
        marker = style.pop("marker")
        axis.plot(_deviates(far, np.sum(~same)), _deviates(1 - tar, np.sum(same)), drawstyle="steps-post", **style)
        error = results[row]["eer"]
        marks = [(error, error), *((rate, 1 - tar[far <= rate][-1]) for rate in FARS if rate >= left)]
        places = [(_deviates(x, impostors), _deviates(y, genuine)) for x, y in marks]
        axis.plot(*zip(*places, strict=True), linestyle="none", marker=marker, color=style["color"])
        axis.plot([], label=legend_label(row, f"EER {100 * error:.2f} %"), marker=marker, **style)
        highest = max(highest, 1 - tar[far <= left][-1], error)
    placed = {
        row: pd.DataFrame(
            {"far": _deviates(band["far"].to_numpy(), impostors)}
            | {end: _deviates(1 - band[end].to_numpy(), genuine) for end in ("low", "high")}
        )
        for row, band in bands.items()
    }
    _draw_bands(axis, placed, rows, "far")
    _det_axes(axis, left, bottom, float(min(1.15 * highest, 0.5 + highest / 2, 0.995)))
    figure.legend(loc="outside lower center")
    return figure


@styled
def plot_cmc(results: Results, most: int = 20, bands: Bands | None = None) -> Figure:
    """Share of probes whose subject is among the best k, for k = 1 … ``most`` (closed set).

    Args:
        results: row name → ``identification`` result (cmc).
        bands: row name → ``cmc_band``.

    Raises ValueError naming the row, for a CMC that is empty or holds NaN.
    """
    curves, bands = {row: cmc[:most] for row, cmc in ranked(results).items()}, bands or {}
    require_known("bands", bands, results)
    figure, axes = panels(1, 1, height=2.2 + 0.14 * len(results))
    axis, longest = axes[0, 0], max(map(len, curves.values()))
    ticks = [rank for rank in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if rank <= longest]
    for number, (row, cmc) in enumerate(curves.items()):
        label, marked = legend_label(row, f"rank-1 {100 * cmc[0]:.1f} %"), [rank - 1 for rank in ticks if rank <= len(cmc)]
        axis.plot(np.arange(1, len(cmc) + 1), cmc, label=label, markevery=marked, **look(number))
    shown = {row: band[band["rank"] <= longest] for row, band in bands.items()}
    _draw_bands(axis, shown, list(results), "rank", step=None)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda rank, _: f"{rank:.0f}"))
    axis.yaxis.set_major_formatter(FuncFormatter(_percents))
    axis.set(xlabel="rank k", ylabel="found among the best k (%)", xlim=(0.95, max(longest, 2) * 1.05))
    axis.set_ylim(top=1 + 0.02 * (1 - axis.get_ylim()[0]))
    figure.legend(loc="outside lower center")
    return figure
