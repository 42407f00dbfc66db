"""A real JupyterLab with a real kernel and the pocket model: files in, an answer out, Stop, a page that opens alone.

Nothing here depends on what the model says; only on what the workbench does with it.
"""

import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import PIL.Image
import pytest

from tests.traces import make_sound
from widgets.media_input import wav

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
SETUP = """
import workbench
from widgets import Workbench
model = workbench.load()
bench = Workbench(model)
"""


def notebook(*cells):
    made = [
        {"cell_type": "code", "id": str(k), "metadata": {}, "source": source, "outputs": [], "execution_count": None}
        for k, source in enumerate(cells)
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return json.dumps({"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab in a folder of its own, with the welcome to new users switched off."""
    pytest.importorskip("jupyterlab")
    folder = tmp_path_factory.mktemp("lab")
    settings = folder / "home" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    (folder / "work").mkdir()
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    token = "only-for-this-test"
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", f"--ServerApp.root_dir={folder / 'work'}",
        "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--log-level=WARN",
        "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
        *(["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
    ]  # fmt: skip
    environment = {
        **os.environ, "JUPYTER_TOKEN": token, "JUPYTERLAB_SETTINGS_DIR": str(folder / "home" / "lab" / "user-settings"),
        "JUPYTER_RUNTIME_DIR": str(folder / "run"), "IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/api?token={token}", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
        yield address, token, folder / "work"
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture
def open_notebook(lab, chromium):
    """Opens a notebook of these cells, runs all of them, and gives the tab."""
    address, token, folder = lab
    contexts = []

    def opened(name, *cells, **more):
        (folder / name).write_text(notebook(*cells), "utf-8")
        context = chromium.new_context(viewport={"width": 1280, "height": 1500}, **more)
        tab = context.new_page()
        tab.set_default_timeout(30_000)
        contexts.append(context)
        tab.goto(f"{address}/lab/tree/{name}?token={token}&reset")
        tab.locator(".jp-Notebook").wait_for()
        tab.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        tab.get_by_role("menuitem", name="Run", exact=True).click()
        tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        return tab

    yield opened
    for context in contexts:
        context.close()


def scene():
    file = io.BytesIO()
    picture = PIL.Image.new("RGB", (480, 336), "black")
    picture.paste("red", (40, 40, 140, 140))
    picture.save(file, "PNG")
    return file.getvalue()


def test_files_in_an_answer_out_and_a_page_that_opens_alone(lab, open_notebook, open_page, picture):
    _, _, folder = lab
    tab = open_notebook("first.ipynb", SETUP, "bench")
    tab.get_by_role("button", name="Choose files").wait_for()
    tab.get_by_label("Choose files").set_input_files(
        [{"name": "scene.png", "mimeType": "image/png", "buffer": scene()},
         {"name": "word.wav", "mimeType": "audio/wav", "buffer": wav(make_sound(0.8))}]
    )  # fmt: skip
    tab.get_by_text("480×336 px · 7×10 patches · 70 tokens").wait_for()
    tab.get_by_text("0.80 s · 20 tokens").wait_for()
    tab.get_by_placeholder("What do you want to know?").fill("What do you see and hear?")
    tab.locator(".widget-button", has_text="Run").click()
    tab.get_by_text("Done:").wait_for()
    words = tab.locator(".wb-t[role=option]")
    words.first.click()
    tab.get_by_role("heading", name="Token 0:").wait_for()
    picture(tab, "lab-workbench", full_page=False)

    # the same word where it looked
    tab.get_by_role("tab", name="Where it looked").click()
    tab.locator(".wb-stage[data-hottest]").first.wait_for()
    picture(tab, "lab-where-it-looked", full_page=False)
    tab.get_by_role("tab", name="Answer").click()

    # another word instead: a run of its own, and back
    tab.locator(".wb-alternatives button:not([aria-disabled])").first.click()
    tab.get_by_role("button", name="↩ back").wait_for()
    assert tab.get_by_label("Runs").locator("option").count() == 2
    tab.get_by_role("button", name="↩ back").click()
    tab.get_by_role("button", name="↩ back").wait_for(state="hidden")

    tab.get_by_label("File", exact=True).fill("kept")
    tab.get_by_label("File", exact=True).press("Tab")
    tab.locator(".widget-button", has_text="Save trace").click()
    tab.get_by_text("Saved:").wait_for()
    tab.locator(".widget-button", has_text="Export page").click()
    tab.get_by_text("Exported:").wait_for()
    assert (folder / "kept.trace").stat().st_size > 1000
    alone = open_page(folder / "kept.html")
    alone.locator(".wb-t[role=option]").first.hover()
    alone.get_by_role("heading", name="Token 0:").wait_for()


LONG = """
import time
ask = model.ask
def slowly(*args, on_token, **more):
    def wait(token):
        on_token(token)
        time.sleep(0.3)
    return ask(*args, on_token=wait, **more)
model.ask = slowly
bench.question.value = "Tell me a story."
"""


def test_stop_in_a_running_answer_keeps_what_was_said(open_notebook):
    tab = open_notebook("stop.ipynb", SETUP, LONG, "bench")
    tab.locator(".widget-button", has_text="Run").click()
    tab.get_by_text("answering …").wait_for()
    tab.locator(".wb-t[role=option]").nth(2).wait_for()  # words arrive one by one
    tab.locator(".widget-button", has_text="Stop").click()
    tab.get_by_text("Stopped:").wait_for()
    assert tab.locator(".wb-t[role=option]").count() >= 2
    tab.get_by_text("stopped by you").wait_for()


def test_the_theme_is_followed(open_notebook, picture):
    setup = "from tests.traces import make_trace\nfrom widgets import TokenView\n"
    tab = open_notebook("dark.ipynb", setup + "TokenView(make_trace(rounds=4))", color_scheme="light")
    tab.locator(".wb-t[role=option]").first.wait_for()
    assert tab.locator(".wb[data-dark]").count() == 0
    tab.get_by_role("menuitem", name="Settings").click()
    tab.locator(".lm-Menu-item", has_text=re.compile(r"^Theme$")).hover()
    tab.locator(".lm-Menu-item", has_text=re.compile(r"^JupyterLab Dark$")).click()
    tab.locator(".wb[data-dark]").wait_for()
    picture(tab, "lab-dark", full_page=False)
