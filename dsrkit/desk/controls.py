"""What one can press, turn and fill in: plain widgets with names, in the order in which Tab visits them."""

from __future__ import annotations

import ipywidgets as widgets
from ipywidgets import Layout

from dsrkit.desk.panes import FaceView
from dsrkit.desk.state import DeskState, Judged
from dsrkit.evaluation.headline import row_label

CENTRE_SHARE = 0.52  # suits LFW's photos; see ``dsrkit.data.align.CentreCrop``
_WRAP = Layout(flex_flow="row wrap", grid_gap="4px 16px", align_items="center")


def _dropdown(name: str, flex: str, **more: object) -> widgets.Dropdown:
    layout = Layout(flex=flex, width="auto", max_width="360px")
    return widgets.Dropdown(description=name, layout=layout, style={"description_width": "initial"}, **more)


def _button(name: str, tooltip: str) -> widgets.Button:
    return widgets.Button(description=name, tooltip=tooltip, layout=Layout(width="auto"))


class Controls(widgets.VBox):
    """Run, size, model row, gallery, threshold, export."""

    def __init__(self, runs: list[str]) -> None:
        self.run = _dropdown("Run", "0 1 150px", options=runs)
        self.size = _dropdown("VLR size", "0 1 130px")
        self.row = _dropdown("System", "1 1 250px")
        self.gallery = _dropdown("Gallery", "1 1 280px")
        self.threshold = widgets.FloatSlider(
            description="Threshold (cosine)", min=0, max=1, step=0.001, readout_format=".3f",
            style={"description_width": "initial"}, layout=Layout(flex="1 1 380px", width="auto", max_width="560px"),
        )  # fmt: skip
        self.frozen = _button("back to the frozen threshold", "The one chosen on validation subjects")
        self.export = _button("export this view (PNG, CSV)", "Writes into outputs/<run>/desk/")
        first = widgets.HBox([self.run, self.size, self.row, self.gallery], layout=_WRAP)
        super().__init__([first, widgets.HBox([self.threshold, self.frozen, self.export], layout=_WRAP)])

    def show(self, state: DeskState, judged: Judged) -> None:
        """Set the choices to what is on the desk."""
        self.run.value = state.run.name
        self.size.options, self.size.value = state.sizes, state.params.vlr_size
        self.row.options = [(row_label(row), row) for row in state.rows]
        self.gallery.options = list(state.galleries.items())
        self.row.value, self.gallery.value = judged.system.row, judged.protocol

    def scale(self, judged: Judged) -> None:
        """Set the slider to the range of a system's scores, and to its frozen threshold."""
        self.threshold.min, self.threshold.max = judged.lowest, max(1.0, judged.frozen)
        self.threshold.value = judged.frozen
        self.frozen.description = f"back to the frozen threshold {judged.frozen:.3f}"


class TestFaces(widgets.VBox):
    """Turns the pages of the split's probes, one at a time."""

    __test__ = False  # no test, though pytest might think so

    def __init__(self) -> None:
        self.number = widgets.BoundedIntText(
            description="Probe", min=1, max=1, value=1, style={"description_width": "initial"}, layout=Layout(width="130px")
        )
        self.before, self.after = _button("‹ previous", "The probe before"), _button("next ›", "The next probe")
        self.chance = _button("any", "A probe by chance")
        self.of, self.name, self.view = widgets.HTML(), widgets.HTML(), FaceView()
        bar = widgets.HBox([self.number, self.of, self.before, self.after, self.chance, self.name], layout=_WRAP)
        super().__init__([bar, self.view])


class OwnPhoto(widgets.VBox):
    """Takes a photo from the browser or by its path on the machine of the kernel."""

    def __init__(self) -> None:
        self.upload = widgets.FileUpload(description="Upload a photo", accept="image/*", layout=Layout(width="160px"))
        self.path = widgets.Text(
            description="or its path",
            placeholder="/folder/face.jpg",
            continuous_update=False,
            style={"description_width": "initial"},
            layout=Layout(width="270px"),
        )
        self.read = _button("open", "Read the photo at this path")
        self.share = widgets.FloatSlider(
            description="Crop, share of the shorter side", min=0.2, max=1, step=0.01, value=CENTRE_SHARE, continuous_update=False,
            style={"description_width": "initial"}, layout=Layout(width="460px"),
        )  # fmt: skip
        self.view = FaceView()
        hint = widgets.HTML(
            '<div style="line-height:1.35">'
            "A face of 112×112 pixels is taken as aligned; any other photo is cropped about its centre. "
            "It is made small as the run's faces were, restored and compared with the gallery. It is stored nowhere.</div>"
        )
        bar = widgets.HBox([self.upload, self.path, self.read], layout=_WRAP)
        super().__init__([bar, self.share, hint, self.view])
