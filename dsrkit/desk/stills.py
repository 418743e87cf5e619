"""The desk without anybody at it: the same view drawn once, for papermill, nbconvert and the page that is shared."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from dsrkit.desk.looks import look_at_probes
from dsrkit.desk.settings import Explore, evaluation_of
from dsrkit.desk.state import DeskState, Judged
from dsrkit.desk.views import still_curves, strips, summary, title_of
from dsrkit.runs import Run

ROW = "dsr"
WORST = 3  # failures of each kind


def stills(settings: Explore) -> Iterator[str | Figure]:
    """Text (Markdown) and figures, in the order in which to show them: for each run its plain DSR under its first
    protocol, at the frozen threshold.

    Faces are drawn by seed; none are drawn for a run whose ``show_faces`` is off.
    Raises FileNotFoundError or ValueError for a run that cannot be evaluated.
    """
    for name in settings.runs:
        run = Run(name)
        state = DeskState(run, evaluation_of(run, settings))
        judged = state.judged(ROW, next(iter(state.trial.protocols)))
        yield f"### {title_of(state, judged, judged.frozen)}\n\n{summary(judged, judged.frozen)}."
        yield from still_curves(judged, judged.frozen)
        if not state.params.show_faces:
            yield "Faces are not shown: this data set does not allow it (`show_faces` is off)."
            continue
        yield from _faces(state, judged, settings)


def _faces(state: DeskState, judged: Judged, settings: Explore) -> Iterator[str | Figure]:
    look = partial(look_at_probes, state, judged, threshold=judged.frozen)
    count = len(judged.probes)
    drawn = np.random.default_rng(settings.seed).choice(count, min(settings.faces, count), replace=False)
    yield f"Probes drawn by seed {settings.seed}, their versions and the nearest enrolled faces:"
    yield strips(look(probes=np.sort(drawn).tolist()))
    for kind in ("false accepts", "false rejects"):
        worst = judged.failures(kind, judged.frozen)
        yield f"{len(worst)} {kind}" + (f"; those with the highest scores, at most {WORST}:" if len(worst) else ".")
        if len(worst):
            yield strips(look(probes=worst[:WORST].tolist()))
