"""One pass over the faces: each image is read once and written as HR and as every VLR size, in parallel processes.

What is written depends on the face alone, never on the chunk or the process that had it, so any number of workers makes
the same files. Processes, not threads: reading, shrinking and compressing small pictures is mostly Python.

Native faces, of a camera's own low resolution, have no HR side: only VLR files are written, each resampled to the size asked for
(Pillow's bicubic), since networks take one size; the manifest tells the size that the camera gave.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from tqdm.auto import tqdm

from dsrkit.data.checks import quality_flags
from dsrkit.data.degrade import HR_SIZE, as_bytes, as_tensor, degrade, file_draws, parse_size
from dsrkit.data.duplicates import difference_hash
from dsrkit.data.layout import hr_folder, set_aside_picture, vlr_folder
from dsrkit.data.sources import Face, ImageError, Source
from dsrkit.data.sources.files import file_within
from dsrkit.data.sources.pictures import decode
from dsrkit.data.workers import in_order, worker_pool
from dsrkit.runs import atomic_path, is_interactive

CHUNK = 32
WORTH_A_PROCESS = 500  # faces; a process starts in seconds (it imports torch), in which one alone makes as many
SECONDS_A_LINE = 30
NATIVE = "native"  # in the place of a degradation's name: the camera's own low resolution

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What every process must know."""

    dataset: Path
    sources: Mapping[str, Source]  # by split
    degradation: str
    seed: int


@dataclass(frozen=True)
class Task:
    """A few faces of one split, and what is still to be written of them."""

    split: str
    faces: tuple[Face, ...]
    vlr_sizes: tuple[str, ...]
    hr_is_there: bool  # only VLR sizes are missing


def make(job: Job, task: Task) -> list[Row]:
    """Write a task's faces; a row for each: what was written, or the reason why nothing could be."""
    source = job.sources[task.split]
    from_hr = task.hr_is_there and not source.native  # a native VLR face is made from the camera's image, not from HR
    images = [_read_hr(job.dataset, task.split, face) for face in task.faces] if from_hr else source.read(task.faces)
    rows, kept = [], []
    for face, image in zip(task.faces, images, strict=True):
        refused = isinstance(image, ImageError)
        rows.append({"split": task.split, "subject": face.subject, "name": face.name, "role": face.role})
        rows[-1] |= {"origin": _relative_origin(source, face), "reason": str(image) if refused else ""}
        if refused:
            _show_refused(job, task.split, source, face)
        else:
            kept.append((rows[-1], face, image))
    if kept:
        _write(job, task, *zip(*kept, strict=True))
    return rows


def _write(job: Job, task: Task, rows: Sequence[Row], faces: Sequence[Face], images: Sequence[np.ndarray]) -> None:
    native, names = job.sources[task.split].native, [face.name for face in faces]
    looked_at = _resized(images, HR_SIZE, HR_SIZE) if native else np.stack(images)
    if not (native or task.hr_is_there):
        _save_all(hr_folder(job.dataset, task.split), names, looked_at)
    for size in task.vlr_sizes:
        if native:
            vlr = _resized(images, *parse_size(size))  # networks take one size; nothing else is done to it
        else:
            vlr = as_bytes(degrade(as_tensor(looked_at), size, job.degradation, file_draws(names, job.seed)))
        _save_all(vlr_folder(job.dataset, task.split, size), names, vlr)
    flags, hashes = quality_flags(looked_at), difference_hash(looked_at)
    for row, face, image, flag, bits in zip(rows, faces, images, flags, hashes, strict=True):
        width, height = _size_of(face, image)
        digest = hashlib.sha256(image.tobytes()).hexdigest()  # of pixels: whichever zlib wrote the file
        row |= {"width": width, "height": height, "vlr_sizes": " ".join(task.vlr_sizes), "sha256": digest}
        row |= {"degradation": NATIVE if native else job.degradation, "flags": flag, "hash": bits.tobytes().hex()}


