"""AttentionView in a real browser: the hottest patch is where it should be, for the word that is picked."""

import threading

import numpy as np
import pytest

from tests.attentions import Looker, hot, make_attention, make_occlusion
from tests.browser.bridge import PATIENCE, Bridge
from tests.traces import make_trace
from widgets import AttentionView, TokenView, to_html
from workbench.errors import TraceError
from workbench.readings import keep

TRACE = make_trace(tokens=6)


@pytest.fixture
def looking(chromium):
    context = chromium.new_context(viewport={"width": 1000, "height": 900})
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE)
    complaints = []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    view = AttentionView(TRACE, Looker(TRACE))
    looked = view.answer_attend
    view.answer_attend = lambda **asked: {**looked(**asked), "seconds": 0.0}  # quick enough to be asked while hovering
    yield view, tab, Bridge(view, tab)
    assert complaints == []
    tab.evaluate("cleanup()")
    assert tab.evaluate("model.listeners()") == 0
    context.close()


def stage(tab, name):
    return tab.get_by_role("figure").filter(has=tab.get_by_role("img", name=name)).locator(".wb-stage")


def hottest(tab, name):
    return stage(tab, name).get_attribute("data-hottest")


def test_the_hottest_patch_follows_the_word_and_the_head(looking, picture):
    view, tab, bridge = looking
    bridge.until(lambda: hottest(tab, "Heat on scene.png") == "0")  # the first word, both heads: patches 0 and 1
    tab.locator(".wb-t[role=option]").nth(2).click()
    bridge.until(lambda: hottest(tab, "Heat on scene.png") == str(hot(TRACE, 2, 0)))
    assert view.selected == 2
    mark = stage(tab, "Heat on scene.png").locator(".wb-mark").bounding_box()
    box = stage(tab, "Heat on scene.png").bounding_box()
    # patch 6 of 3 rows of 5: row 1, column 1
    assert (mark["x"] - box["x"]) / box["width"] == pytest.approx(1 / 5, abs=0.01)
    assert (mark["y"] - box["y"]) / box["height"] == pytest.approx(1 / 3, abs=0.02)
    tab.get_by_label("Head", exact=True).select_option("1")
    bridge.until(lambda: hottest(tab, "Heat on scene.png") == str(hot(TRACE, 2, 1)))
    assert hottest(tab, "Heat on word.wav") == "2"
    tab.get_by_text("Every layer and head").click()
    bridge.until(lambda: tab.locator(".wb-heads canvas").count() == 6)
    tab.get_by_role("img", name="Layer 1, head 0").click()
    bridge.until(lambda: hottest(tab, "Heat on scene.png") == str(hot(TRACE, 2, 0)))
    assert tab.get_by_label("Layer", exact=True).input_value() == "1"
    picture(tab, "attention-light")


def test_pointing_at_words_and_patches(looking):
    view, tab, bridge = looking
    bridge.until(lambda: hottest(tab, "Heat on scene.png") == "0")
    tab.locator(".wb-t[role=option]").nth(3).hover()
    bridge.until(lambda: hottest(tab, "Heat on scene.png") == str(hot(TRACE, 3, 0)))
    assert view.selected == -1
    box = stage(tab, "Heat on scene.png").bounding_box()
    bridge.until(lambda: hottest(tab, "Heat on scene.png") == str(hot(TRACE, 3, 0)))
    tab.mouse.move(0, 0)
    bridge.until(lambda: hottest(tab, "Heat on scene.png") == "0")
    tab.mouse.move(box["x"] + 5, box["y"] + 5)
    tab.get_by_text("Row 0, column 0: 25.0 %").wait_for()
    tab.get_by_role("button", name="lens").click()
    tab.mouse.move(box["x"] + 8, box["y"] + 8)
    bridge.until(lambda: "in: ␣red · 0: <b>blue" in tab.locator("figcaption").first.inner_text())
    tab.get_by_role("button", name="occlusion").click()
    cost = tab.get_by_role("figure").filter(has=tab.get_by_role("img", name="What hiding costs on scene.png"))
    bridge.until(lambda: "At most 2.00 nats, by hiding 3 × 3 patches. Rank correlation" in cost.inner_text())
    assert hottest(tab, "What hiding costs on scene.png") == "1"
    assert hottest(tab, "Heat on scene.png") == "0", "the attention stays beside it"
    box = cost.locator(".wb-stage").bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2 - 5, box["y"] + 8)
    cost.get_by_text("Row 0, column 2: 0.00 nats").wait_for()
    tab.locator(".wb-t[role=option]").nth(1).hover()
    bridge.until(lambda: "Pick this word to hide each place in turn." in cost.inner_text())
    tab.locator(".wb-t[role=option]").nth(1).click()
    bridge.until(lambda: hottest(tab, "What hiding costs on scene.png") == "2")
    tab.get_by_role("button", name="occlusion").click()
    cost.wait_for(state="hidden")


