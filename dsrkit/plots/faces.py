"""Faces side by side: what went in, what each method made of it, what it should have been."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from dsrkit.plots.style import COLUMN, SMALL, UNDER, fitted, hide_unused, panels, styled, text_width

Images = Float[Tensor, "n 3 h w"] | Float[np.ndarray, "n 3 h w"]

_DRAWN = 112  # pixels that an image is drawn with at least
_BESIDE = 0.75  # inches that names may take


def _pixels(title: str, images: Images) -> Float[np.ndarray, "n h w 3"]:
    array = images.detach().cpu().float().numpy() if isinstance(images, Tensor) else np.asarray(images)
    if array.ndim != 4 or array.shape[1] != 3 or not len(array):
        raise ValueError(f"{title}: expected images [N, 3, H, W], got shape {list(array.shape)}.")
    if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
        raise ValueError(f"{title}: expected values in [0, 1], got others. Divide bytes by 255, or clamp.")
    return array.transpose(0, 2, 3, 1)


def _sharp(image: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "hh ww 3"]:
    """Each pixel of a small image as a block, so that no viewer can smooth it: that would restore faces on its own."""
    times = max(1, -(-_DRAWN // max(image.shape[:2])))
    return image.repeat(times, axis=0).repeat(times, axis=1)


def _checked(
    columns: Mapping[str, Images], scores: Mapping[str, Sequence[float]], names: Sequence[str] | None
) -> dict[str, Float[np.ndarray, "n h w 3"]]:
    pixels = {title: _pixels(title, images) for title, images in columns.items()}
    counts = {title: len(images) for title, images in pixels.items()}
    counts |= {f"scores of {title}": len(part) for title, part in scores.items()}
    counts |= {} if names is None else {"names": len(names)}
    if len(set(counts.values())) != 1:
        raise ValueError(f"Expected as many images, scores and names in every column, got {counts}.")
    if stray := set(scores) - set(pixels):
        raise ValueError(f"scores: expected titles of columns ({', '.join(pixels)}), got also {', '.join(sorted(stray))}.")
    return pixels


@styled
def plot_face_strips(
    columns: Mapping[str, Images],
    scores: Mapping[str, Sequence[float]] | None = None,
    names: Sequence[str] | None = None,
    note: str = "",
) -> Figure:
    """A grid with one face a row and one version a column, as wide as one column of a paper.

    Args:
        columns: title → images [N, 3, H, W] in [0, 1], of any size: "VLR", "bicubic", "DSR", "HR".
        scores: title → a score per image (such as the cosine to the gallery), written beneath it.
        names: a name per row, written at its left; it may have several lines.
        note: written beneath the figure, such as the rule by which the faces were chosen (``strip_rule``).

    Raises ValueError for other shapes or values, and when columns, scores or names differ in number.
    """
    scores = scores or {}
    pixels = _checked(columns, scores, names)
    sides = [fitted(name, _BESIDE) for name in names or ()]
    beside = 0.14 + max([text_width(line) for side in sides for line in side.splitlines()], default=0)
    cell = max(0.42, (COLUMN - beside) / len(pixels))  # a figure of many columns grows wider than a page's column
    titles, under = [fitted(title, cell - 0.04) for title in pixels], fitted(note, UNDER, most=1000)
    count = len(next(iter(pixels.values())))
    figure, axes = panels(count, len(pixels))
    lines = 1 + max(title.count("\n") for title in titles) + (under.count("\n") + 2 if note else 0)
    figure.set_size_inches(cell * len(pixels) + beside, (cell + (0.14 if scores else 0.02)) * count + 0.12 * lines + 0.05)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01, rect=(0.01, 0.005, 0.98, 0.99))
    for column, (title, images) in enumerate(pixels.items()):
        for row, image in enumerate(images):
            axis = axes[row, column]
            axis.imshow(_sharp(image), vmin=0, vmax=1, interpolation="antialiased")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if title in scores:
                axis.set_xlabel(f"{scores[title][row]:.2f}", labelpad=1, fontsize=SMALL)
        axes[0, column].set_title(titles[column], loc="center", fontsize=SMALL)
    for row, side in enumerate(sides):
        axes[row, 0].set_ylabel(side, rotation=0, ha="right", va="center", labelpad=3, fontsize=SMALL)
    if note:
        figure.supxlabel(under, fontsize=SMALL)
    return figure


@styled
def plot_face_grid(faces: Sequence[UInt8[np.ndarray, "h w 3"]], captions: Sequence[str], columns: int = 8) -> Figure:
    """Many faces, ``columns`` in a row, each with its caption beneath; lines that are too long for it are broken.

    Args:
        faces: bytes [H, W, 3], of any size; pictures twice as wide take twice the place, so ask for fewer columns.

    Raises ValueError without a face, and when faces and captions differ in number.
    """
    if not len(faces) or len(faces) != len(captions):
        raise ValueError(f"Expected one face or more and as many captions, got {len(faces)} faces and {len(captions)} captions.")
    columns, widest = min(columns, len(faces)), max(face.shape[1] / face.shape[0] for face in faces)
    texts = [fitted(caption, 1.2 * widest) for caption in captions]
    lines = max(text.count("\n") + 1 for text in texts)
    rows = -(-len(faces) // columns)
    figure, axes = panels(rows, columns, width=1.25 * widest, height=1.25 + 0.13 * lines)
    for axis, face, text in zip(hide_unused(axes, len(faces)), faces, texts, strict=True):
        axis.imshow(face, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.set_xlabel(text, fontsize=SMALL, labelpad=2)
    return figure


@styled
def plot_identity_map(weight: Float[np.ndarray, "h w"], faces: Images | np.ndarray) -> Figure:
    """A map over the face (1 is its mean) beside the mean face that it belongs to, both with the same outlines.

    Args:
        weight: [H, W], such as the size of a loss's gradient by pixel.
        faces: bytes [N, H, W, 3] of aligned faces, whose mean is drawn.
    """
    figure, axes = panels(1, 2, width=2.6, height=2.4)
    mean = np.asarray(faces, np.float32).mean(0) / 255
    axes[0, 0].imshow(mean, interpolation="nearest")
    axes[0, 0].set_title("mean HR face")
    image = axes[0, 1].imshow(weight, cmap="cividis", vmin=0)
    axes[0, 1].imshow(mean.mean(2), cmap="gray", alpha=0.25)
    axes[0, 1].set_title("gradient of the identity loss")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes[0, 1], shrink=0.9)
    return figure
