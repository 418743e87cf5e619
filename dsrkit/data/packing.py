"""Image files → one uint8 array [N, H, W, 3] on disk, made once and memory-mapped by every reader.

Decoding a PNG takes half a millisecond, copying a packed face a few microseconds. The file is plain ``.npy``: its pages
are read-only and belong to the kernel's cache, so all processes of a machine share one copy. Written in order to a
temporary name, flushed, then renamed: a packing that was killed leaves nothing that could be taken for whole.
"""

from __future__ import annotations

import contextlib
import errno
import math
import mmap
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from filelock import FileLock
from jaxtyping import Int, UInt8
from PIL import Image
from tqdm.auto import tqdm

from dsrkit.runs import atomic_path, is_interactive

BLOCK = 1024  # faces decoded before they are written: 40 MB of HR faces
THREADS = min(8, os.cpu_count() or 1)  # Pillow decodes outside Python's lock, opens files inside it
Shape = tuple[int, ...]
ImageFile = tuple[int, Path | BytesIO, str]  # the row it belongs to, the file, and what an error calls it


def read_pixels(file: Path | BytesIO, title: str, shape: Shape) -> UInt8[np.ndarray, "h w 3"]:
    """An image file of a data set as RGB bytes of ``shape`` (H, W, 3).

    Raises ValueError, with the file's ``title``, when it cannot be read or has another size; that is seen before decoding.
    """
    try:
        with Image.open(file) as image:
            got = (image.height, image.width, 3)
            if got == shape:
                return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{title}: expected an image of shape {shape}, got a file that cannot be read ({error}). Run stage 01 again."
        ) from error
    raise ValueError(f"{title}: expected {shape}, got {got}. Run stage 01 again.")


def packed(path: Path, shape: Shape, files: Callable[[], Iterable[ImageFile]]) -> UInt8[np.memmap, "n h w 3"]:
    """The array packed at ``path``, read-only; made from ``files`` where it is missing or damaged.

    Of several processes one packs while the others wait. Packs of another key (what follows the last ``-`` of the name)
    are of a data set that has changed since, and are removed. That is safe while somebody reads them: on Linux and macOS
    the pages of an unlinked file stay until the last reader is gone.

    Raises ValueError for a file that cannot serve, OSError when the disk is full or may not be written.
    """
    found = _opened(path, shape)
    if found is None:
        with writing(path, f"{math.prod(shape) / 1e9:.3f} GB of packed faces"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.parent / ".lock"):  # the kernel opens it when its holder dies
                found = _opened(path, shape)  # somebody may have been faster
                if found is None:
                    if path.exists():
                        warnings.warn(f"{path}: expected uint8 {shape}, got a damaged file. It is packed again.", stacklevel=4)
                    _remove_dead(path)
                    _pack(path, shape, files)
                    found = np.lib.format.open_memmap(path, mode="r")
    return found


def _opened(path: Path, shape: Shape) -> np.memmap | None:
    """The array, where there is one and it is whole."""
    if not path.exists():
        return None
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except ValueError:  # no header, or fewer bytes than it promises
        return None
    return array if array.dtype == np.uint8 and array.shape == shape else None


def read_ahead(array: np.ndarray, rows: Int[np.ndarray, " n"]) -> None:
    """Ask the kernel for ``rows`` of a packed array, all at once and without waiting; nothing to do for one in memory.

    Indexing alone waits for the disk at every face: from a cold NVMe disk this made random rows over ten times faster.
    """
    pages = getattr(array, "_mmap", None)  # the map that NumPy reads from
    if pages is not None and hasattr(pages, "madvise"):  # not on Windows
        for offset, length in spans(array, pages, rows):
            pages.madvise(mmap.MADV_WILLNEED, offset, length)


def spans(array: np.ndarray, pages: mmap.mmap, rows: Int[np.ndarray, " n"]) -> Iterator[tuple[int, int]]:
    """Where each row lies in the map: an offset of whole pages, and a length."""
    start = array.ctypes.data - np.frombuffer(pages, np.uint8).ctypes.data
    for row in rows:
        first, end = start + int(row) * array.strides[0], start + (int(row) + 1) * array.strides[0]
        offset = first // mmap.PAGESIZE * mmap.PAGESIZE
        yield offset, end - offset


def _remove_dead(path: Path) -> None:
    key = path.stem.rpartition("-")[2]
    dead = [other for other in path.parent.glob("*.npy") if other.stem.rpartition("-")[2] != key]
    for other in (*dead, *path.parent.glob(".*.tmp")):  # temporary files of packings that were killed: the lock is ours
        with contextlib.suppress(PermissionError):  # Windows keeps a file that is mapped; the next packing tries again
            other.unlink(missing_ok=True)


def _pack(path: Path, shape: Shape, files: Callable[[], Iterable[ImageFile]]) -> None:
    def read(file: ImageFile) -> tuple[int, np.ndarray]:
        return file[0], read_pixels(file[1], file[2], shape[1:])

    check_room(path.parent, math.prod(shape))
    written, row_bytes = np.zeros(shape[0], bool), math.prod(shape[1:])
    with (
        atomic_path(path) as temporary,
        open(temporary, "wb") as stream,  # a memory map would be killed by a full disk; write() answers with an error
        ThreadPoolExecutor(THREADS) as pool,
        tqdm(total=shape[0], desc=f"packing {path.stem.rpartition('-')[0]}", unit="face", disable=not is_interactive()) as bar,
    ):
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
        start = stream.tell()
        for block in _blocks(files()):
            for row, pixels in pool.map(read, block):
                stream.seek(start + row * row_bytes)
                stream.write(pixels.data)
                written[row] = True
            bar.update(len(block))
        if not written.all():
            raise ValueError(f"{path}: expected {len(written)} faces, got {written.sum()}. Run stage 01 again.")
        stream.flush()
        os.fsync(stream.fileno())  # a loss of power must not leave a whole name over half the bytes


def _blocks(files: Iterable[ImageFile]) -> Iterator[list[ImageFile]]:
    rest = iter(files)
    while block := list(islice(rest, BLOCK)):
        yield block


def check_room(folder: Path, size: int) -> None:
    """Raises OSError where a disk has fewer than ``size`` bytes free: better now than after an hour's work."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}, {free / 1e9:.3f} GB free")


@contextlib.contextmanager
def writing(path: Path, what: str) -> Iterator[None]:
    """Around writing ``what`` to ``path``: an OSError then says what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path}: expected to write {what}, got '{error.strerror}'. Make room, or put the data set where it "
            "can be written, and run again: nothing half-written stays.",
        ) from error
