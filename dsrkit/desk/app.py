"""The desk: what is chosen, what follows from it, and what to do when it cannot be.

Every action goes through ``Desk.guarded``: an expected error becomes a line on the desk, which stays as it was. What takes long,
embedding every face, is done beside it (``Actions.later``).
"""

from __future__ import annotations

import os
from functools import partial
from html import escape

import ipywidgets as widgets
import numpy as np
from ipywidgets import Layout
from jaxtyping import UInt8

from dsrkit.desk.actions import Actions
from dsrkit.desk.controls import Controls, OwnPhoto, TestFaces
from dsrkit.desk.embeddings import Report
from dsrkit.desk.export import failures_to_export, save_view
from dsrkit.desk.looks import Look, look_at_photo, look_at_probes
from dsrkit.desk.panes import Curves, FaceView, Failures, Message
from dsrkit.desk.photos import as_probe, read_photo
from dsrkit.desk.settings import Explore, evaluation_of
from dsrkit.desk.state import DeskState, Judged
from dsrkit.runs import Run, is_interactive

FACES, PHOTO, FAILURES = range(3)  # the tabs
TABS = 576  # their width in pixels: with the curves at their right they fit into JupyterLab in a window of 1100


def is_served() -> bool:
    """True where somebody can press a button: in JupyterLab or Voila. False under papermill and nbconvert."""
    return is_interactive() or os.environ.get("SERVER_SOFTWARE", "").startswith("voila")


