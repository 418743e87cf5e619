"""How long the desk takes to follow the threshold, beside drawing the curves anew: ``python benchmarks/desk.py [RUN [ROW]]``.

Both ways in one process, in turn; medians, and their ratio. What is counted is the work in the kernel until all messages to
the browser are made, with a face, the numbers and both points on the desk. Without a run: one of made-up faces and an untrained
DSR, in a folder that is removed afterwards. Last, the same at LFW's size: its results repeated up to as many probes and pairs.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from dsrkit import runs
from dsrkit.desk import Desk, Explore
from dsrkit.desk.app import FACES, FAILURES
from dsrkit.desk.state import Judged

TURNS = 25
LFW_PROBES, LFW_PAIRS = 7701, 6000


def milliseconds(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - start)


def repeated(judged: Judged, probes: int, pairs: int) -> Judged:
    """The same results, of as many probes and pairs."""
    of = np.resize(np.arange(len(judged.probes)), probes)
    identified = judged.identified | {key: judged.identified[key][of] for key in ("rank", "top_score")}
    verified = {key: np.resize(judged.verified[key], pairs) for key in ("scores", "same")}
    return replace(judged, probes=judged.probes[of], identified=identified, verified=judged.verified | verified)


def made_up() -> None:
    """Measure on a run that is made for it."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from desk_run import make_run

    with tempfile.TemporaryDirectory() as folder:
        runs.ROOT = Path(folder)
        main(make_run(runs.ROOT, "made-up").name)


def main(run: str, row: str = "dsr") -> None:
    opening = time.perf_counter()
    desk = Desk(Explore(runs=[run], seed=0, device="cpu", limit=0, faces=1))
    desk.controls.row.value = row
    assert desk.state is not None and desk.judged is not None, desk.message.value
    judged, slider = desk.judged, desk.controls.threshold
    print(f"{run}, {row}: {len(judged.probes)} probes, {len(judged.gallery)} enrolled, {len(judged.verified['same'])} pairs")
    print(f"opened in {time.perf_counter() - opening:.1f} s")
    times: dict[str, list[float]] = {name: [] for name in ("threshold", "curves anew", "next face", "threshold, failures seen")}
    for threshold in np.random.default_rng(0).uniform(slider.min, slider.max, TURNS):
        desk.tabs.selected_index = FACES
        times["threshold"].append(milliseconds(lambda value=threshold: setattr(slider, "value", value)))
        times["curves anew"].append(milliseconds(lambda: desk.curves.draw(judged)))
        times["next face"].append(milliseconds(lambda: desk.turn(1)))
        desk.tabs.selected_index = FAILURES
        times["threshold, failures seen"].append(milliseconds(lambda value=threshold: setattr(slider, "value", value + 0.01)))
    for name, taken in times.items():
        print(f"{name:26s} median {np.median(taken):7.1f} ms, worst {max(taken):7.1f} ms")
    desk.tabs.selected_index, desk.judged = FACES, repeated(judged, LFW_PROBES, LFW_PAIRS)
    taken = [milliseconds(lambda value=value: setattr(slider, "value", value)) for value in np.linspace(0.2, 0.8, TURNS)]
    print(f"{'threshold at LFW size':26s} median {np.median(taken):7.1f} ms, worst {max(taken):7.1f} ms")
    ratio = np.median(times["curves anew"]) / np.median(times["threshold"])
    print(f"moving the points takes 1/{ratio:.0f} of drawing the curves anew")


if __name__ == "__main__":
    if len(sys.argv) > 3:
        sys.exit("Expected a run or none: python benchmarks/desk.py [RUN [ROW]]")
    if len(sys.argv) > 1:
        main(*sys.argv[1:])
    else:
        made_up()
