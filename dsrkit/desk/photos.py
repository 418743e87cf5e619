"""One's own photo on the desk: read with suspicion, cropped, degraded like the run's faces."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from dsrkit.data.align import CentreCrop
from dsrkit.data.degrade import HR_SIZE, as_bytes, as_tensor, degrade, file_draws
from dsrkit.data.faces import FaceSet
from dsrkit.data.layout import degradation_of
from dsrkit.data.sources.pictures import decode


def read_photo(file: Path | str | bytes, name: str, share: float) -> UInt8[np.ndarray, "112 112 3"]:
    """An HR face from a photo: 112×112 is aligned already and taken as it is, anything else is cropped about its centre.

    Args:
        file: a path (``~`` and ``$VARIABLES`` are expanded), or the file's content.
        name: what errors call it.
        share: the crop's side as a share of the photo's shorter side.

    Raises ImageError (a ValueError) for a file that is no 8-bit RGB or grey picture of at most 64 million pixels (decided
    before a pixel is decoded), or whose crop is smaller than 112×112; rotation in EXIF is applied.
    """
    opened = io.BytesIO(file) if isinstance(file, bytes) else Path(os.path.expanduser(os.path.expandvars(file)))
    image = decode(opened, name)
    return image if image.shape[:2] == (HR_SIZE, HR_SIZE) else CentreCrop(share)(image, name)


def as_probe(hr: UInt8[np.ndarray, "112 112 3"], name: str, dataset: Path, vlr_size: str, seed: int = 0) -> FaceSet:
    """The photo as a probe of ``dataset``: made small by the degradation that made its VLR faces.

    Raises ValueError for a data set whose faces were photographed small: there is no degradation to repeat.
    """
    degraded = degrade(as_tensor(hr[None]), vlr_size, degradation_of(dataset), file_draws([name], seed))
    return FaceSet(hr[None], as_bytes(degraded), vlr_size, [name], ["own photo"], np.zeros(1, int))
