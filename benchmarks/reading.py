"""How fast faces are read: packed arrays (``open_split``) against PNG files read as torchvision's ``ImageFolder`` reads them.

    python benchmarks/reading.py [--faces 4000] [--large 150000] [--rounds 5] [--folder /a/disk]

Both sides give shuffled batches of 256 HR faces, their VLR faces and labels, from a warm page cache, one after the other in
each round; the ratio is that of the medians. Faces are made up: a few rendered ones, shifted, darkened and perhaps mirrored,
so that PNG files are as large as those of faces. The PNG side's workers are started before the clock is, and the better
number of them counts. The large set is written as a pack (three quarters varied faces, one quarter noise, which makes no
difference to a copy of bytes: 5.8 GB at 150,000 faces) and opened by ``open_split`` like any other. *Cold* means that the
kernel was asked to forget the file's pages (Linux only).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import to_tensor

from dsrkit.data.degrade import as_tensor
from dsrkit.data.faces import FaceSet, open_split, pack_path
from dsrkit.data.layout import dataset_hash, hr_folder, vlr_folder
from dsrkit.data.shards import read_shards, write_shards
from dsrkit.data.sources import SyntheticSource

SIZE, WORKERS, BATCH = "16x16", (0, 2), 256
PER_SUBJECT = 20
Batches = Callable[[], Iterator[Sequence]]  # an epoch: (HR, VLR, labels) of each batch


class PairedImageFolder(ImageFolder):
    """``hr/<subject>/<name>`` with its partner ``vlr/<subject>/<name>``."""

    def __getitem__(self, index: int) -> tuple:
        hr, label = super().__getitem__(index)
        vlr = self.loader(self.samples[index][0].replace("/hr/", "/vlr/"))
        return hr, self.transform(vlr), label


def made_up_faces() -> np.ndarray:
    source = SyntheticSource(16, 4)
    return np.stack(source.read(source.faces))


def varied(rendered: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """``count`` faces, each a rendered one shifted, darkened and perhaps mirrored."""
    shifts, gains = generator.integers(-4, 5, (count, 2)), generator.uniform(0.7, 1.0, count)
    chosen = rendered[generator.integers(len(rendered), size=count), :, :: generator.choice([-1, 1])]
    return np.stack(
        [(np.roll(face, shift, (0, 1)) * gain).astype(np.uint8) for face, shift, gain in zip(chosen, shifts, gains, strict=True)]
    )


def manifest_of(dataset: Path, count: int) -> pd.DataFrame:
    """Writes the tables of a training split of ``count`` faces."""
    rows = [
        {"split": "train", "subject": f"{row // PER_SUBJECT:06d}", "name": f"{row // PER_SUBJECT:06d}_{row:07d}.png"}
        for row in range(count)
    ]
    dataset.mkdir(parents=True, exist_ok=True)
    (dataset / "dataset.json").write_text(json.dumps({"degradation": "bicubic-antialias"}))
    pd.DataFrame(rows).to_csv(dataset / "manifest.csv", index=False)
    return pd.DataFrame(rows)


def write_files(folder: Path, count: int) -> tuple[Path, Path]:
    """A data set of PNG files, and the same files linked as ``ImageFolder`` wants them."""
    dataset, tree = folder / "dataset", folder / "tree"
    manifest, rendered, generator = manifest_of(dataset, count), made_up_faces(), np.random.default_rng(0)
    for subject, faces in manifest.groupby("subject"):
        for name, hr in zip(faces.name, varied(rendered, len(faces), generator), strict=True):
            image = Image.fromarray(hr)
            for part, home, picture in (
                ("hr", hr_folder(dataset, "train"), image),
                ("vlr", vlr_folder(dataset, "train", SIZE), image.resize((16, 16), Image.Resampling.BICUBIC)),
            ):
                home.mkdir(parents=True, exist_ok=True)
                picture.save(home / name, compress_level=1)
                (tree / part / str(subject)).mkdir(parents=True, exist_ok=True)
                os.link(home / name, tree / part / str(subject) / name)
    return dataset, tree


def of_files(tree: Path, transform: Callable, workers: int) -> Batches:
    loader = DataLoader(
        PairedImageFolder(tree / "hr", transform), BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    return lambda: iter(loader)


def of_pack(faces: FaceSet, convert: Callable[[np.ndarray], np.ndarray | Tensor], epochs: int) -> Batches:
    def batches() -> Iterator[Sequence]:
        for epoch in range(epochs):
            order = np.random.default_rng(epoch).permutation(len(faces))
            for rows in np.split(order, range(BATCH, len(order), BATCH)):
                yield convert(faces.hr[rows]), convert(faces.vlr[rows]), faces.labels[rows]

    return batches


def of_shards(folder: Path, workers: int) -> Batches:
    def batches() -> Iterator[Sequence]:
        for faces in DataLoader(read_shards(folder, "train", SIZE, BATCH), batch_size=None, num_workers=workers):
            yield faces.hr, faces.vlr, faces.labels

    return batches


def speed(batches: Batches) -> float:
    """Faces a second."""
    started, count = time.perf_counter(), 0
    for _, _, labels in batches():
        count += len(labels)
    return count / (time.perf_counter() - started)


def medians(sides: dict[str, Batches], rounds: int) -> dict[str, float]:
    """Each side once unmeasured (workers start, caches warm up), then by turns."""
    for batches in sides.values():
        speed(batches)
    speeds = [{side: speed(batches) for side, batches in sides.items()} for _ in range(rounds)]
    return {side: float(np.median([one[side] for one in speeds])) for side in sides}


def check_same(tree: Path, faces: FaceSet) -> None:
    """Both sides must give the same pixels and labels."""
    files = PairedImageFolder(tree / "hr", np.array)
    for row in range(0, len(faces), 97):
        hr, vlr, label = files[row]  # sorted by subject and name, as the manifest is here
        assert np.array_equal(hr, faces.hr[row]) and np.array_equal(vlr, faces.vlr[row]) and label == faces.labels[row]


def compare_files_and_pack(folder: Path, count: int, rounds: int) -> None:
    dataset, tree = write_files(folder, count)
    started = time.perf_counter()
    faces = open_split(dataset, "train", SIZE)
    packing = count / (time.perf_counter() - started)
    check_same(tree, faces)
    write_shards(dataset, folder / "shards", faces_per_shard=max(1, count // 8))
    print(f"\n{count:,} faces as PNG files (packed once, at {packing:,.0f} faces/s)\n")
    print("| what a batch is | PNG files, faces/s | packed, faces/s | ratio |\n|---|---|---|---|")
    for title, transform, convert, epochs in (
        ("uint8 arrays", np.array, np.asarray, 20),
        ("float tensors", to_tensor, as_tensor, 2),
    ):
        sides = {f"{workers} workers": of_files(tree, transform, workers) for workers in WORKERS}
        found = medians(sides | {"packed": of_pack(faces, convert, epochs)}, rounds)
        best = max(sides, key=lambda side: found[side])
        print(
            f"| {title} | {found[best]:,.0f} ({best}) | {found['packed']:,.0f} | {found['packed'] / found[best]:.1f} |",
            flush=True,
        )
    found = medians({f"{workers} workers": of_shards(folder / "shards", workers) for workers in WORKERS}, rounds)
    print("\nTar shards, uint8 arrays: " + ", ".join(f"{value:,.0f} faces/s with {side}" for side, value in found.items()))


def write_large(dataset: Path, count: int) -> None:
    manifest_of(dataset, count)
    rendered, generator = made_up_faces(), np.random.default_rng(1)
    blocks = np.concatenate([varied(rendered, 768, generator), generator.integers(0, 256, (256, 112, 112, 3), dtype=np.uint8)])
    for size, block in (("", blocks), (SIZE, blocks[:, :112:7, :112:7])):
        path = pack_path(dataset, dataset_hash(dataset)[:16], "train", size)
        path.parent.mkdir(exist_ok=True)
        pack = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, *block.shape[1:]))
        for start in range(0, count, len(block)):
            pack[start : start + len(block)] = block[: count - start]
        pack.flush()


def forget(dataset: Path) -> None:
    """Ask the kernel to drop the packs' pages: none may be mapped, all must be on disk."""
    gc.collect()
    for path in (dataset / "packed").glob("*.npy"):
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_rows(faces: FaceSet, batches: np.ndarray, ahead: bool = False) -> float:
    started = time.perf_counter()
    for rows in batches:
        if ahead:
            faces.prefetch(rows)
        faces.hr[rows], faces.vlr[rows]
    return batches.size / (time.perf_counter() - started)


