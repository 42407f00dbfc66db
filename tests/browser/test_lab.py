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

from tests.browser.bridge import PATIENCE
from tests.browser.test_accessibility import AXE, RUN
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
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:  # it waits for its kernels; nothing of a test may stay behind
            server.kill()
            server.wait()


@pytest.fixture
def open_notebook(lab, chromium):
    """Opens a notebook of these cells, runs all of them, and gives the tab."""
    address, token, folder = lab
    contexts = []

    def opened(name, *cells, **more):
        (folder / name).write_text(notebook(*cells), "utf-8")
        context = chromium.new_context(viewport={"width": 1280, "height": 1500}, **more)
        tab = context.new_page()
        tab.set_default_timeout(PATIENCE)
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
    runs = tab.get_by_label("Runs").locator("option")
    runs.nth(1).wait_for(state="attached")
    assert runs.count() == 2
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


def test_the_same_in_notebook_7(lab, chromium, picture):
    pytest.importorskip("notebook")
    address, token, folder = lab
    (folder / "seven.ipynb").write_text(notebook(SETUP, "bench"), "utf-8")
    context = chromium.new_context(viewport={"width": 1280, "height": 1500})
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE)
    tab.goto(f"{address}/notebooks/seven.ipynb?token={token}")
    tab.locator(".jp-Notebook").wait_for()
    tab.get_by_text("Python 3 (ipykernel)").first.wait_for()
    tab.get_by_role("menuitem", name="Run", exact=True).click()
    tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    tab.get_by_label("Choose files").set_input_files(
        [{"name": "scene.png", "mimeType": "image/png", "buffer": scene()},
         {"name": "word.wav", "mimeType": "audio/wav", "buffer": wav(make_sound(0.8))}]
    )  # fmt: skip
    tab.get_by_text("480×336 px · 7×10 patches · 70 tokens").wait_for()
    tab.get_by_text("0.80 s · 20 tokens").wait_for()
    asked = tab.get_by_placeholder("What do you want to know?")
    asked.click()
    tab.keyboard.type("Describe the picture, bar by bar.")  # a, b, d, r … are keys of Notebook's own
    asked.press("Tab")
    tab.locator(".widget-button", has_text="Run").click()
    tab.get_by_text("Done:").wait_for()
    tab.locator(".wb-t[role=option]").first.click()
    tab.get_by_role("heading", name="Token 0:").wait_for()
    tab.get_by_role("tab", name="Where it looked").click()
    tab.locator(".wb-stage[data-hottest]").first.wait_for()
    tab.get_by_role("tab", name="Drafts").click()
    tab.get_by_role("button", name="Next round").wait_for()
    assert tab.locator(".jp-Cell").count() == 2
    assert tab.get_by_placeholder("What do you want to know?").input_value() == "Describe the picture, bar by bar."
    picture(tab, "notebook-7", full_page=False)
    context.close()


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
    theme(tab, "JupyterLab Dark")
    tab.locator(".wb[data-dark]").wait_for()
    picture(tab, "lab-dark", full_page=False)


LOOK = """
from workbench.pocket.examples import SCENE
trace = model.ask("What is at the top left?", images=[SCENE], temperature=0)
token = next(k for k, piece in enumerate(trace.tokens.piece) if piece.strip() in ("red", "circle"))
read = model.attend(trace)
x0, y0, x1, y1 = CIRCLE = 40, 15, 120, 96  # pixels of the red circle
(patches,) = [s for s in trace.prompt.segments if s.kind == "image"]
left, top, right, bottom = patches.boxes.T
inside = (right > x0) & (left < x1) & (bottom > y0) & (top < y1)
def mass(layer, head):
    values = read.on_image(0, token=token, layer=layer, head=head).ravel()
    return values[inside].sum() / values.sum() * (values.argmax() in inside.nonzero()[0])
best = max(((layer.index, int(head)) for layer in read.layers for head in read.heads), key=lambda one: mass(*one))
drops = model.occlude(trace, token=token).map.values
hidden = int(drops.argmax())  # row by row
print("token", token, "layer", best[0], "head", best[1], "hidden", hidden, "inside", inside.nonzero()[0].tolist())
"""


