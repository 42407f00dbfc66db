"""The demo in a real Chromium with the pocket model: a picture, a spoken word, a picked word, Stop, a closed tab.

Nothing here depends on what the model says; only on what the page does with it.
"""

import asyncio
import gc
import time

import pytest

pytest.importorskip("gradio")
from tests.browser.bridge import PATIENCE
from widgets.demo import Limits, build
from widgets.demo.command import _port
from workbench.loading import load
from workbench.pocket.examples import PAIR, SCENE, SEVEN
from workbench.trace import Trace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Gradio's own
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # so are loops left unclosed
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def swept():
    """Gradio leaves event loops unclosed: collected here, where it is known, not in a later test."""
    yield
    asyncio.set_event_loop(None)  # the last of them
    for _ in range(3):
        gc.collect()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
    made = build(load(progress=False), limits=Limits(tokens=512))
    made.launch(prevent_thread_lock=True, quiet=True, server_port=_port("127.0.0.1", 0))
    yield made
    made.close(verbose=False)
    patch.undo()


@pytest.fixture
def page(demo, chromium):
    context = chromium.new_context(viewport={"width": 1300, "height": 1000}, accept_downloads=True)
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE)
    tab.errors, tab.away = [], []
    tab.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.on(
        "request",
        lambda one: None if one.url.startswith((demo.local_url, "data:", "blob:")) else tab.away.append(one.url),
    )
    tab.goto(demo.local_url)
    tab.get_by_role("button", name="Run", exact=True).wait_for()
    yield tab
    assert tab.errors == []
    assert tab.away == []
    context.close()


def run(tab, question):
    tab.get_by_label("Question").first.fill(question)
    tab.get_by_role("button", name="Run", exact=True).click()


def ended(tab):
    tab.get_by_role("tab", name="Words").wait_for()
    return tab.locator("#answer .demo-status").inner_text()


def test_a_picture_is_uploaded_a_word_is_picked_and_the_files_open_alone(page, demo, picture, tmp_path):
    page.locator("#pictures input[type=file]").first.set_input_files(str(SCENE))
    page.locator("#pictures img").first.wait_for()
    run(page, "How many shapes are there?")
    assert ended(page).startswith("Done: ")
    words = page.get_by_role("tabpanel", name="Words").locator("[role=option]")  # a select has options too
    picked = words.first.inner_text()
    words.first.click()
    page.get_by_role("heading", name="Token 0:").wait_for()
    page.get_by_role("tab", name="Where it looked").click()
    panel = page.get_by_role("tabpanel", name="Where it looked")
    panel.get_by_text("in all, at most").first.wait_for()
    assert panel.locator("[aria-selected=true]").inner_text() == picked  # in every tab
    assert int(panel.locator(".wb-stage").first.get_attribute("data-hottest")) >= 0
    panel.get_by_label("Layer").select_option("5")
    panel.get_by_text("Layer 5.").wait_for()
    picture(page, "demo-attention")
    with page.expect_download() as fetched:
        page.get_by_role("link", name="Download the trace").click()
    file = tmp_path / "a.trace"
    fetched.value.save_as(file)
    assert Trace.load(file).images[0].name == "scene.png"
    with page.expect_download() as fetched:
        page.get_by_role("link", name="Download the page").click()
    fetched.value.save_as(tmp_path / "a.html")
    alone = page.context.new_page()
    alone.goto((tmp_path / "a.html").as_uri())
    alone.get_by_text("in all, at most").first.wait_for()
    assert demo.desk.line.places == []


def test_several_media_are_occluded_and_a_word_is_picked_with_every_tab_open(page, demo):
    page.locator("#pictures input[type=file]").first.set_input_files([str(SCENE), str(PAIR)])
    page.locator("#pictures img").nth(1).wait_for()
    run(page, "How many shapes are there?")
    assert ended(page).startswith("Done: ")
    together = []
    page.on("request", lambda one: together.append(len(demo.desk.line.places)) if one.url.endswith("/ask") else None)

    def hidden(panel):
        for k in range(2):
            panel.locator("figcaption", has_text="Occlusion").nth(k).wait_for()
        panel.locator("[aria-busy]").wait_for(state="detached")

    def panel(name):
        page.get_by_role("tab", name=name).click()
        return page.get_by_role("tabpanel", name=name)

    hidden(panel("Occlusion"))
    for name in ("Where it looked", "Lens"):
        panel(name).get_by_text("Replay differs").first.wait_for()
    words = panel("Words").locator("[role=option]")
    picked = words.nth(1).inner_text()
    words.nth(1).click()
    page.get_by_role("heading", name="Token 1:").wait_for()
    asked = len(together)
    page.wait_for_timeout(500)
    assert len(together) == asked  # who is not seen asks nothing
    for name in ("Where it looked", "Lens", "Occlusion"):
        panel(name).get_by_text("Token 1,").first.wait_for()
        assert panel(name).locator("[aria-selected=true]").inner_text() == picked
    hidden(panel("Occlusion"))
    assert max(together) <= 1
    assert [one.inner_text() for one in page.locator(".wb-error").all() if one.inner_text()] == []


