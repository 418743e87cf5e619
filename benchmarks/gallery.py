"""Searching galleries of 10⁴ to 10⁷ faces: exact by torch, exact by FAISS, and through each index, by turns in one process run.

    OMP_NUM_THREADS=1 python benchmarks/gallery.py --into FOLDER --results docs/results/benchmarks/gallery.json --figure cost.png

Embeddings are made up to behave like real ones: subjects with four faces each, cosine .6 between faces of one subject and, as
EdgeFace has it on CelebA, a standard deviation of .083 between subjects (variances that fall by exp(−i / 73)). Probes are further
faces of enrolled subjects; strangers are asked too. The effort of each index is chosen on other probes: the least that reaches
recall@1 of .995. Times are processor time, so that other programs on the machine count little. 10⁷ is computed from the slope
between the two largest sizes. Galleries in --into are kept, and used again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dsrkit.gallery import Gallery
from dsrkit.gallery.index import default_settings, faiss_module
from dsrkit.gallery.recall import recall
from dsrkit.plots.style import COLUMN, in_style, look
from dsrkit.runs import atomic_path

WIDTH, PER_SUBJECT, K, TARGET = 512, 4, 10, 0.995
MODELS = {"edgeface": "made up", "dsr": "none"}
SCALE = np.exp(-np.arange(WIDTH) / 146).astype(np.float32)
HNSW_ROWS = 100_000  # beyond, the graph takes longer to build than all the rest


def draw(rng: np.random.Generator, rows: int) -> np.ndarray:
    drawn = rng.standard_normal((rows, WIDTH), dtype=np.float32) * SCALE
    return drawn / np.sqrt((SCALE**2).sum())


def faces_of(rng: np.random.Generator, centres: np.ndarray) -> np.ndarray:
    """A face of each subject; two of one subject have a cosine of .6 = 1 / (1 + .816²)."""
    return centres + 0.816 * draw(rng, len(centres))


def made_up(folder: Path, faces: int, at_once: int = 120_000) -> Path:
    """A gallery in ``folder``, with probes of every hundredth subject and strangers beside it."""
    path = folder / f"{faces}.gallery"
    if (folder / f"{faces}.npz").exists():
        return path
    rng, probes = np.random.default_rng(faces), []
    gallery = Gallery.create(path, MODELS, WIDTH)
    for start in range(0, faces, at_once):
        centres = draw(rng, min(at_once, faces - start) // PER_SUBJECT)
        probes.append(faces_of(rng, centres[: max(1500 * len(centres) * PER_SUBJECT // faces + 1, 1)]))
        names = [f"s{(start + row) // PER_SUBJECT}" for row in range(len(centres) * PER_SUBJECT)]
        gallery.enroll(faces_of(rng, np.repeat(centres, PER_SUBJECT, axis=0)), names)
    every = np.concatenate(probes)
    np.savez(folder / f"{faces}.npz", probes=every[rng.permutation(len(every))], strangers=faces_of(rng, draw(rng, 200)))
    return path


def faiss_flat(gallery: Gallery, probes: np.ndarray) -> np.ndarray:
    """The same exact search by FAISS's flat index, block by block."""
    faiss = faiss_module()
    best = faiss.ResultHeap(len(probes), K, keep_max=True)
    for start, block, _ in gallery._state.blocks():
        scores, rows = faiss.knn(probes, block, K, metric=faiss.METRIC_INNER_PRODUCT)
        best.add_result(scores, rows + start)
    best.finalize()
    return best.I


def timed(search: Callable[[], np.ndarray]) -> tuple[float, float, np.ndarray]:
    clock, processor = time.perf_counter(), time.process_time()
    found = search()
    return time.process_time() - processor, time.perf_counter() - clock, found