def place(tab):
    """Where the frame of the hottest patch has its middle, as shares of the picture's width and height."""
    mark, box = (tab.locator(f".wb-scene {name}").first.bounding_box() for name in (".wb-mark", ".wb-stage"))
    return ((mark["x"] + mark["width"] / 2 - box["x"]) / box["width"],
            (mark["y"] + mark["height"] / 2 - box["y"]) / box["height"])  # fmt: skip


def touches_the_circle(x, y):
    """Whether a patch of 48 pixels with its middle there reaches into the circle's box."""
    return 40 - 24 < 480 * x < 120 + 24 and 15 - 24 < 336 * y < 96 + 24


def test_a_word_that_is_clicked_is_seen_where_the_shape_is(open_notebook, picture):
    """On the red circle (480×336), by the head that looks there most and by hiding each place."""
    tab = open_notebook("look.ipynb", SETUP, LOOK, "bench = Workbench(model, trace)\nbench")
    tab.locator(".wb-t[role=option]").first.wait_for()
    said = tab.get_by_text("token ").filter(has_text="inside").last.inner_text()
    token, layer, head, hidden = re.match(r"token (\d+) layer (\d+) head (\d+) hidden (\d+)", said).groups()
    inside = json.loads(said.split("inside ")[1])
    words = tab.locator(".lm-TabPanel-stackedPanel, .widget-tab-contents").first.locator(".wb-t[role=option]")
    words.nth(int(token)).hover()
    tab.get_by_role("heading", name=f"Token {token}:").wait_for()  # hovering is enough to read
    tab.get_by_role("tab", name="Where it looked").click()
    look = tab.locator(".wb", has=tab.locator(".wb-scene"))
    look.locator(".wb-t[role=option]").nth(int(token)).click()
    look.get_by_label("Layer", exact=True).select_option(layer)
    look.get_by_label("Head", exact=True).select_option(head)
    tab.wait_for_function(
        "(inside) => inside.includes(Number(document.querySelector('.wb-scene .wb-stage').dataset.hottest))", arg=inside
    )
    assert touches_the_circle(*place(tab))
    look.get_by_role("button", name="occlusion").click()
    look.get_by_text("by hiding 3 × 3 patches. Rank correlation with the attention").first.wait_for()
    tab.wait_for_function(
        "(hidden) => document.querySelectorAll('.wb-scene .wb-stage')[1].dataset.hottest === hidden", arg=hidden
    )
    assert int(hidden) in inside
    picture(tab, "lab-occlusion", full_page=False)


FORMS = """
import ipywidgets
from tests.test_workbench_widget import Fake
from tests.traces import make_trace
from widgets import DiffView, Workbench
bench = Workbench(Fake(), make_trace(rounds=6))
bench.settings.selected_index = 0
"""


def test_plain_keys_do_not_reach_jupyterlab(open_notebook):
    """Arrows would leave the cell there, and `r` would turn it into raw text, with all that is in it gone."""
    tab = open_notebook("keys.ipynb", FORMS + "bench")
    words = tab.locator(".wb-t[role=option]")
    words.first.wait_for()
    tab.locator(".wb").nth(3).wait_for(state="attached")  # all of it: the form and three views
    shown = tab.locator(".wb").count()
    colour = tab.get_by_label("Colour")
    colour.focus()
    tab.keyboard.press("ArrowDown")
    assert colour.input_value() == "entropy"
    tab.keyboard.press("r")
    assert colour.input_value() == "rank"
    runs = tab.get_by_label("Runs")
    runs.focus()
    for key in ("ArrowDown", "m", "y", "x", "d", "d", "b", "a", "z"):
        tab.keyboard.press(key)
    tab.get_by_role("tab", name="Where it looked").click()
    heat = tab.get_by_label("Strength of the heat")
    heat.focus()
    before = float(heat.input_value())
    tab.keyboard.press("ArrowLeft")
    assert float(heat.input_value()) < before
    assert tab.evaluate("document.activeElement.getAttribute('aria-label')") == "Strength of the heat"
    assert tab.locator(".wb").count() == shown
    assert tab.locator(".jp-CodeCell").count() == tab.locator(".jp-Cell").count()
    cells = tab.locator(".jp-Cell").count()
    tab.keyboard.press("Shift+Enter")  # runs the cell, as everywhere
    tab.wait_for_function("(n) => document.querySelectorAll('.jp-Cell').length > n", arg=cells)