def test_what_the_microphone_hears_is_asked_about(page, demo, picture):
    def held():
        return {path for of_one in list(demo.desk.uploads._held.values()) for path in list(of_one)}

    before = held()
    page.locator("#sound").get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(1500)  # the fake device beeps
    page.locator("#sound").get_by_role("button", name="Stop").first.click()
    page.locator("#sound").get_by_role("button", name="Play").first.wait_for()
    end = time.monotonic() + PATIENCE / 1000
    while not held() - before and time.monotonic() < end:  # it can be played before it is uploaded
        page.wait_for_timeout(50)
    run(page, "What word do you hear?")
    assert ended(page).startswith("Done: ")
    page.get_by_role("tab", name="Where it looked").click()
    page.locator(".wb-sound svg").first.wait_for()
    picture(page, "demo-microphone")


def test_an_example_fills_the_page_and_errors_are_text(page):
    page.get_by_text(SEVEN.name).first.click()
    page.locator("#sound").get_by_role("button", name="Play").first.wait_for()
    evil = "<img src=x onerror=\"document.title='owned'\">"
    broken = {"name": "<img src=x onerror=alert(1)>.png", "mimeType": "image/png", "buffer": b"\x89PNG\r\n\x1a\n\0\0\0"}
    page.locator("#pictures input[type=file]").first.set_input_files(broken)
    page.locator("#pictures img, #pictures .thumbnail-item").first.wait_for()
    run(page, evil)
    page.locator("#answer .demo-status.bad").wait_for()
    assert page.locator("#answer img[src=x]").count() == 0
    assert page.title() == "Gemma workbench"


def test_stop_ends_a_run_and_a_closed_tab_frees_the_model(page, demo, chromium):
    def long(tab):
        tab.get_by_text("Settings").first.click()
        tab.get_by_label("At most, tokens").first.fill("512")
        run(tab, "Say everything you know, again and again, and never stop.")

    slow = demo.desk.model.ask

    def crawl(*values, on_token=None, **how):
        def heard(token):
            on_token(token)
            how["stop"].wait(60)  # however short the answer, it lasts until Stop

        return slow(*values, on_token=heard, **how)

    demo.desk.model.ask = crawl
    try:
        long(page)
        page.locator("#answer .wb-t").first.wait_for()
        page.get_by_role("button", name="Stop", exact=True).click()
        assert ended(page).startswith("Stopped: ")
        assert demo.desk.line.places == []
        context = chromium.new_context()
        other = context.new_page()
        other.set_default_timeout(PATIENCE)
        other.goto(demo.local_url)
        other.get_by_role("button", name="Run", exact=True).wait_for()
        long(other)
        other.locator("#answer .wb-t").first.wait_for()
        kept = len(demo.desk.runs)
        context.close()
        end = time.monotonic() + 30
        while demo.desk.line.places and time.monotonic() < end:
            page.wait_for_timeout(100)
        assert demo.desk.line.places == []
        assert len(demo.desk.runs) <= kept
    finally:
        del demo.desk.model.ask


def test_narrow_dark_and_by_keys(demo, chromium, picture):
    context = chromium.new_context(viewport={"width": 420, "height": 900}, color_scheme="dark")
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE)
    tab.goto(demo.local_url)
    tab.get_by_role("button", name="Run", exact=True).wait_for()
    run(tab, "How many shapes are there?")
    ended(tab)
    tab.get_by_role("tab", name="Words").focus()
    tab.keyboard.press("ArrowRight")
    assert tab.get_by_role("tab", name="Where it looked").get_attribute("aria-selected") == "true"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 420
    picture(tab, "demo-dark-narrow")
    context.close()