def choose_effort(gallery: Gallery, probes: np.ndarray) -> dict[str, int]:
    """The least effort and shortlist that reach the recall wanted."""
    about, exact = gallery.index, gallery.search(probes, 1).rows
    cells, listed = about.settings.get("nlist", 0), about.settings["shortlist"]
    efforts = {"pq": [1], "ivf": [cells * part // 16 for part in (4, 8, 10, 11, 12, 13, 14, 16)], "hnsw": [128, 256, 512, 1024]}
    tried = [{"effort": effort, "shortlist": listed} for effort in efforts[about.kind]]
    tried += [{"effort": efforts[about.kind][-1], "shortlist": listed * more} for more in (2, 4, 8)]
    for asked in tried:
        reached = recall(exact, gallery.search(probes, 1, approximate=True, **asked).rows)
        print(f"    {about.kind} {asked}: recall@1 {reached:.4f}", flush=True)
        if reached >= TARGET:
            break
    return asked


def measure(folder: Path, faces: int, kinds: list[str], asked: int, rounds: int) -> list[dict[str, object]]:
    """Rows of the table for one size."""
    path, given = made_up(folder, faces), np.load(folder / f"{faces}.npz")
    probes, tuning, strangers = given["probes"][:asked], given["probes"][-400:], given["strangers"]
    probes = probes / np.linalg.norm(probes, axis=1, keepdims=True)
    gallery, about, efforts, built = Gallery.open(path, MODELS), {}, {}, {}
    sides: dict[str, Callable[[], np.ndarray]] = {
        "exact, torch": lambda: gallery.search(probes, K).rows,
        "exact, FAISS flat": lambda: faiss_flat(gallery, probes),
    }
    for kind in kinds:
        if kind == "hnsw" and faces > HNSW_ROWS:
            continue
        started = time.process_time()
        gallery.build_index(kind)
        built[kind] = time.process_time() - started
        indexed = Gallery.open(path, MODELS)  # keeps this index when the next one replaces it
        about[kind], efforts[kind] = indexed, choose_effort(indexed, tuning)
        sides[kind] = lambda kind=kind: about[kind].search(probes, K, approximate=True, **efforts[kind]).rows
    runs = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            runs[name].append(timed(side))
    exact, rows = runs["exact, torch"][0][2], []
    stranger_rows = gallery.search(strangers, 1).rows
    for name, several in runs.items():
        row: dict[str, object] = {
            "faces": faces, "search": name, "probes": len(probes), "seconds": statistics.median(run[0] for run in several),
            "clock_seconds": statistics.median(run[1] for run in several),
            "recall@1": recall(exact[:, :1], several[0][2][:, :1]), "recall@10": recall(exact, several[0][2]),
        }  # fmt: skip
        if name in about:
            found = about[name].search(strangers, 1, approximate=True, **efforts[name]).rows
            row |= {"recall@1_strangers": recall(stranger_rows, found), "build_seconds": built[name]}
            row |= {"index_mb": about[name].index.part.bytes / 1e6, **about[name].index.settings, **efforts[name]}
        rows.append(row)
    best = min(float(row["seconds"]) for row in rows if str(row["search"]).startswith("exact"))
    for row in rows:
        row["times_exact"] = float(rows[0]["seconds"]) / float(row["seconds"])
        row["times_fastest_exact"] = best / float(row["seconds"])
        print(f"  {faces:>9,} {row['search']:18} {row['seconds']:8.3f} s, recall@1 {row['recall@1']:.4f}", flush=True)
    return rows


def computed(table: pd.DataFrame, faces: int) -> list[dict[str, object]]:
    """Seconds at another size, on the line through the two largest in a doubly logarithmic plot."""
    rows = []
    for name, several in table.groupby("search"):
        two = several.sort_values("faces").tail(2)
        if len(two) < 2 or two.faces.max() < table.faces.max():
            continue
        (one, other), (first, second) = two.faces, two.seconds
        slope = np.log(second / first) / np.log(other / one)
        rows.append(
            {"faces": faces, "search": name, "seconds": second * (faces / other) ** slope, "slope": slope, "computed": True}
        )
    return rows


def peak_memory(folder: Path, faces: int) -> dict[str, float]:
    """Open a gallery and search it exactly, in a process of its own; gigabytes and seconds."""
    words = [sys.executable, __file__, "--into", str(folder), "--peak", str(faces)]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def resident_peak() -> float:
    """The most memory this process has had resident, pages of mapped files too, in GB (Linux; ru_maxrss tells the parent's)."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024 / 1e9


def ask_once(folder: Path, faces: int) -> None:
    """What ``peak_memory`` runs."""
    probes = np.load(folder / f"{faces}.npz")["probes"][:1000]
    before = resident_peak()
    opening, _, gallery = timed(lambda: Gallery.open(folder / f"{faces}.gallery", MODELS))
    opened = resident_peak()
    seconds, clock, _ = timed(lambda: gallery.search(probes, K))
    peak = resident_peak()
    told = {"imported_gb": before, "opened_gb": opened, "peak_gb": peak, "open_seconds": opening, "seconds": seconds}
    print(json.dumps(told | {"clock_seconds": clock, "faces": faces}))


def draw_cost(table: pd.DataFrame, path: Path) -> None:
    import matplotlib.pyplot as plt

    with in_style():
        figure, axis = plt.subplots(figsize=(COLUMN, 2.6), layout="constrained")
        for number, (name, rows) in enumerate(table.groupby("search", sort=False)):
            measured, style = rows[rows.computed.isna()], look(number)
            axis.plot(measured.faces, measured.seconds, label=name, **style)
            beyond = rows[~rows.computed.isna()]
            if len(beyond):
                line = pd.concat([measured.tail(1), beyond])
                axis.plot(line.faces, line.seconds, color=style["color"], linestyle=":", linewidth=0.8)
                axis.plot(beyond.faces, beyond.seconds, style["marker"], color=style["color"], markerfacecolor="white")
        axis.set(xscale="log", yscale="log", xlabel="faces in the gallery", ylabel="processor seconds for 1,000 probes")
        axis.set_title("Open marks: computed from the slope")
        axis.legend()
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, required=True, help="folder for the galleries: 2.1 GB for a million faces")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--kinds", nargs="+", default=["pq", "ivf", "hnsw"])
    parser.add_argument("--probes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, help="write the numbers here, as JSON")
    parser.add_argument("--figure", type=Path, help="write the plot here, as PNG")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        return ask_once(options.into, options.peak)
    options.into.mkdir(parents=True, exist_ok=True)
    rows = [row for faces in options.sizes for row in measure(options.into, faces, options.kinds, options.probes, options.rounds)]
    table = pd.DataFrame(rows)
    table = pd.concat([table.assign(computed=None), pd.DataFrame(computed(table, 10_000_000))], ignore_index=True)
    memory = peak_memory(options.into, max(options.sizes))
    about = {
        "date": date.today().isoformat(), "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "faiss": faiss_module().__version__,
        "defaults": {kind: default_settings(kind, max(options.sizes), WIDTH) for kind in options.kinds},
    }  # fmt: skip
    print(table.drop(columns=["computed"]).to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep="–"))
    print(f"memory: {memory}")
    if options.results:
        with atomic_path(options.results) as temporary:
            plain = json.loads(table.to_json(orient="records"))
            rows = [{name: value for name, value in row.items() if value is not None} for row in plain]
            temporary.write_text(json.dumps({"about": about, "memory": memory, "rows": rows}, indent=1) + "\n")
    if options.figure:
        draw_cost(table, options.figure)


if __name__ == "__main__":
    main()
