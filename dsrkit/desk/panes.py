"""The desk's parts, each a widget that is told what to show and knows nothing of runs or networks.

Names of people and files come from outside: they are escaped before they become HTML.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from html import escape

import ipywidgets as widgets
import numpy as np
from ipywidgets import Layout
from jaxtyping import Int
from PIL import Image

from dsrkit.desk.looks import BLUE, ORANGE, Look, colour, mark
from dsrkit.desk.pictures import FACE, SMALL, beside, enlarged, png
from dsrkit.desk.state import FAILURES, MATCHES, Judged
from dsrkit.desk.views import Chart, percent, points_at, roc_chart, shortened, sweep_chart

PAGE = 6  # failures on a page
VERSIONS = 4  # VLR, bicubic, DSR, HR
NARROWEST = 290  # pixels in which a curve can still be read
_GAP = Layout(grid_gap="8px", flex_flow="row wrap", margin="2px 0 6px 0")


def _box(html: str, edge: str) -> str:
    style = f"border-left:8px solid {edge};background:#f5f5f5;color:#111;padding:6px 10px;line-height:1.35;font-size:14px"
    return f'<div style="{style}">{html}</div>'


class Message(widgets.HTML):
    """One line that says what goes on, and what went wrong: in words, not by colour alone."""

    failed = False

    def say(self, text: str, share: float | None = None) -> None:
        """A text, "" for none; ``share``: how much is done, in [0, 1], as a bar."""
        self.failed = False
        bar = "" if share is None else f'<br><progress value="{share:.4f}" style="width:100%;max-width:480px"></progress>'
        self.value = f'<div role="status">{_box(escape(text) + bar, BLUE)}</div>' if text else ""

    def forget(self) -> None:
        """An error is about the last action: the next one takes it away."""
        if self.failed:
            self.say("")

    def fail(self, error: BaseException) -> None:
        self.failed = True
        self.value = f'<div role="alert">{_box(f"<b>✘ Not done.</b> {escape(str(error))}", ORANGE)}</div>'


class Picture(widgets.VBox):
    """A picture at its own size, one pixel for one, with a caption beneath; without a picture it takes no room."""

    def __init__(self, width: int) -> None:
        self.image = widgets.Image(format="png", layout=Layout(margin="0 auto"))
        self.caption = widgets.HTML(layout=Layout(width=f"{width}px", margin="0 auto"))
        super().__init__([self.image, self.caption], layout=Layout(display="none", align_items="center"))

    def show(self, picture: Image.Image, caption: str) -> None:
        self.image.layout.width, self.image.layout.height = f"{picture.width}px", f"{picture.height}px"
        self.image.value = png(picture)
        style = "line-height:1.25;font-size:12px;text-align:center;overflow-wrap:anywhere;text-wrap:balance"
        self.caption.value = f'<div style="{style}">{caption}</div>'
        self.layout.display = "flex"

    def clear(self) -> None:
        self.layout.display = "none"


class FaceView(widgets.VBox):
    """A face's versions side by side, the decision, and the nearest subjects."""

    def __init__(self) -> None:
        self.versions = [Picture(FACE) for _ in range(VERSIONS)]
        self.verdict = widgets.HTML()
        self.matches = [Picture(SMALL + 16) for _ in range(MATCHES)]
        rows = [widgets.HBox(self.versions, layout=_GAP), self.verdict, widgets.HBox(self.matches, layout=_GAP)]
        super().__init__(rows, layout=Layout(display="none"))

    def show(self, look: Look) -> None:
        for cell in self.versions[len(look.versions) :] + self.matches[len(look.matches) :]:
            cell.clear()
        for cell, (title, face) in zip(self.versions, look.versions.items(), strict=False):
            size = f" {face.shape[1]}×{face.shape[0]}" if title == "VLR" else ""
            seen = "<br>▲ the recogniser sees this" if title == look.recognised else ""
            cell.show(enlarged(face), f"<b>{title}{size}</b>{seen}")
        for cell, face, match in zip(self.matches, look.pictures, look.matches.itertuples(), strict=False):
            own = "✔ " if match.subject == look.subject else ""
            cell.show(enlarged(face, SMALL), f"{own}<b>{escape(shortened(str(match.subject), 24))}</b><br>{match.score:.3f}")
        self.decide(look)
        self.layout.display = "flex"

    def decide(self, look: Look) -> None:
        """Only the decision anew: the threshold moved, the face is the same."""
        self.verdict.value = _box(f"<b>{mark(look.answer)} {escape(look.verdict)}</b>", colour(look.answer))


class Curve(widgets.GridBox):
    """A chart, and over it the point at the threshold."""

    def __init__(self) -> None:
        self.image = widgets.Image(format="png", layout=Layout(grid_area="1 / 1", width="100%", margin="0"))
        self.over = widgets.HTML(layout=Layout(grid_area="1 / 1", width="100%", margin="0"))
        self.chart: Chart | None = None
        super().__init__([self.image, self.over], layout=Layout(width="100%", max_width="400px", grid_template_columns="100%"))

    def draw(self, chart: Chart | None) -> None:
        self.chart, self.layout.display = chart, "none" if chart is None else "grid"
        self.image.value = b"" if chart is None else chart.png

    def move(self, points: Sequence[tuple[float, float]], line_at: float | None = None) -> None:
        if self.chart is not None:
            self.over.value = self.chart.overlay(points, line_at)


