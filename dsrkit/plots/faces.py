"""Faces side by side: what went in, what each method made of it, what it should have been."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from dsrkit.plots.style import hide_unused, panels, styled

Images = Float[Tensor, "n 3 h w"] | Float[np.ndarray, "n 3 h w"]


def _pixels(title: str, images: Images) -> Float[np.ndarray, "n h w 3"]:
    array = images.detach().cpu().float().numpy() if isinstance(images, Tensor) else np.asarray(images)
    if array.ndim != 4 or array.shape[1] != 3 or not len(array):
        raise ValueError(f"{title}: expected images [N, 3, H, W], got shape {list(array.shape)}.")
    if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
        raise ValueError(f"{title}: expected values in [0, 1], got others. Divide bytes by 255, or clamp.")
    return array.transpose(0, 2, 3, 1)


@styled
def plot_face_strips(
    columns: Mapping[str, Images],
    scores: Mapping[str, Sequence[float]] | None = None,
    names: Sequence[str] | None = None,
) -> Figure:
    """A grid with one face a row and one version a column; every pixel is drawn as a sharp square.

    Args:
        columns: title → images [N, 3, H, W] in [0, 1], of any size: "VLR", "bicubic", "DSR", "HR".
        scores: title → a score per image (such as the cosine to the gallery), written beneath it.
        names: a name per row, written at its left.

    Raises ValueError for other shapes or values, and when columns, scores or names differ in number.
    """
    pixels = {title: _pixels(title, images) for title, images in columns.items()}
    counts = {title: len(images) for title, images in pixels.items()}
    counts |= {f"scores of {title}": len(part) for title, part in (scores or {}).items()}
    counts |= {} if names is None else {"names": len(names)}
    if len(set(counts.values())) != 1:
        raise ValueError(f"Expected as many images, scores and names in every column, got {counts}.")
    if stray := set(scores or {}) - set(pixels):
        raise ValueError(f"scores: expected titles of columns ({', '.join(pixels)}), got also {', '.join(sorted(stray))}.")
    count = next(iter(counts.values()))
    figure, axes = panels(count, len(pixels))
    beside = 0.1 + 0.075 * max(map(len, names or [""]))  # inches that the longest name takes
    figure.set_size_inches(1.1 * len(pixels) + beside, (1.3 if scores else 1.1) * count + 0.25)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    for column, (title, images) in enumerate(pixels.items()):
        for row, image in enumerate(images):
            axis = axes[row, column]
            # Nearest keeps VLR pixels as sharp as they are; a smoothing viewer would restore faces on its own.
            axis.imshow(image, vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if scores and title in scores:
                axis.set_xlabel(f"{scores[title][row]:.2f}", labelpad=2)
        axes[0, column].set_title(title, loc="center")
    for row, name in enumerate(names or ()):
        axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=6)
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
    texts = ["\n".join(part for line in caption.splitlines() for part in wrap(line, int(22.5 * widest))) for caption in captions]
    lines = max(text.count("\n") + 1 for text in texts)
    rows = -(-len(faces) // columns)
    figure, axes = panels(rows, columns, width=1.25 * widest, height=1.25 + 0.12 * lines)
    for axis, face, text in zip(hide_unused(axes, len(faces)), faces, texts, strict=True):
        axis.imshow(face, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.set_xlabel(text, fontsize=6, labelpad=2)
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