def theme(tab, name):
    tab.get_by_role("menuitem", name="Settings").click()
    tab.locator(".lm-Menu-item", has_text=re.compile(r"^Theme$")).hover()
    tab.locator(".lm-Menu-item", has_text=re.compile(rf"^{name}$")).click()


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not there: npm install --prefix artifacts/axe axe-core")
@pytest.mark.parametrize("name", ["JupyterLab Light", "JupyterLab Dark"])
def test_a_screen_reader_finds_its_way_in_the_workbench(open_notebook, name, picture):
    tab = open_notebook(f"{name[-5:].strip()}.ipynb", FORMS + "bench", color_scheme="light", bypass_csp=True)
    tab.locator(".wb-t[role=option]").first.wait_for()
    tab.get_by_text("Temperature", exact=True).first.wait_for()
    theme(tab, name)
    tab.locator("[data-jp-theme-name]").first.wait_for(state="attached")
    tab.wait_for_function("(name) => document.body.dataset.jpThemeName === name", arg=name)
    if name.endswith("Dark"):
        tab.locator(".wb[data-dark]").first.wait_for()
    tab.evaluate(AXE.read_text("utf-8"))
    for panel in ("Answer", "Where it looked", "Drafts"):
        tab.get_by_role("tab", name=panel).click()
        tab.wait_for_timeout(300)
        assert tab.evaluate(RUN.replace("document", "'.jp-OutputArea-output'")) == []
        picture(tab, f"lab-{panel.split()[0].lower()}-{name[11:].lower()}", full_page=False)


def test_a_narrow_cell_cuts_nothing_off(open_notebook, picture):
    """400 pixels, and 500: a window of 1,000 at 200 %."""
    tab = open_notebook(
        "narrow.ipynb", FORMS,
        *(f"ipywidgets.Box([bench, DiffView(make_trace(seed=1), make_trace(seed=2))], "
          f"layout=dict(width='{width}px', flex_flow='column')).add_class('w{width}')" for width in (400, 500)),
    )  # fmt: skip
    for width in (400, 500):
        box = tab.locator(f".w{width}")
        box.locator(".wb-t[role=option]").first.wait_for()
        over = box.evaluate(
            """(box) => [...box.querySelectorAll("*")].filter((node) => {
                const r = node.getBoundingClientRect();
                if (!r.width || node.closest(".wb-sr, .wb-scroll, [hidden]")) return false;
                return r.right > box.getBoundingClientRect().right + 1;
            }).map((node) => `${node.tagName} ${node.className} ${node.textContent.slice(0, 40)}`)"""
        )
        assert over == []
    picture(tab, "lab-narrow", full_page=False)


def test_a_restarted_kernel_is_told_in_the_widget_and_nothing_is_lost(open_notebook, picture):
    tab = open_notebook("restart.ipynb", FORMS + "bench")
    words = tab.locator(".wb-t[role=option]")
    words.first.wait_for()
    tab.locator(".wb").nth(3).wait_for(state="attached")
    tab.locator(".wb-words").nth(1).wait_for(state="attached")  # those of the second view too
    before = words.all_inner_texts()
    tab.get_by_role("menuitem", name="Kernel", exact=True).click()
    tab.locator(".lm-Menu-itemLabel", has_text=re.compile(r"^Restart Kernel…$")).click()
    tab.get_by_role("button", name="Confirm Kernel Restart").click()
    tab.locator(".wb-gone:visible").first.wait_for()
    assert "run the cells again" in tab.locator(".wb-gone:visible").first.inner_text()
    assert words.all_inner_texts() == before
    words.nth(3).click()  # what is here can still be looked at
    tab.get_by_role("heading", name="Token 3:").wait_for()
    tab.locator(".wb-alternatives button:not([aria-disabled])").first.click()
    assert words.all_inner_texts() == before
    picture(tab, "lab-restarted", full_page=False)
    tab.get_by_role("menuitem", name="Run", exact=True).click()
    tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    tab.locator(".wb-gone:visible").first.wait_for(state="detached")
