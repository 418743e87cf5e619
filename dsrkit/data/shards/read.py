"""From tar shards to batches, or to packed arrays."""

from __future__ import annotations

import functools
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from dsrkit.data.degrade import HR_SIZE, parse_size
from dsrkit.data.faces import FaceSet, pack_path
from dsrkit.data.layout import canonical_size, dataset_hash, read_manifest
from dsrkit.data.packing import ImageFile, packed, read_pixels
from dsrkit.data.shards.index import ShardIndex, copy_tables, read_index, refuse_another, shard_path, splits_of, webdataset

Sample = dict[str, Any]  # webdataset's: ``__key__``, ``__url__``, and the bytes of each member by what follows the key
HR_SHAPE = (HR_SIZE, HR_SIZE, 3)


def read_shards(
    folder: Path | str,
    split: str,
    vlr_size: str,
    batch_size: int,
    *,
    epoch: int = 0,
    seed: int = 0,
    shuffle: int = 2000,
    process: int = 0,
    processes: int = 1,
) -> IterableDataset:
    """One epoch of a split as FaceSets of ``batch_size`` faces: every face exactly once, over all processes and workers.

    Iterate over it, or hand it to ``DataLoader(…, batch_size=None, num_workers=…)``. A shard is read by one worker of one
    process, so processes differ by some faces, and the last batch of each worker may be small.

    Args:
        epoch: the order of shards and faces follows from it and the ``seed`` alone, with the same workers and processes.
        shuffle: faces held, still as PNG, to draw from (about 25 kB each); 0 reads everything in the order of the files.
        process: this process, 0 … ``processes`` − 1.

    Raises FileNotFoundError without shards; ValueError when one is missing, cut off or damaged, the size is not there, or
    there are fewer shards than processes; ImportError without webdataset.
    """
    wds, folder, index = webdataset(), Path(folder), read_index(folder, split)
    if canonical_size(vlr_size) not in index.vlr_sizes:
        raise ValueError(f"{folder}: expected VLR size {vlr_size}, got {index.vlr_sizes}. Write shards that have it.")
    if not 0 <= process < processes <= len(index.shards) or batch_size < 1:
        raise ValueError(
            f"Expected a batch_size of 1 or more, and process from 0 to processes − 1, with a shard for each at least, got "
            f"batch_size {batch_size}, process {process} of {processes}, and {len(index.shards)} shards. Write smaller shards."
        )
    order = np.random.default_rng((seed, epoch)).permutation(len(index.shards)) if shuffle else range(len(index.shards))
    shuffled = [wds.shuffle(shuffle, initial=shuffle, seed=f"{seed}-{epoch}")] if shuffle else []
    return wds.DataPipeline(
        functools.partial(_of_worker, list(order)[process::processes]),
        functools.partial(_samples, folder, split, index),
        *shuffled,
        functools.partial(_batches, index, canonical_size(vlr_size), batch_size),
    )


def pack_shards(folder: Path | str, dataset: Path | str) -> None:
    """Read the shards once and pack them: ``dataset`` (``folder`` itself, or one on a fast disk) then opens with ``open_split``.

    Raises like ``read_shards``; ValueError when ``dataset`` holds another data set; OSError when the disk is full.
    """
    folder, dataset = Path(folder), Path(dataset)
    splits = splits_of(folder)
    refuse_another(dataset, folder)
    manifest, key = read_manifest(folder), dataset_hash(folder)[:16]
    for split in splits:
        index, count = read_index(folder, split), int((manifest.split == split).sum())
        for size in ([""] if index.has_hr else []) + index.vlr_sizes:
            files = functools.partial(_images, folder, split, index, f"vlr_{size}.png" if size else "hr.png", count)
            packed(pack_path(dataset, key, split, size), (count, *_shape(size)), files)
    if dataset.resolve() != folder.resolve():
        copy_tables(folder, dataset)


def _shape(vlr_size: str) -> tuple[int, int, int]:
    width, height = parse_size(vlr_size) if vlr_size else (HR_SIZE, HR_SIZE)
    return height, width, 3


def _of_worker(shards: Sequence[int]) -> Iterator[int]:
    worker = get_worker_info()
    return iter(shards[worker.id :: worker.num_workers] if worker else shards)


def _samples(folder: Path, split: str, index: ShardIndex, numbers: Iterable[int]) -> Iterator[Sample]:
    for number in numbers:
        yield from _of_shard(shard_path(folder, split, number), index.shards[number].faces)


def _of_shard(path: Path, faces: int) -> Iterator[Sample]:
    members = webdataset().tariterators
    count = 0
    try:
        with open(path, "rb") as stream:  # opened here: webdataset would take a name such as "pipe:…" for a command
            files = members.tar_file_expander([{"url": str(path), "stream": stream}])
            for sample in members.group_by_keys(files):
                yield sample
                count += 1
    except (OSError, tarfile.TarError) as error:
        raise ValueError(f"{path}: expected a tar file of {faces} faces, got a damaged one ({error}). Copy it again.") from error
    if count != faces:  # a tar file that is damaged at a header just ends there
        raise ValueError(f"{path}: expected {faces} faces, got {count}. Copy it again.")


def _batches(index: ShardIndex, vlr_size: str, batch_size: int, samples: Iterable[Sample]) -> Iterator[FaceSet]:
    labels = {subject: number for number, subject in enumerate(index.subjects)}
    rest = iter(samples)
    while batch := list(islice(rest, batch_size)):
        about = [json.loads(_member(sample, "json").getvalue()) for sample in batch]
        subjects = [one["subject"] for one in about]
        yield FaceSet(
            packed_hr=_pixels(batch, "hr.png", "") if index.has_hr else None,
            vlr=_pixels(batch, f"vlr_{vlr_size}.png", vlr_size),
            vlr_size=vlr_size,
            names=[one["name"] for one in about],
            subjects=subjects,
            labels=np.array([labels[subject] for subject in subjects]),
            roles=[one["role"] for one in about],
        )


def _pixels(batch: Sequence[Sample], member: str, vlr_size: str) -> np.ndarray:
    return np.stack([read_pixels(_member(sample, member), _title(sample, member), _shape(vlr_size)) for sample in batch])


def _images(folder: Path, split: str, index: ShardIndex, member: str, count: int) -> Iterator[ImageFile]:
    for sample in _samples(folder, split, index, range(len(index.shards))):
        row = int(sample["__key__"])
        if row >= count:
            raise ValueError(f"{_title(sample, member)}: expected a row below {count}, got {row}. Write the shards again.")
        yield row, _member(sample, member), _title(sample, member)


def _member(sample: Sample, member: str) -> BytesIO:
    if member not in sample:
        raise ValueError(f"{_title(sample, member)}: expected it in the tar file, got none. Write the shards again.")
    return BytesIO(sample[member])


def _title(sample: Sample, member: str) -> str:
    return f"{sample['__url__']}: {sample['__key__']}.{member}"