def measure_random_access(folder: Path, count: int, rounds: int) -> None:
    dataset = folder / "large"
    write_large(dataset, count)
    faces, speeds = open_split(dataset, "train", SIZE), {}
    drawn = [
        np.random.default_rng(number).permutation(count)[: count // BATCH * BATCH].reshape(-1, BATCH) for number in range(rounds)
    ]
    read_rows(faces, drawn[0])  # warm
    some = max(1, len(drawn[0]) // 16)  # of the cold ones
    for rows in drawn:
        speeds.setdefault("warm, random rows", []).append(read_rows(faces, rows))
        speeds.setdefault("warm, random rows, with prefetch", []).append(read_rows(faces, rows, ahead=True))
        speeds.setdefault("warm, rows sorted in each batch", []).append(read_rows(faces, np.sort(rows, 1)))
        batch = faces.hr[rows[0]], faces.vlr[rows[0]]
        started = time.perf_counter()
        for _ in range(10):
            tensors = [as_tensor(pixels) for pixels in batch]
        speeds.setdefault("only bytes to float tensors (as_tensor)", []).append(
            10 * len(tensors[0]) / (time.perf_counter() - started)
        )
    for rows in drawn if hasattr(os, "posix_fadvise") else []:
        for title, order, ahead in (
            ("random rows", rows[:some], False),
            ("rows sorted in each batch", np.sort(rows[:some], 1), False),
            ("random rows, with prefetch", rows[:some], True),
        ):
            del faces
            forget(dataset)
            faces = open_split(dataset, "train", SIZE)
            speeds.setdefault(f"cold, {title}", []).append(read_rows(faces, order, ahead))
    size = sum(path.stat().st_size for path in (dataset / "packed").glob("*.npy")) / 1e9
    print(f"\nRandom access in {count:,} faces ({size:.1f} GB packed), HR and VLR bytes gathered into batches of {BATCH}\n")
    print("| | faces/s, median | slowest round |\n|---|---|---|")
    for title, values in speeds.items():
        print(f"| {title} | {np.median(values):,.0f} | {min(values):,.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=4000, help="faces written as PNG files")
    parser.add_argument("--large", type=int, default=150_000, help="faces of the random-access measurement; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where to write (a temporary folder in it is made and removed); default: the system's")
    options = parser.parse_args()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(
        f"{os.cpu_count()} CPU cores, load {load:.1f} before, {torch.get_num_threads()} torch threads, torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        compare_files_and_pack(Path(folder), options.faces, options.rounds)
        if options.large:
            measure_random_access(Path(folder), options.large, options.rounds)


if __name__ == "__main__":
    main()