class Curves(widgets.GridBox):
    """ROC and threshold sweep with their points, side by side where there is room, and above them the same numbers in words."""

    def __init__(self) -> None:
        self.numbers, self.roc, self.sweep = widgets.HTML(layout=Layout(grid_area="1 / 1 / 2 / -1")), Curve(), Curve()
        columns = f"repeat(auto-fit, minmax({NARROWEST}px, 1fr))"
        room = Layout(flex=f"1 1 {NARROWEST}px", max_width="840px", grid_template_columns=columns, grid_gap="4px 12px")
        super().__init__([self.numbers, self.sweep, self.roc], layout=room)

    def draw(self, judged: Judged) -> None:
        self.sweep.draw(sweep_chart(judged))
        self.roc.draw(roc_chart(judged))

    def move(self, judged: Judged, threshold: float) -> None:
        on_roc, on_sweep = points_at(judged, threshold)
        self.sweep.move(on_sweep, threshold)
        self.roc.move(on_roc)
        at = judged.at(threshold)
        rows = [
            ("enrolled, named rightly", at["correct"]),
            ("enrolled, named wrongly", at["wrong"]),
            ("enrolled, unknown", at["unknown"]),
            ("strangers named (FPIR)", at["fpir"]),
            ("pairs: TAR", at["tar"]),
            ("pairs: FAR", at["far"]),
        ]
        cells = "".join(
            f'<tr style="display:flex;justify-content:space-between"><td>{name}</td><td><b>{percent(share)}</b></td></tr>'
            for name, share in rows
        )
        columns = f"display:grid;grid-template-columns:repeat(auto-fit,minmax({NARROWEST - 20}px,1fr));column-gap:32px"
        body = f'<tbody style="{columns}">{cells}</tbody>'
        self.numbers.value = f'<table style="display:block;line-height:1.3;font-size:13px">{body}</table>'


class Failures(widgets.VBox):
    """A page of failures: VLR face, what the recogniser saw, the nearest enrolled face; a button opens it."""

    def __init__(self, on_turn: Callable[[], None], on_pick: Callable[[int], None]) -> None:
        self.kind = widgets.ToggleButtons(options=list(FAILURES), style={"button_width": "120px"})
        self.before, self.after = (
            widgets.Button(description=text, layout=Layout(width="110px")) for text in ("‹ previous", "next ›")
        )
        self.where, self.page, self.probes = widgets.HTML(), 0, list[int]()
        self.cards = [Picture(3 * SMALL + 8) for _ in range(PAGE)]
        self.buttons = [widgets.Button(description="open", layout=Layout(width="80px")) for _ in range(PAGE)]
        cards = [widgets.VBox(both, layout=Layout(align_items="center")) for both in zip(self.cards, self.buttons, strict=True)]
        grid = widgets.GridBox(
            cards, layout=Layout(grid_template_columns=f"repeat(auto-fill, {3 * SMALL + 8}px)", grid_gap="10px 12px")
        )
        super().__init__([self.kind, widgets.HBox([self.before, self.after, self.where]), grid])
        self.kind.observe(lambda _: self.turn(-self.page, on_turn), "value")
        self.before.on_click(lambda _: self.turn(-1, on_turn))
        self.after.on_click(lambda _: self.turn(1, on_turn))
        for number, button in enumerate(self.buttons):
            button.on_click(partial(self._picked, on_pick, number))

    def _picked(self, on_pick: Callable[[int], None], number: int, _: widgets.Button) -> None:
        on_pick(self.probes[number])

    def turn(self, by: int, on_turn: Callable[[], None]) -> None:
        self.page += by
        on_turn()

    def of_page(self, every: Int[np.ndarray, " k"]) -> list[int]:
        """The failures on this page; a page that is no more becomes the last one."""
        pages = max(1, -(-len(every) // PAGE))
        self.page = min(max(self.page, 0), pages - 1)
        self.where.value = f"<b>{len(every)}</b> {self.kind.value}, page {self.page + 1} of {pages}"
        self.before.disabled, self.after.disabled = self.page == 0, self.page == pages - 1
        return [int(one) for one in every[self.page * PAGE : (self.page + 1) * PAGE]]

    def show(self, probes: Sequence[int], looks: Sequence[Look]) -> None:
        self.probes = list(probes)
        for card, button in zip(self.cards[len(looks) :], self.buttons[len(looks) :], strict=True):
            card.clear()
            button.layout.display = "none"
        for card, button, look in zip(self.cards, self.buttons, looks, strict=False):
            strip = beside([look.versions["VLR"], look.versions[look.recognised], look.pictures[0]])
            true, nearest = (escape(shortened(name, 26)) for name in (look.subject, look.matches.subject[0]))
            words = f"{mark(look.answer)} <b>{look.answer}</b><br>is {true}, nearest {nearest} ({look.matches.score[0]:.3f})"
            card.show(strip, words)
            button.layout.display = None