class Desk:
    """One or several runs to look at; ``desk.widget`` is what a notebook shows.

    A run, a photo or a file that cannot serve leaves a line on the desk, and what was there before.

    Args:
        in_background: open runs and embed faces in a thread, while the desk shows how far it is and goes on serving. Else each
            choice is carried out when its call returns.
    """

    def __init__(self, settings: Explore, in_background: bool = False) -> None:
        self.settings, self.chance = settings, np.random.default_rng(settings.seed)
        self.states: dict[tuple[str, str], DeskState] = {}
        self.state: DeskState | None = None
        self.judged: Judged | None = None
        self.face: Look | None = None
        self.photo: Look | None = None
        self.photo_file: tuple[str, bytes | str] | None = None  # name and content or path: cropped anew when the share changes
        self.photo_hr: UInt8[np.ndarray, "112 112 3"] | None = None
        self.message, self.progress, self.controls = Message(), Message(), Controls(settings.runs)
        self.guarded = Actions(self.message, self.progress, self._show_choice, in_background)
        self.faces, self.own, self.curves = TestFaces(), OwnPhoto(), Curves()
        self.failures = Failures(partial(self.guarded, self.show_failures), partial(self.guarded, self.pick))
        self.tabs = widgets.Tab([self.faces, self.own, self.failures], titles=("Test faces", "Own photo", "Failures"))
        self.tabs.layout = Layout(flex=f"0 1 {TABS}px", min_width="0")
        side_by_side = Layout(flex_flow="row wrap", grid_gap="12px", align_items="flex-start")
        below = widgets.HBox([self.tabs, self.curves], layout=side_by_side)
        self.widget = widgets.VBox([self.controls, self.progress, self.message, below])
        self._wire()
        self.guarded(self.choose, settings.runs[0], "", "dsr", "both-lr")

    def _wire(self) -> None:
        controls, faces, own = self.controls, self.faces, self.own
        controls.run.observe(lambda _: self.guarded(self.chosen, ""), "value")
        for choice in (controls.size, controls.row, controls.gallery):
            choice.observe(lambda _: self.guarded(self.chosen, controls.size.value), "value")
        for widget, action in (
            (controls.threshold, self.move),
            (faces.number, self.show_face),
            (own.upload, self.take_upload),
            (own.path, self.take_path),
            (own.share, self.crop),
        ):
            widget.observe(lambda _, action=action: self.guarded(action), "value")
        self.tabs.observe(lambda _: self.guarded(self.show_failures), "selected_index")
        for button, action in (
            (controls.frozen, self.back_to_frozen),
            (controls.export, self.export),
            (faces.before, partial(self.turn, -1)),
            (faces.after, partial(self.turn, 1)),
            (faces.chance, self.turn),
            (own.read, self.take_path),
        ):
            button.on_click(lambda _, action=action: self.guarded(action))

    def _on_desk(self) -> tuple[DeskState, Judged]:
        if self.state is None or self.judged is None:
            raise ValueError(
                "Expected a run on the desk, got none so far. Wait for it to open, choose another run, or make its files."
            )
        return self.state, self.judged

    @property
    def threshold(self) -> float:
        return float(self.controls.threshold.value)

    # --- run, size, system and gallery

    def chosen(self, size: str) -> None:
        """What the controls say, at that VLR size; an empty one is the run's own."""
        controls = self.controls
        self.choose(controls.run.value, size, controls.row.value, controls.gallery.value)

    def choose(self, run: str, size: str, row: str, protocol: str) -> None:
        """Bring it onto the desk; what the run has not becomes its plain DSR, its first protocol."""
        self.guarded.later(lambda report: self._found(run, size, row, protocol, report), self._put)

    def _found(self, run: str, size: str, row: str, protocol: str, report: Report) -> tuple[DeskState, Judged]:
        state = self._opened(run, size, report)
        first = next(iter(state.trial.protocols))
        row, protocol = row if row in state.systems else "dsr", protocol if protocol in state.trial.protocols else first
        return state, state.judged(row, protocol, report)

    def _put(self, found: tuple[DeskState, Judged]) -> None:
        self.state, self.judged = _, judged = found
        self._show_choice()
        with self.guarded.quietly():
            self.controls.scale(judged)
        self.curves.draw(judged)
        self.failures.show([], [])
        self.show_face()
        self.show_photo()
        self.move()

    def _opened(self, run: str, size: str, report: Report) -> DeskState:
        report(f"Opening {run} …", None)
        params = evaluation_of(Run(run), self.settings)
        params = params.model_copy(update={"vlr_size": size or params.vlr_size})
        key = (run, params.vlr_size)
        if key not in self.states:
            self.states[key] = DeskState(Run(run), params)
        return self.states[key]

    def _show_choice(self) -> None:
        """Set the controls to what is on the desk."""
        if self.state is None or self.judged is None:
            return
        with self.guarded.quietly():
            self.controls.show(self.state, self.judged)
            self.faces.number.max = len(self.judged.probes)
            self.faces.of.value = f"of {len(self.judged.probes)}"

    # --- threshold

    def move(self) -> None:
        """The threshold moved: points, numbers and decisions follow; no face is restored anew."""
        _, judged = self._on_desk()
        self.curves.move(judged, self.threshold)
        self.face = self._decided(self.faces.view, self.face)
        self.photo = self._decided(self.own.view, self.photo)
        self.show_failures()

    def _decided(self, view: FaceView, look: Look | None) -> Look | None:
        if look is None:
            return None
        look = look.at(self._on_desk()[1], self.threshold)
        view.decide(look)
        return look

    def back_to_frozen(self) -> None:
        self.controls.threshold.value = self._on_desk()[1].frozen

    # --- faces of the split

    def show_face(self) -> None:
        state, judged = self._on_desk()
        self.face = look_at_probes(state, judged, [self.faces.number.value - 1], self.threshold)[0]
        self.faces.name.value = escape(self.face.name)
        self.faces.view.show(self.face)

    def turn(self, by: int = 0) -> None:
        """To another probe: ``by`` further, or 0: by chance."""
        self._on_desk()
        number, count = self.faces.number, self.faces.number.max
        number.value = (number.value - 1 + by) % count + 1 if by else int(self.chance.integers(count)) + 1

    def pick(self, probe: int) -> None:
        """Open a failure among the test faces."""
        self.tabs.selected_index = FACES
        self.faces.number.value = probe + 1

    # --- one's own photo

    def take_upload(self) -> None:
        if self.own.upload.value:
            file = self.own.upload.value[0]
            self._take(file["name"], bytes(file["content"]))

    def take_path(self) -> None:
        if self.own.path.value.strip():
            self._take(self.own.path.value.strip(), self.own.path.value.strip())

    def _take(self, name: str, file: bytes | str) -> None:
        self.photo_hr = read_photo(file, name, self.own.share.value)
        self.photo_file = (name, file)
        self.show_photo()
        self.message.say("")

    def crop(self) -> None:
        if self.photo_file:
            self._take(*self.photo_file)

    def show_photo(self) -> None:
        if self.photo_hr is None or self.photo_file is None:
            return
        state, judged = self._on_desk()
        probe = as_probe(self.photo_hr, self.photo_file[0], state.dataset, state.params.vlr_size, self.settings.seed)
        self.photo = look_at_photo(state, judged, probe, self.threshold)
        self.own.view.show(self.photo)

    # --- failures

    def show_failures(self) -> None:
        """Anew when somebody looks at them, and only when others stand on the page."""
        if self.tabs.selected_index != FAILURES:
            return
        state, judged = self._on_desk()
        page = self.failures.of_page(judged.failures(self.failures.kind.value, self.threshold))
        if page != self.failures.probes:  # an answer that leaves its kind leaves the page: the same faces have the same words
            self.failures.show(page, look_at_probes(state, judged, page, self.threshold, matches=1))

    # --- files

    def export(self) -> None:
        """The tab in front, as PNG and CSV; of failures the page as a picture, all of them as a table."""
        state, judged = self._on_desk()
        if self.tabs.selected_index == FAILURES:
            name, looks, table = failures_to_export(state, judged, self.failures, self.threshold)
        else:
            look = self.photo if self.tabs.selected_index == PHOTO else self.face
            if look is None:
                raise ValueError("Expected a photo to export, got none. Upload one first, or go to another tab.")
            name, looks, table = look.name, [look], look.table
        files = save_view(state, judged, looks, table, name)
        warning = "" if state.params.show_faces else " This data set's faces are not to be published (show_faces is off)."
        self.message.say(f"Written: {files[0]} and {files[1].name}.{warning}")
