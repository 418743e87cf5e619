"""HR and four VLR sizes from each image: processes against threads, and against a pass of its own for each size.

    python benchmarks/one_pass.py --faces $DSRKIT_FACES --rounds 3

All sides write the same files (checked). "threads" is how the kit did it before: the same work in a pool of threads. "a pass a
size" goes over the images once for each size, in processes too. Printed: images a second on the clock, medians over the rounds,
and processor time an image, which other programs on the machine disturb less. ``--into /dev/shm`` leaves the disk out of it.
"""

import argparse
import os
import resource
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SIZES = ("14x16", "16x16", "24x24", "32x32")


def by_processes(source, dataset: Path, workers: int) -> None:
    from dsrkit.data.migration import Migration, migrate

    migrate({"train": (source, source.faces)}, dataset, Migration(SIZES, "bicubic-antialias", 0, ()), workers=workers)


def by_passes(source, dataset: Path, workers: int) -> None:
    from dsrkit.data.migration import Migration, migrate

    for size in SIZES:
        migrate({"train": (source, source.faces)}, dataset, Migration((size,), "bicubic-antialias", 0, ()), workers=workers)


def by_threads(source, dataset: Path, workers: int) -> None:
    from dsrkit.data.onepass import Job, make
    from dsrkit.data.remaining import plan_tasks

    splits, job = {"train": (source, source.faces)}, Job(dataset, {"train": source}, "bicubic-antialias", 0)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda task: make(job, task), plan_tasks(splits, dataset, SIZES, {}, ())))


SIDES = {"threads": by_threads, "a pass a size": by_passes, "one pass": by_processes}


def processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def images_of(dataset: Path) -> dict[str, bytes]:
    return {str(path.relative_to(dataset)): path.read_bytes() for path in dataset.glob("train_processed/**/*.png")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True, help="folder of subjects, aligned faces")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--into", type=Path, help="folder to write below; the system's temporary one if left out")
    options = parser.parse_args()
    from dsrkit.data.sources import FolderSource

    source = FolderSource(options.faces)
    clock: dict[str, list[float]] = {name: [] for name in SIDES}
    used: dict[str, list[float]] = {name: [] for name in SIDES}
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory(dir=options.into) as folder:
            for name, side in SIDES.items():
                start, before = time.perf_counter(), processor_seconds()
                side(source, Path(folder) / name, options.workers)
                seconds, processor = time.perf_counter() - start, processor_seconds() - before
                clock[name].append(len(source.faces) / seconds)
                used[name].append(1e3 * processor / len(source.faces))
                print(f"round {number + 1}, {name:13}: {clock[name][-1]:5.0f} images/s, {used[name][-1]:.2f} ms each", flush=True)
            if not number:
                images = images_of(Path(folder) / "one pass")
                same = all(images_of(Path(folder) / name) == images for name in SIDES)
                print(f"files of all sides {'equal' if same else 'DIFFER'}: {len(images):,}", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            Path(folder).mkdir()
    rate, cost = ({name: statistics.median(values) for name, values in table.items()} for table in (clock, used))
    for name in SIDES:
        times = rate["one pass"] / rate[name]
        print(f"{name:13}: {rate[name]:5.0f} images/s, {cost[name]:.2f} ms of processor each; one pass is {times:.2f}× as fast")


if __name__ == "__main__":
    main()
