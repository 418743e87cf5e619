"""Restored training faces, made once: a packed, memory-mapped file that every epoch, resume and process reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from dsrkit.data.degrade import HR_SIZE
from dsrkit.data.faces import FaceSet
from dsrkit.models.dsr import load_dsr
from dsrkit.recognition import restore
from dsrkit.runs import atomic_path, file_hash
from dsrkit.training.setting import Setting


def restored_faces(setting: Setting, split: str, faces: FaceSet, dsr: Path | None) -> UInt8[np.ndarray, "n 112 112 3"]:
    """Faces of ``split`` as the DSR in the file ``dsr`` restores them (None: bicubic).

    The file's name holds the hashes of the DSR and of the manifest; those of an earlier DSR are removed.
    """
    folder = setting.run.folder / "cache"
    title = f"{split}-{faces.vlr_size}-{'dsr' if dsr else 'bicubic'}"
    hashes = [file_hash(file)[:16] for file in (dsr, setting.inputs["manifest"], setting.inputs["dataset"]) if file]
    path = folder / f"{'-'.join([title, *hashes])}.npy"
    if not path.exists():
        with atomic_path(path) as temporary:
            packed = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(len(faces), HR_SIZE, HR_SIZE, 3))
            restore(faces.vlr, load_dsr(dsr, setting.device) if dsr else None, into=packed)
            packed.flush()
        for old in set(folder.glob(f"{title}-*.npy")) - {path}:
            old.unlink(missing_ok=True)  # another process may have been faster
    return np.load(path, mmap_mode="r")
