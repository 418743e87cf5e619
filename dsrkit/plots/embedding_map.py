"""A map of embeddings: do the faces that were restored come home to their HR ones?

t-SNE (van der Maaten & Hinton 2008) after PCA, as scikit-learn has them. Near is alike; how far apart two groups lie, and
how wide each is, says nothing. The cosines in the legend are of the embeddings themselves, not of the map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from dsrkit.metrics import unit_length
from dsrkit.plots.results import legend_label
from dsrkit.plots.style import COLUMN, GREY, SMALL, UNDER, fitted, look, panels, styled

_READ = "Near is alike; how far groups lie apart says nothing."
_PCA = 50  # van der Maaten's advice: it takes out noise and time


def map_embeddings(embeddings: Float[np.ndarray, "n d"], seed: int = 0) -> Float[np.ndarray, "n 2"]:
    """Places on a map, the same for the same embeddings and seed; their scale means nothing.

    Raises ValueError for bad embeddings (see ``metrics.unit_length``) and for fewer than four.
    """
    unit = unit_length(np.asarray(embeddings, np.float64))
    if len(unit) < 4:
        raise ValueError(f"Expected four embeddings or more for a map, got {len(unit)}. Take more faces.")
    if np.ptp(unit, axis=0).max() < 1e-6:
        raise ValueError("Expected embeddings that differ, got all alike. The recogniser has collapsed.")
    reduced = PCA(min(_PCA, *unit.shape), svd_solver="full").fit_transform(unit)
    perplexity = min(30.0, (len(unit) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(reduced)


@styled
def plot_embedding_map(
    embeddings: Mapping[str, Float[np.ndarray, "n d"]], subjects: Sequence[Any], seed: int = 0, note: str = ""
) -> Figure:
    """The same faces as HR ones and as each system shows them, each joined with its HR embedding by a thin line.

    A number stands where a subject's HR faces lie. The legend gives the median cosine of each version to the HR embedding.

    Args:
        embeddings: row name → [N, D] of the same N faces by one recogniser, HR first: "hr", "direct_feed", "dsr".
        subjects: [N] of each face.
        note: how the faces were chosen, to be written beneath with the rest: "drawn by seed 0 from those with six or more".

    Raises ValueError for fewer than two versions, for versions that differ in shape, and as ``map_embeddings``.
    """
    shapes = {title: np.shape(part) for title, part in embeddings.items()} | {"subjects": (len(subjects),)}
    if len(embeddings) < 2 or len({shape[0] for shape in shapes.values()}) > 1:
        raise ValueError(f"Expected HR and another version of the same faces, got {shapes}. Give an embedding a face.")
    unit = {row: unit_length(np.asarray(part, np.float64)) for row, part in embeddings.items()}
    places = np.split(map_embeddings(np.concatenate(list(unit.values())), seed), len(unit))
    wide, high = np.ptp(np.concatenate(places), axis=0)
    people = list(dict.fromkeys(subjects))
    rule = f"{len(subjects)} faces of {len(people)} subjects{note and ', ' + note}; t-SNE after PCA, seed {seed}. {_READ}"
    under = fitted(rule, UNDER, most=1000)
    height = (COLUMN - 0.1) * float(np.clip(high / wide, 0.6, 1.2))
    figure, axes = panels(1, 1, height=height + 0.16 * len(unit) + 0.14 * (under.count("\n") + 1) + 0.1)
    axis, home, true = axes[0, 0], places[0], next(iter(unit.values()))
    for number, (row, where) in enumerate(zip(unit, places, strict=True)):
        cosine = np.median((unit[row] * true).sum(1))
        _draw_version(axis, where, home, number, "HR" if number == 0 else legend_label(row, f"cosine to HR {cosine:.2f}"))
    for number, subject in enumerate(people, 1):
        _draw_subject(axis, home[np.asarray(subjects) == subject], str(number))
    axis.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
    axis.spines[:].set_visible(False)
    figure.legend(loc="outside upper center", handlelength=1)
    figure.supxlabel(under, fontsize=SMALL)
    return figure


def _draw_version(axis: Axes, where: Float[np.ndarray, "n 2"], home: Float[np.ndarray, "n 2"], number: int, label: str) -> None:
    """The places of one version, each joined with that of its HR face; odd versions hollow, so that grey print differs too."""
    style = look(number)
    colour, face = style["color"], "white" if number % 2 else style["color"]
    if number:
        for start, end in zip(where, home, strict=True):
            axis.plot(*zip(start, end, strict=True), color=colour, linestyle="-", linewidth=0.4, zorder=1)
    marks = {"linestyle": "none", "marker": style["marker"], "markersize": 3, "markerfacecolor": face}
    axis.plot(*where.T, color=colour, zorder=3 if number == 0 else 2, label=label, **marks)


def _draw_subject(axis: Axes, home: Float[np.ndarray, "m 2"], name: str) -> None:
    """The subject's number amid its HR faces, on a white edge; dotted lines lead to those that lie apart."""
    middle = np.median(home, axis=0)
    for place in home:
        axis.plot(*zip(place, middle, strict=True), color=GREY, linestyle=":", linewidth=0.5, zorder=1)
    edge = [withStroke(linewidth=1.8, foreground="white")]
    axis.annotate(name, middle, fontsize=SMALL, fontweight="bold", ha="center", va="center", path_effects=edge, zorder=4)