def _read_hr(dataset: Path, split: str, face: Face) -> UInt8[np.ndarray, "112 112 3"]:
    file = hr_folder(dataset, split) / face.name
    try:
        return decode(file, face.name)
    except ImageError as error:
        raise ValueError(f"{file}: {error} Remove that file and run again: it is then made again from the source.") from error


def _relative_origin(source: Source, face: Face) -> str:
    """Where a face came from, below the source's root: no path of this machine."""
    root = getattr(source, "root", "") or os.path.dirname(getattr(source, "path", ""))
    return face.origin.removeprefix(f"{root}{os.sep}") if root else face.origin


def _size_of(face: Face, image: np.ndarray) -> tuple[int, int]:
    """Width and height in the source, before alignment; faces of packs and made-up ones are as they are read."""
    if os.path.isfile(face.origin):
        with Image.open(face.origin) as original:
            return original.size
    return image.shape[1], image.shape[0]


def _show_refused(job: Job, split: str, source: Source, face: Face) -> None:
    """Keep a small picture of a file that was refused for its size or shape; a file that is no picture has none."""
    try:
        image = decode(file_within(getattr(source, "root", ""), face.origin, face.name), face.name)
    except ImageError:
        return
    small = Image.fromarray(image)
    small.thumbnail((HR_SIZE, HR_SIZE))
    with atomic_path(set_aside_picture(job.dataset, split, face.name)) as temporary:
        small.save(temporary, format="PNG")


def _resized(images: Iterable[np.ndarray], width: int, height: int) -> UInt8[np.ndarray, "n h w 3"]:
    how = Image.Resampling.BICUBIC  # Pillow's: antialiased where it shrinks
    return np.stack([np.asarray(Image.fromarray(image).resize((width, height), how)) for image in images])


def _save_all(folder: Path, names: Sequence[str], images: np.ndarray) -> None:
    for name, image in zip(names, images, strict=True):
        with atomic_path(folder / name) as temporary:
            # run-length matching: faster than zlib's default and a little smaller, on photos
            Image.fromarray(image).save(temporary, format="PNG", compress_type=zlib.Z_RLE)


def run(job: Job, tasks: Sequence[Task], workers: int) -> Iterator[list[Row]]:
    """The rows of every task, in the order of the tasks, made by ``workers`` processes (few faces: by this one).

    Raises OSError as the file system does, and RuntimeError where a process was killed.
    """
    processes = min(workers, sum(len(task.faces) for task in tasks) // WORTH_A_PROCESS)
    if processes < 2:
        yield from (make(job, task) for task in tasks)
        return
    # by a file: a process that dies at its start leaves its parent waiting to hand over what is larger than a pipe
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder) / "job.pickle").write_bytes(pickle.dumps(job))
        with worker_pool(processes, _keep, file) as pool:
            yield from in_order(pool, _make_there, tasks, 4 * processes)


_JOB: list[Job] = []  # of this process, read once: a source lists all its faces


def _keep(file: Path) -> None:
    torch.set_num_threads(1)  # the processes share the cores already
    _JOB[:] = [pickle.loads(file.read_bytes())]


def _make_there(task: Task) -> list[Row]:
    return make(_JOB[0], task)


def with_progress(chunks: Iterable[list[Row]], total: int) -> Iterator[list[Row]]:
    """The same chunks; meanwhile a bar with images/s and the time left, or a line now and then where nobody watches."""
    began = told = time.monotonic()
    done = 0
    with tqdm(total=total, unit=" images", disable=not is_interactive()) as bar:
        for rows in chunks:
            yield rows
            done += len(rows)
            bar.update(len(rows))
            now = time.monotonic()
            if bar.disable and done < total and now - told > SECONDS_A_LINE:
                rate, told = done / (now - began), now
                print(f"{done:,} of {total:,} images, {rate:,.0f} images/s, {(total - done) / rate:,.0f} s left", flush=True)
    if bar.disable:
        seconds = time.monotonic() - began
        print(f"{done:,} images in {seconds:,.1f} s, {done / seconds:,.0f} images/s", flush=True)
