"""The desk in a browser, as a person uses it: in JupyterLab and in Voila, on two tiny runs of made-up faces."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from desk_run import make_run
from PIL import Image

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium (Debian: apt-get install chromium)"),
    pytest.mark.skipif(not importlib.util.find_spec("playwright"), reason="no playwright (pip install 'dsrkit[dev]')"),
]
PATIENCE = 120_000  # milliseconds: a kernel imports torch, restores and embeds, perhaps on a busy machine


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Runs ``one`` and ``two``, a photo, and the notebook with both runs as its parameter."""
    root = tmp_path_factory.mktemp("browser")
    make_run(root, "one", seed=2)
    make_run(root, "two", seed=5)
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (300, 240, 3), dtype=np.uint8)).resize((600, 750)).save(root / "photo.jpg")
    (root / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    notebook = json.loads((REPOSITORY / "notebooks" / "explore.ipynb").read_text())
    cell = next(cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", []))
    cell["source"] = [re.sub(r"\[.*?\]", '["one", "two"]', line, count=1) for line in cell["source"]]
    (root / "explore.ipynb").write_text(json.dumps(notebook))
    settings = root / "config" / "labconfig"
    settings.mkdir(parents=True)
    quiet = {
        "disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}
    }  # no question about news in front of the desk
    (settings / "page_config.json").write_text(json.dumps(quiet))
    whole = {"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}}  # every cell is drawn, in view or not
    (settings / "default_setting_overrides.json").write_text(json.dumps(whole))
    return root


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def served(root: Path, words: list[str], port: int, address: str) -> Iterator[str]:
    """Start a server in ``root``; give its address when it answers; stop it, its kernels with it."""
    environment = os.environ | {"DSRKIT_ROOT": str(root), "OMP_NUM_THREADS": "1", "JUPYTER_CONFIG_DIR": str(root / "config")}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    log = open(root / f"{words[0]}.log", "w")  # noqa: SIM115  # open as long as the server runs
    server = subprocess.Popen([sys.executable, "-m", *words], cwd=root, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(240):
            assert server.poll() is None, (root / f"{words[0]}.log").read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/static/favicon.ico", timeout=1).close()
                break
            except urllib.error.HTTPError:
                break  # it answers, if only that there is no such file
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(20)
        log.close()


@pytest.fixture(scope="module")
def voila(root: Path) -> Iterator[str]:
    if not importlib.util.find_spec("voila"):
        pytest.skip("no voila (pip install 'dsrkit[desk]')")
    port = free_port()
    words = ["voila", "explore.ipynb", "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"]
    yield from served(root, words, port, f"http://127.0.0.1:{port}/")


@pytest.fixture(scope="module")
def lab(root: Path) -> Iterator[str]:
    port = free_port()
    words = ["jupyterlab", "--no-browser", f"--port={port}", "--ip=127.0.0.1", "--IdentityProvider.token=", "--allow-root"]
    words += ["--LabApp.expose_app_in_browser=True", "--ServerApp.disable_check_xsrf=True"]
    yield from served(root, words, port, f"http://127.0.0.1:{port}/lab/tree/explore.ipynb")


@pytest.fixture
def page():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 1250})
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


def pictures(page) -> list[str]:
    """The addresses of the faces that are seen; each new picture has a new one."""
    return [picture.get_attribute("src") for picture in page.locator(".jupyter-widgets.widget-image:visible").all()]


def numbers(page) -> str:
    return page.locator("table", has_text="strangers named (FPIR)").inner_text()


def choose(page, name: str, value: str) -> None:
    page.locator(".widget-dropdown", has_text=name).locator("select").select_option(value)


def upload(page, file: Path) -> None:
    with page.expect_file_chooser() as asked:
        page.get_by_role("button", name=re.compile("Upload a photo")).click()
    asked.value.set_files(file)


def wait_for_text(page, text: str) -> None:
    """Until it is seen; if it is not, say what is."""
    try:
        page.get_by_text(text).first.wait_for()
    except Exception as error:
        choices = [choice.input_value() for choice in page.locator(".widget-dropdown select").all()]
        pytest.fail(f"expected {text!r} ({error}), got {choices} and {page.locator('body').inner_text()[:2000]}")


def wait_for_other(page, before, seen) -> None:
    """Until ``seen(page)`` is no longer ``before``."""
    end = time.monotonic() + PATIENCE / 1000
    while seen(page) == before:
        assert time.monotonic() < end, f"expected a change, got {str(before)[:200]} all the time"
        page.wait_for_timeout(100)


def use(page, root: Path, shots: Path) -> None:
    """Threshold, size, run, upload, failures, export: each changes what is seen."""
    desk = page.locator("table", has_text="strangers named (FPIR)")
    desk.wait_for(state="attached")
    desk.evaluate("table => table.scrollIntoView()")
    desk.wait_for()
    page.wait_for_timeout(1000)
    page.screenshot(path=shots / "1-open.png")

    before, faces = numbers(page), pictures(page)
    handle = page.get_by_role("slider").first
    handle.focus()
    for _ in range(3):
        page.keyboard.press("Home")  # the lowest threshold: everybody is named
    wait_for_other(page, before, numbers)
    assert re.search(r"strangers named \(FPIR\)\s*100.0 %", numbers(page))
    assert pictures(page) == faces  # the threshold changes the decision, not the face
    page.screenshot(path=shots / "2-threshold.png")

    page.get_by_role("button", name="next ›").first.click()
    wait_for_other(page, faces, pictures)

    faces = pictures(page)
    choose(page, "VLR size", "14x16")  # at once: the desk may still be answering
    wait_for_text(page, "VLR 14×16")
    wait_for_other(page, faces, pictures)

    faces, before = pictures(page), numbers(page)
    choose(page, "Run", "two")
    wait_for_other(page, faces, pictures)

    page.get_by_role("tab", name="Own photo").click()
    upload(page, root / "broken.png")
    page.get_by_role("alert").get_by_text("broken.png: expected an image").wait_for()
    upload(page, root / "photo.jpg")
    page.get_by_text(re.compile("Your photo: ")).first.wait_for()
    page.wait_for_timeout(500)
    page.screenshot(path=shots / "3-photo.png")
    faces = pictures(page)
    assert len(faces) >= 4

    page.get_by_role("tab", name="Failures").click()
    page.get_by_text("page 1 of").wait_for()
    page.get_by_role("button", name="unknowns").click()
    page.get_by_text(re.compile(r"\d+ unknowns")).wait_for()
    page.wait_for_timeout(500)
    page.screenshot(path=shots / "4-failures.png")

    page.get_by_role("tab", name="Test faces").click()
    page.get_by_role("button", name="export this view").click()
    page.get_by_text("Written: ").wait_for()
    assert {file.suffix for file in (root / "outputs" / "two" / "desk").iterdir() if file.is_file()} == {".png", ".csv"}


def deaf_until_it_speaks(page) -> None:
    """The page loses what its widgets are told until one of them has spoken: its worst opening, with a busy browser."""
    spoken = []

    def route(page_end) -> None:
        kernel_end = page_end.connect_to_server()

        def said(message: bytes) -> None:
            if b'"method":"update"' in message:
                spoken.append(message)
            kernel_end.send(message)

        def told(message: bytes) -> None:
            lost = b'"comm_msg"' in message and b'"update_states"' not in message and not spoken
            if not lost:
                page_end.send(message)

        page_end.on_message(said)
        kernel_end.on_message(told)

    page.route_web_socket(re.compile("/channels"), route)


def test_desk_in_voila(page, voila: str, root: Path, tmp_path: Path) -> None:
    deaf_until_it_speaks(page)
    page.goto(voila)
    use(page, root, tmp_path)


# What JupyterLab knows of the open notebook: the state of its kernel, and how many code cells have run to their end.
NOTEBOOK = """() => {
    const panel = window.jupyterapp?.shell.currentWidget;
    const cells = [...(panel?.content?.widgets ?? [])].filter(cell => cell.model.type === "code");
    return {
        kernel: panel?.sessionContext?.session?.kernel?.status ?? "none",
        ran: cells.filter(cell => cell.model.executionCount !== null && cell.model.executionState !== "running").length,
        waiting: cells.filter(cell => cell.promptNode?.textContent.includes("*")).length,
        cells: cells.length,
    };
}"""


def run_all(page) -> None:
    """Run every cell of the open notebook, asking again if JupyterLab, still at its start, let the first wish fall."""
    end, state = time.monotonic() + 3 * PATIENCE / 1000, {}
    while time.monotonic() < end:
        state = page.evaluate(NOTEBOOK)
        if state["cells"] and state["ran"] == state["cells"]:
            return
        if state["kernel"] == "idle" and not state["waiting"]:
            page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")  # in braces: not waited for
            page.wait_for_timeout(2000)
        page.wait_for_timeout(500)
    pytest.fail(f"expected every cell to have run, got {state}; the page says: {page.locator('body').inner_text()[-2000:]}")


def test_desk_in_jupyterlab(page, lab: str, root: Path, tmp_path: Path) -> None:
    page.goto(lab)
    page.locator(".jp-Notebook").wait_for()
    page.wait_for_function("() => window.jupyterapp !== undefined")
    page.evaluate("() => { window.jupyterapp.commands.execute('application:toggle-left-area') }")
    run_all(page)
    use(page, root, tmp_path)
