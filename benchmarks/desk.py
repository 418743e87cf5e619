"""How long the desk takes to follow the threshold, beside drawing the curves anew: ``python benchmarks/desk.py RUN [ROW]``.

Both ways in one process, in turn; medians, and their ratio. What is counted is the work in the kernel until all messages to
the browser are made, with a face, the numbers and both points on the desk.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from dsrkit.desk import Desk, Explore
from dsrkit.desk.app import FACES, FAILURES

TURNS = 25


def milliseconds(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - start)


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
    ratio = np.median(times["curves anew"]) / np.median(times["threshold"])
    print(f"moving the points takes 1/{ratio:.0f} of drawing the curves anew")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("Expected a run: python benchmarks/desk.py RUN [ROW]")
    main(*sys.argv[1:])
