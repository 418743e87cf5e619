"""An executed notebook as one HTML file that can be mailed: its figures inside it, nothing fetched from anywhere."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from traitlets.config import Config

from dsrkit.runs import atomic_path

TEMPLATES = Path(__file__).parent / "templates"
LARGEST = 5_000_000  # bytes that a mail server and a phone still take

_FETCHING = {
    "src": ("script", "img", "iframe", "video", "audio", "source", "embed", "input", "track"),
    "href": ("link", "image", "use"),
    "xlink:href": ("image", "use"),
    "srcset": ("img", "source"),
    "poster": ("video",),
    "data": ("object",),
    "background": ("body", "table", "td"),
}
_IN_CSS = re.compile(r"""url\(\s*["']?(?!data:|\#)([^"')\s]+)|@import\s+["']([^"']+)""", re.IGNORECASE)
_IN_SCRIPT = re.compile(r"""(?:\bfrom\s*|\bimport\s*\(?\s*|["'])((?:https?:)?//[^"'\s]+)""")

_INTERVAL = re.compile(r"(\[[+-]?\d+\.\d+,) (?=[+-]?\d+\.\d+\])")


def external_resources(html: str) -> list[str]:
    """Every address that a browser would fetch to show a page; links to click on do not count.

    Looks at attributes, style sheets and scripts (an address in quotes there counts as fetched).
    """
    soup = BeautifulSoup(html, "html.parser")
    named = [
        str(element[attribute])
        for attribute, tags in _FETCHING.items()
        for element in soup.find_all(tags, attrs={attribute: True})
    ]
    found = [address for address in named if not address.startswith(("data:", "#"))]
    styles = [element.get_text() for element in soup.find_all("style")]
    styles += [str(element["style"]) for element in soup.find_all(style=True)]
    found += [address for style in styles for match in _IN_CSS.findall(style) for address in match if address]
    found += [address for script in soup.find_all("script") for address in _IN_SCRIPT.findall(script.get_text())]
    return found


def _title(notebook: NotebookNode, otherwise: str) -> str:
    """The notebook's first heading."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (heading := re.search(r"^#+ +(.+)$", cell.source, re.MULTILINE)):
            return heading[1].strip("# `*")
    return otherwise


def _exporter() -> HTMLExporter:
    config = Config()
    # Widgets and scripts need a server or an address: their place is taken by the still picture or text beside them.
    config.NbConvertBase.display_data_priority = [
        "text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/plain",
    ]  # fmt: skip
    config.HTMLExporter.exclude_input = True
    config.HTMLExporter.exclude_input_prompt = True
    config.HTMLExporter.exclude_output_prompt = True
    config.HTMLExporter.exclude_anchor_links = True
    config.HTMLExporter.embed_images = True
    return HTMLExporter(config=config, template_name="page", extra_template_basedirs=[str(TEMPLATES)])


def export_html(notebook_path: Path | str, html_path: Path | str) -> Path:
    """Write an executed notebook as one HTML page without its code, readable without a network; return its path.

    Figures are embedded, the title is the notebook's first heading, what went to standard error is left out. Formulas in
    prose stay as typed, since MathJax would have to be fetched. The file appears whole or not at all.

    Raises FileNotFoundError without the notebook, and ValueError when it was not executed or when an output names an
    address that a browser would fetch. Warns above 5 MB.
    """
    notebook_path, html_path = Path(notebook_path), Path(html_path)
    if not notebook_path.is_file():
        raise FileNotFoundError(f"Expected an executed notebook at {notebook_path}, got nothing there. Run it with papermill.")
    notebook = nbformat.read(notebook_path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if code and not any(cell.outputs for cell in code):
        raise ValueError(f"{notebook_path}: expected an executed notebook, got one without outputs. Run it with papermill.")
    notebook.metadata["title"] = _title(notebook, notebook_path.stem)
    notebook.metadata.pop("widgets", None)  # with their state the page would fetch the widget manager
    for cell in code:
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    resources = {"metadata": {"name": notebook_path.stem, "path": str(notebook_path.parent)}}
    html, _ = _exporter().from_notebook_node(notebook, resources)
    # A wide table may break between a value and its interval, rather than hide its last columns, but not inside an interval.
    html = _INTERVAL.sub("\\1&nbsp;", html).replace("] not shown", "] not&nbsp;shown")
    if found := external_resources(html):
        raise ValueError(
            f"{notebook_path}: expected a page that fetches nothing, got {len(found)} addresses, such as {found[0][:100]!r}. "
            "Show that picture or table with matplotlib or pandas instead."
        )
    if len(html.encode()) > LARGEST:
        warnings.warn(
            f"{html_path}: the page has {len(html.encode()) / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f}. "
            "Show fewer or smaller figures.", stacklevel=2,
        )  # fmt: skip
    with atomic_path(html_path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return html_path