def test_patches_and_frames_are_reached_by_keyboard(looking):
    _, tab, bridge = looking
    bridge.until(lambda: hottest(tab, "Heat on scene.png") == "0")
    tab.get_by_role("button", name="lens").click()
    picture = tab.get_by_role("application", name="Heat on scene.png")
    picture.focus()
    tab.keyboard.press("ArrowRight")
    tab.get_by_text("Row 0, column 0: 25.0 %").wait_for()
    tab.keyboard.press("ArrowDown")
    tab.get_by_text("Row 1, column 0: ").wait_for()
    bridge.until(lambda: "in: ␣red · 0: <b>blue" in tab.locator("figcaption").first.inner_text())
    assert tab.locator("figcaption[aria-live=polite]").count() == 1
    for _ in range(9):
        tab.keyboard.press("ArrowDown")
    tab.get_by_text("Row 2, column 0: ").wait_for()
    tab.keyboard.press("Tab")
    tab.get_by_text("Row 2, column 0: ").wait_for(state="hidden")
    assert tab.locator("figcaption[aria-live]").count() == 0
    sound = tab.get_by_role("slider", name="Where to play word.wav from")
    sound.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "End", "ArrowRight", "Home", "ArrowRight"):
        tab.keyboard.press(key)
    assert sound.get_attribute("aria-valuenow") == "0.04"
    assert tab.locator(".wb-cursor:not([hidden])").count() == 1


def test_sounds_are_played_from_where_one_clicks(looking):
    _, tab, bridge = looking
    bridge.until(lambda: hottest(tab, "Heat on word.wav") == "0")
    stage(tab, "Heat on word.wav").click()
    bridge.until(lambda: tab.locator(".wb-cursor:not([hidden])").count() == 1)
    tab.get_by_role("button", name="Spectrogram").click()
    bridge.until(lambda: tab.get_by_role("img", name="Spectrogram of word.wav").count() == 1)


def test_a_slow_answer_does_not_paint_over_a_newer_choice(looking):
    view, tab, bridge = looking
    real, go = view.answer_attend, threading.Event()

    def slow(token, layer=None, **more):
        if token == 2 or layer == 1:
            go.wait(20)
        return real(token=token, layer=layer, **more)

    def settled():
        return tab.locator(".wb-body[aria-busy]").count() == 0

    view.answer_attend = slow
    bridge.until(lambda: hottest(tab, "Heat on scene.png") == "0" and settled())
    caption = tab.locator(".wb-scene figcaption").first
    everywhere = caption.inner_text()
    tab.get_by_label("Layer", exact=True).select_option("1")
    tab.get_by_label("Layer", exact=True).select_option("")  # which is known, and shown at once
    go.set()
    bridge.until(settled)
    assert caption.inner_text() == everywhere != ""
    tab.get_by_label("Layer", exact=True).select_option("1")
    bridge.until(lambda: "Layer 1." in caption.inner_text())
    assert tab.get_by_text("by part of the prompt (layer 1)").count() == 1
    tab.get_by_label("Layer", exact=True).select_option("")
    go.clear()
    words = tab.locator(".wb-t[role=option]")
    words.nth(2).click()
    words.nth(0).click()
    go.set()
    bridge.until(settled)
    assert hottest(tab, "Heat on scene.png") == "0"
    tab.mouse.move(0, 0)
    words.nth(2).click()
    bridge.until(lambda: hottest(tab, "Heat on scene.png") == str(hot(TRACE, 2, 0)))


def test_the_grid_of_heads_is_of_the_word_that_was_asked_about(looking):
    view, tab, bridge = looking
    real, asked, go = view.answer_heads, [], {0: threading.Event(), 3: threading.Event()}

    def slow(token, **more):
        asked.append(token)
        go[token].wait(20)
        return real(token, **more)

    view.answer_heads = slow
    bridge.until(lambda: hottest(tab, "Heat on scene.png") == "0")
    tab.get_by_text("Every layer and head").click()
    bridge.until(lambda: asked == [0])
    tab.locator(".wb-t[role=option]").nth(3).click()
    go[0].set()
    bridge.until(lambda: asked == [0, 3])  # the answer about the first word is on its way
    tab.wait_for_timeout(100)
    bridge.pump()
    assert tab.locator(".wb-heads").inner_text() == ""
    go[3].set()
    bridge.until(lambda: tab.get_by_text("The first picture, token 3.").count() == 1)
    pixels = "(node) => [...node.getContext('2d').getImageData(0, 0, 5, 3).data].filter((_, k) => k % 4 === 0)"
    reds = tab.get_by_role("img", name="Layer 0, head 0").evaluate(pixels)
    assert int(np.argmax(reds)) == hot(TRACE, 3, 0)


def test_occlusion_without_attention_is_shown(chromium):
    context = chromium.new_context(viewport={"width": 1000, "height": 900})
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE)
    every = [("image", k) for k in range(len(TRACE.images))] + [("audio", k) for k in range(len(TRACE.audio))]
    kept = keep(TRACE, *(make_occlusion(TRACE, 2, *place) for place in every))
    bridge = Bridge(AttentionView(kept), tab)
    tab.locator(".wb-t[role=option]").nth(2).click()
    tab.get_by_role("button", name="occlusion").click()
    bridge.until(lambda: hottest(tab, "What hiding costs on scene.png") == "3")
    assert "At most 2.00 nats" in tab.locator("figcaption").nth(1).inner_text()
    assert tab.get_by_role("alert").count() == 0
    context.close()


