"""HR 160×160 → 112×112: the kit's upgrade against the loop everybody writes (open, resize, save; one process, Pillow's defaults).

    python benchmarks/upgrade.py --files 20000 --rounds 3

draws 400 made-up faces at 160 pixels, makes each file of one of them and seeded noise (one level on average, as much as a
sensor's: the files then weigh what crops of LFW weigh), and lets the sides take turns. Printed: images a second on the clock,
medians over the rounds, beside the 91 of the authors' own migration; and processor time an image, which other programs on the
machine disturb less. The new files of both sides are compared, pixel by pixel.

What is killed at random instants: DSRKIT_KILLS="5000 20" pytest -s tests/test_upgrade.py -k kill_9
"""

import argparse
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

# torch is imported where it is used: worker processes import this file too
AUTHORS = 142_713 / (26 * 60)  # images a second: 142,713 images in 26 minutes
FACES = 400
HR = "train_processed/hr_images"


def draw(folder: Path) -> Path:
    """The different faces, without noise, as one array."""
    from dsrkit.data.synthetic import render_faces

    faces = render_faces([number // 4 for number in range(FACES)], [number % 4 for number in range(FACES)], size=160)
    np.save(folder / "faces.npy", faces)
    return folder / "faces.npy"


def make_files(faces: Path, folder: Path, numbers: Sequence[int]) -> None:
    """File k: face k mod 400 plus the noise of seed k, saved as Pillow saves by default."""
    drawn = np.load(faces, mmap_mode="r")
    for number in numbers:
        noise = np.random.default_rng(number).normal(0, 1, drawn.shape[1:])
        noisy = np.clip(drawn[number % FACES] + noise, 0, 255).round().astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number % FACES:03d}_01_01_051_{number:05d}_crop_160.png")


def make_tree(root: Path, files: int) -> None:
    from dsrkit.data.shrink import worker_pool

    (root / HR).mkdir(parents=True)
    faces = draw(root)
    with worker_pool(os.cpu_count() or 1) as pool:
        parts = [range(start, min(start + 250, files)) for start in range(0, files, 250)]
        list(pool.map(make_files, [faces] * len(parts), [root / HR] * len(parts), parts))


def pillow_loop(root: Path) -> None:
    (root / "resized").mkdir()
    for path in sorted((root / HR).iterdir()):
        with Image.open(path) as image:
            image.resize((112, 112), Image.Resampling.BICUBIC).save(root / "resized" / path.name)


def by_upgrade(root: Path) -> None:
    from dsrkit.data.upgrade import upgrade

    upgrade(root)


def by_upgrade_in_place(root: Path) -> None:
    from dsrkit.data.upgrade import upgrade

    upgrade(root, in_place=True)


SIDES: dict[str, Callable[[Path], None]] = {
    "Pillow loop": pillow_loop,
    "upgrade": by_upgrade,
    "upgrade in place": by_upgrade_in_place,
}


def processor_seconds() -> float:
    """Of this process and of those it started that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def measured(side: Callable[[Path], None], model: Path, root: Path) -> tuple[float, float]:
    """Seconds on the clock and of processor time, on a fresh tree of hard links (no side writes into an existing file)."""
    (root / HR).mkdir(parents=True)
    for path in (model / HR).iterdir():
        os.link(path, root / HR / path.name)
    os.sync()
    start, used = time.perf_counter(), processor_seconds()
    side(root)
    return time.perf_counter() - start, processor_seconds() - used


def same_pixels(one: Path, other: Path) -> bool:
    names = sorted(os.listdir(one))
    if names != sorted(os.listdir(other)):
        return False
    return all(np.array_equal(Image.open(one / name), Image.open(other / name)) for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    import dsrkit.data.upgrade  # noqa: F401  before the clock starts

    clock: dict[str, list[float]] = {name: [] for name in SIDES}
    used: dict[str, list[float]] = {name: [] for name in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        make_tree(model, options.files)
        weight = sum(path.stat().st_size for path in (model / HR).iterdir()) / options.files
        print(f"{options.files:,} files of {weight:,.0f} bytes on average, {os.cpu_count()} processor cores", flush=True)
        for number in range(options.rounds):
            roots = {name: Path(folder) / f"{name} {number}" for name in SIDES}
            for name, side in SIDES.items():
                seconds, processor = measured(side, model, roots[name])
                clock[name].append(options.files / seconds)
                used[name].append(1e3 * processor / options.files)
                print(f"round {number + 1}, {name:16}: {clock[name][-1]:6.0f} images/s, {used[name][-1]:.2f} ms each", flush=True)
            if not number:
                for name in ("upgrade", "upgrade in place"):
                    same = same_pixels(roots["Pillow loop"] / "resized", roots[name] / HR)
                    print(f"{name}: pixels {'equal' if same else 'DIFFER FROM'} the loop's", flush=True)
            for root in roots.values():
                shutil.rmtree(root)
    rate, cost = ({name: statistics.median(values) for name, values in table.items()} for table in (clock, used))
    for name in SIDES:
        faster, cheaper = rate[name] / rate["Pillow loop"], cost["Pillow loop"] / cost[name]
        print(
            f"{name:16}: {rate[name]:6.0f} images/s, {faster:.2f} times the loop, {rate[name] / AUTHORS:.1f} times the authors' "
            f"{AUTHORS:.0f}; {cost[name]:.2f} ms of processor time each, {cheaper:.2f} times less"
        )


if __name__ == "__main__":
    main()
