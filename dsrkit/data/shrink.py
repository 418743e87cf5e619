"""One HR face of an older, larger size → 112×112: the part of an upgrade that runs in worker processes.

Nothing but Pillow and the standard library is imported here, so that a worker starts in a tenth of a second and not in the
seconds that torch takes.

The pixels are those of ``Image.resize((112, 112), BICUBIC)``, bit for bit: Pillow's bicubic filters before it shrinks. The
time goes into PNG: Pillow's default level searches long for repeated strings, which photographs hardly have. zlib's
run-length strategy (made for PNG, says its manual) takes a third of that time and gives files of the same size.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

LARGEST = 4096  # pixels a side; a face crop is never larger, a decompression bomb is
CHUNK = 64  # files a worker takes at once: a seventh of a second
TEMPORARY = ".upgrade.tmp"
_END_OF_PNG = b"IEND\xaeB`\x82"
_RUN_LENGTHS = 3  # zlib's Z_RLE


class Look(NamedTuple):
    """What the header of an image file says; ``problem`` is empty where it can be read."""

    name: str
    width: int
    height: int
    bytes: int
    problem: str


class Outcome(NamedTuple):
    """What became of one file; ``problem`` says why nothing was written. Sizes before; 0×0 for a file that is no image."""

    name: str
    width: int
    height: int
    bytes_before: int
    bytes_after: int
    sha256_before: str
    sha256_after: str
    problem: str


class RefusedError(ValueError):
    """A file that cannot become a 112×112 face: expected, got, what to do."""


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def worker_pool(workers: int) -> Iterator[Executor]:
    """So many worker processes, or one thread for one worker; work that has not begun is dropped when the block is left.

    Processes are spawned, not forked: a notebook's kernel runs threads whose locks a fork would copy, and CUDA does not
    survive a fork.
    """
    pool = (
        ThreadPoolExecutor(1)
        if workers == 1
        else ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin_worker)
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it: a worker whose parent was killed would wait for work for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def is_png(name: str) -> bool:
    return name.lower().endswith(".png")


def look_at(folder: Path, names: Sequence[str], size: int = 0) -> list[Look]:
    """The headers of the images ``names`` in ``folder``. With a ``size``, also whether they can be shrunk to it."""
    return [_look(folder / name, size) for name in names]


def _look(path: Path, size: int) -> Look:
    width = height = weight = 0
    try:
        with open(path, "rb") as stream:
            weight = os.fstat(stream.fileno()).st_size
            image = _open(stream, path.name)
            width, height = image.size
            stream.seek(max(weight - 64, 0))
            _check_end(stream.read(), path.name)
            if size:
                _check(image, path.name, size)
                _check_upright(image, path.name)
    except RefusedError as error:
        return Look(path.name, width, height, weight, str(error))
    except OSError as error:
        return Look(path.name, width, height, weight, _unreadable(path.name, error))
    return Look(path.name, width, height, weight, "")


def shrink_all(
    source: Path, target: Path, names: Sequence[str], size: int, known: dict[str, Outcome], check_pixels: bool
) -> list[Outcome]:
    """Write the files ``names`` of ``source`` into ``target``, PNG images at ``size``×``size``, the rest as they are.

    Args:
        known: outcomes of an earlier run. A file that is still as they say, on both sides, is not made again.
        check_pixels: decode what was encoded and compare every pixel, before it is written.

    A file that cannot be read or shrunk is not written and its outcome says why. Raises OSError where the disk does not
    take a file, or does not give back what was written.
    """
    return [_shrink(source / name, target / name, size, known.get(name), check_pixels) for name in names]


def _shrink(source: Path, target: Path, size: int, known: Outcome | None, check_pixels: bool) -> Outcome:
    name = source.name
    try:
        before = source.read_bytes()
    except OSError as error:
        return Outcome(name, 0, 0, 0, 0, "", "", _unreadable(name, error))
    sha256 = _sha256(before)
    if known and known.sha256_before == sha256 and target.is_file() and _sha256(target.read_bytes()) == known.sha256_after:
        return known
    try:
        (width, height), after = shrunk(before, name, size, check_pixels) if is_png(name) else ((0, 0), before)
    except RefusedError as error:
        return Outcome(name, 0, 0, len(before), 0, sha256, "", str(error))
    write_whole(target, after, source)
    written = _sha256(after)
    if _sha256(target.read_bytes()) != written:
        raise OSError(f"{target}: expected the bytes that were written, got others. Check the disk, then run again.")
    return Outcome(name, width, height, len(before), len(after), sha256, written, "")


def shrunk(content: bytes, name: str, size: int, check_pixels: bool) -> tuple[tuple[int, int], bytes]:
    """The PNG file of a face → its width and height, and its PNG file at ``size``×``size``: the same where that is its size.

    Raises RefusedError where it cannot be read or shrunk.
    """
    image = _open(io.BytesIO(content), name)
    _check_end(content[-64:], name)
    _check(image, name, size)  # before the pixels, which may be a bomb
    try:
        image.load()
    except Exception as error:  # whatever damaged bytes make Pillow raise: the file is named, the others go on
        raise RefusedError(_unreadable(name, error)) from error
    _check_upright(image, name)  # after them: PNG may say it at the end
    if image.width == size:
        return image.size, content
    small = image.resize((size, size), Image.Resampling.BICUBIC)
    after = encode(small)
    if check_pixels and Image.open(io.BytesIO(after)).tobytes() != small.tobytes():
        raise OSError(f"{name}: expected the PNG file to hold the pixels given, got others. Check Pillow and the memory.")
    return image.size, after


def encode(image: Image.Image) -> bytes:
    """An image as a PNG file, fast."""
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1, compress_type=_RUN_LENGTHS)
    return stream.getvalue()


def write_whole(path: Path, content: bytes, like: Path) -> None:
    """Write to a temporary name and rename: a kill or a full disk leaves the whole file or none. Permissions as ``like`` has."""
    temporary = path.with_name(f".{os.getpid()}{TEMPORARY}")
    try:
        temporary.write_bytes(content)
        shutil.copymode(like, temporary)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _open(stream: IO[bytes], name: str) -> ImageFile.ImageFile:
    try:
        return Image.open(stream, formats=["PNG"])
    except Exception as error:  # as above
        raise RefusedError(_unreadable(name, error)) from error


def _check_end(tail: bytes, name: str) -> None:
    if _END_OF_PNG not in tail:
        raise RefusedError(f"{name}: expected a whole PNG file, got one without an end, cut off. Replace it.")


def _check(image: ImageFile.ImageFile, name: str, size: int) -> None:
    """Only what resizes without a loss of meaning: Pillow takes the nearest pixel in palette images, without a word."""
    width, height = image.size
    depth = "16 bits" if any("16" in str(tile.args) for tile in image.tile) else image.mode
    if depth not in {"RGB", "L"}:
        raise RefusedError(f"{name}: expected 8-bit RGB or grey, got {depth}. Convert it.")
    if width != height:
        raise RefusedError(f"{name}: expected a square face, got {width}x{height}. Align and crop it.")
    if width < size:
        raise RefusedError(f"{name}: expected at least {size}x{size}, got {width}x{height}; faces are never enlarged. Remove it.")
    if width > LARGEST:
        raise RefusedError(f"{name}: expected at most {LARGEST}x{LARGEST}, got {width}x{height}. Crop the face.")


def _check_upright(image: Image.Image, name: str) -> None:
    if image.info and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        raise RefusedError(f"{name}: expected an upright image, got one that EXIF says is turned. Turn its pixels.")


def _unreadable(name: str, error: Exception) -> str:
    reason = "it does not begin as a PNG does" if isinstance(error, UnidentifiedImageError) else error
    return f"{name}: expected a PNG image, got a file that cannot be read ({reason}). Replace it."


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