def test_a_lens_that_failed_is_asked_again_once_it_is_taken_up_anew(looking):
    view, tab, bridge = looking
    real, asked = view.answer_lens, []

    def fails_once(media):
        asked.append(media)
        if len(asked) == 1:
            raise TraceError("Busy: ask again.")
        return real(media)

    view.answer_lens = fails_once
    bridge.until(lambda: hottest(tab, "Heat on scene.png") == "0")
    tab.get_by_role("button", name="lens").click()
    box = stage(tab, "Heat on scene.png").bounding_box()
    tab.mouse.move(box["x"] + 8, box["y"] + 8)
    # inner_text would wait for the alert, and no message would be carried meanwhile
    bridge.until(lambda: any("Busy" in words for words in tab.get_by_role("alert").all_inner_texts()))
    for k in range(5):  # every move would be a question that fails
        tab.mouse.move(box["x"] + 9 + k, box["y"] + 9)
    for _ in range(2):
        tab.get_by_role("button", name="lens").click()
    tab.mouse.move(box["x"] + 9, box["y"] + 9)
    bridge.until(lambda: "in: ␣red · 0: <b>blue" in tab.locator("figcaption").first.inner_text())
    assert asked == [0, 0]


def test_a_sound_that_plays_is_stopped_and_played_from_elsewhere(looking):
    _, tab, bridge = looking
    bridge.until(lambda: hottest(tab, "Heat on word.wav") == "0")
    tab.evaluate(
        """() => {
            window.made = [];
            window.Audio = class extends EventTarget { // an hour long: no test waits for its end
                currentTime = 0;
                constructor() { super(); made.push(this); }
                async play() { this.on = true; }
                pause() { this.on = false; }
            };
        }"""
    )
    playing = "made.filter((sound) => sound.on).length"
    cursor = tab.locator(".wb-cursor:not([hidden])")
    for at in (0.1, 0.5):
        stage(tab, "Heat on word.wav").click(position={"x": at * 300, "y": 20})
        bridge.until(lambda at=at: tab.evaluate("made.length") == (1 if at == 0.1 else 2))
        bridge.until(lambda: cursor.count() == 1)
        assert tab.evaluate(playing) == 1
    tab.wait_for_timeout(100)
    assert cursor.count() == 1
    tab.get_by_role("button", name="Stop word.wav").click()
    assert tab.evaluate(playing) == 0
    assert cursor.count() == 0
    play = tab.get_by_role("button", name="Play word.wav")
    assert play.inner_text() == "▶ Play"
    play.click()
    bridge.until(lambda: tab.get_by_role("button", name="Stop word.wav").count() == 1)
    tab.evaluate("made.at(-1).dispatchEvent(new Event('ended'))")
    play.wait_for()


def test_a_page_holds_every_word_and_shares_the_picked_one(open_page, picture, tmp_path):
    kept = keep(TRACE, make_attention(TRACE))
    path = to_html([TokenView(kept), AttentionView(kept)], tmp_path / "a.html")
    tab = open_page(path, width=400, color_scheme="dark")
    tab.locator(".wb").first.locator(".wb-t[role=option]").nth(4).click()
    expected = str(hot(TRACE, 4, 0))
    tab.locator(f".wb-stage[data-hottest='{expected}']").first.wait_for()
    assert tab.get_by_label("Head", exact=True).is_disabled()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400
    picture(tab, "attention-dark-narrow")


def test_a_page_shows_the_occlusion_that_was_kept(open_page, picture, tmp_path):
    places = [("image", k) for k in range(len(TRACE.images))] + [("audio", k) for k in range(len(TRACE.audio))]
    kept = keep(TRACE, make_attention(TRACE), *[make_occlusion(TRACE, 2, *place) for place in places])
    tab = open_page(to_html(kept, tmp_path / "a.html"))
    look = tab.locator(".wb", has=tab.locator(".wb-stage"))
    look.locator(".wb-t[role=option]").nth(2).click()
    look.get_by_role("button", name="occlusion").click()
    look.get_by_text("by hiding 3 × 3 patches").first.wait_for()
    look.locator(".wb-stage[data-hottest='3']").first.wait_for()  # hiding place token + 1 costs most
    look.get_by_text("Rank correlation with the attention").first.wait_for()
    assert look.get_by_role("button", name="lens").is_disabled()
    picture(tab, "attention-page-occlusion")


def test_a_host_that_carries_no_binary_is_answered_in_base64(chromium):
    context = chromium.new_context()
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE)
    bridge = Bridge(AttentionView(TRACE, Looker(TRACE)), tab, binary=False)
    bridge.until(lambda: tab.locator(".wb-t[role=option]").count() == 6)
    tab.locator(".wb-t[role=option]").nth(2).click()
    bridge.until(lambda: hottest(tab, "Heat on word.wav") == "2")
    assert not tab.get_by_role("alert").is_visible()
    context.close()
