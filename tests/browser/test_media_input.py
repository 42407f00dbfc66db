"""MediaInput in a real browser: files, paste, drop, microphone, webcam, and what is refused."""

import base64
import io

import numpy as np
import PIL.Image
import pytest

from tests.browser.bridge import PATIENCE, Bridge
from tests.traces import make_sound
from widgets.media_input import PART, MediaInput, wav


def png(width=60, height=36, noise=False):
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    (PIL.Image.fromarray(pixels) if noise else PIL.Image.new("RGB", (width, height), "red")).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def media(chromium):
    context = chromium.new_context(viewport={"width": 900, "height": 700}, permissions=["microphone", "camera"])
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE)
    complaints = []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    widget = MediaInput(default_image_tokens=70)
    bridge = Bridge(widget, tab)
    yield widget, tab, bridge
    assert complaints == []
    tab.evaluate("cleanup()")
    assert tab.evaluate("model.listeners()") == 0  # nothing is left behind
    context.close()


def test_files_are_chosen_shown_moved_and_removed(media, picture):
    widget, tab, bridge = media
    tab.get_by_label("Choose files").set_input_files(
        [{"name": "<b>scene.png", "mimeType": "image/png", "buffer": png()},
         {"name": "word.wav", "mimeType": "audio/wav", "buffer": wav(make_sound(1.3))},
         {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"just some text"}]
    )  # fmt: skip
    bridge.until(lambda: len(widget.items) == 2)
    bridge.until(lambda: tab.get_by_role("alert").filter(has_text="a text file").count() == 1)
    cards = tab.get_by_label("Pictures and sounds").get_by_role("listitem")
    assert "<b>scene.png" in cards.nth(0).inner_text()  # a name, not markup
    assert "6×10 patches · 60 tokens" in cards.nth(0).inner_text()
    assert "1.30 s · 33 tokens" in cards.nth(1).inner_text()
    tab.get_by_label("Tokens a picture").select_option("280")
    bridge.until(lambda: widget.image_tokens == 280)
    bridge.until(lambda: "12×21 patches · 252 tokens" in cards.nth(0).inner_text())
    picture(tab, "media-input")
    tab.get_by_role("button", name="Move word.wav forwards").click()
    bridge.until(lambda: widget.items[0]["name"] == "word.wav")
    bridge.pump()
    tab.get_by_role("button", name="Remove word.wav").click()
    bridge.until(lambda: len(widget.items) == 1)
    assert widget.audio == []


def test_a_large_file_crosses_in_parts(media):
    widget, tab, bridge = media
    data = png(1400, 1200, noise=True)
    assert len(data) > 4 * PART
    tab.get_by_label("Choose files").set_input_files([{"name": "big.png", "mimeType": "image/png", "buffer": data}])
    bridge.until(lambda: len(widget.items) == 1, seconds=40)
    assert widget.images[0].pixels.shape == (1200, 1400, 3)
    assert bridge.biggest < PART + 1000


def test_a_host_that_carries_no_binary_is_sent_base64(chromium):
    context = chromium.new_context()
    tab = context.new_page()
    widget = MediaInput()
    bridge = Bridge(widget, tab, binary=False)
    data = png(800, 700, noise=True)
    assert len(data) > PART
    tab.get_by_label("Choose files").set_input_files([{"name": "a.png", "mimeType": "image/png", "buffer": data}])
    bridge.until(lambda: len(widget.items) == 1, seconds=40)
    assert widget.images[0].pixels.shape == (700, 800, 3)
    tab.get_by_label("Choose files").set_input_files(
        [{"name": "word.wav", "mimeType": "audio/wav", "buffer": wav(make_sound(1.3))}]
    )
    bridge.until(lambda: tab.get_by_text("1.30 s").count() == 1)
    context.close()


def test_paste_and_drop(media):
    widget, tab, bridge = media
    for event, name in (("paste", "pasted.png"), ("drop", "dropped.png")):
        tab.evaluate(
            """([event, name, data]) => {
                const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
                const carried = new DataTransfer();
                carried.items.add(new File([bytes], name, { type: "image/png" }));
                const made = event === "paste"
                    ? new ClipboardEvent("paste", { clipboardData: carried, bubbles: true, cancelable: true })
                    : new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true });
                document.querySelector(".wb-drop").dispatchEvent(made);
            }""",
            [event, name, base64.b64encode(png()).decode()],
        )
        bridge.until(lambda name=name: [item["name"] for item in widget.items][-1:] == [name])


def test_a_file_of_the_disk_is_dragged_in(media, tmp_path):
    """As a hand does it: over the frame, which shows that it may be let go there, and dropped."""
    widget, tab, bridge = media
    (tmp_path / "dragged.png").write_bytes(png())
    (tmp_path / "word.wav").write_bytes(wav(make_sound(0.5)))
    box = tab.locator(".wb-drop").bounding_box()
    place = {"x": box["x"] + box["width"] - 8, "y": box["y"] + box["height"] - 8}
    files = [str(tmp_path / name) for name in ("dragged.png", "word.wav")]
    data = {"items": [], "files": files, "dragOperationsMask": 1}
    hand = tab.context.new_cdp_session(tab)
    for kind in ("dragEnter", "dragOver"):
        hand.send("Input.dispatchDragEvent", {"type": kind, **place, "data": data})
    tab.locator(".wb-drop.over").wait_for()
    hand.send("Input.dispatchDragEvent", {"type": "drop", **place, "data": data})
    bridge.until(lambda: [item["name"] for item in widget.items] == ["dragged.png", "word.wav"])
    assert tab.locator(".wb-drop.over").count() == 0
    assert widget.audio[0].duration_ms == 500


def test_microphone_and_webcam(media):
    """Chromium's pretended devices: a beep each second, and a green picture with a clock."""
    widget, tab, bridge = media
    tab.get_by_role("button", name="Record").click()
    tab.get_by_text("Stop recording").wait_for()
    tab.wait_for_timeout(1500)
    tab.get_by_text("Stop recording").click()
    bridge.until(lambda: len(widget.audio) == 1)
    assert 500 < widget.audio[0].duration_ms < 15_000
    assert np.abs(widget.audio[0].samples).max() > 0.01
    tab.get_by_role("button", name="Webcam").click()
    tab.get_by_role("button", name="Take picture").click()
    bridge.until(lambda: len(widget.images) == 1)
    assert widget.images[0].pixels.std() > 1
    assert tab.locator("video").count() == 0


LIVE = "(kind) => tracks.filter((track) => track.kind === kind && track.readyState === 'live').length"


def test_a_double_click_leaves_no_microphone_and_no_camera_on(media):
    widget, tab, bridge = media
    tab.evaluate(
        """() => {
            window.tracks = [];
            const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            navigator.mediaDevices.getUserMedia = async (wanted) => {
                const stream = await real(wanted);
                tracks.push(...stream.getTracks());
                return stream;
            };
        }"""
    )
    tab.get_by_role("button", name="Record").dblclick()
    stop = tab.get_by_role("button", name="Stop recording")
    stop.wait_for()
    tab.wait_for_timeout(1000)
    assert tab.evaluate(LIVE, "audio") == 1
    stop.click()
    bridge.until(lambda: len(widget.audio) == 1)
    assert tab.evaluate(LIVE, "audio") == 0
    webcam = tab.get_by_role("button", name="Webcam")
    for _ in range(2):
        webcam.dblclick()
        cancel = tab.get_by_role("button", name="Cancel", exact=True)
        cancel.wait_for()
        webcam.click()
        tab.wait_for_timeout(1000)
        assert tab.evaluate(LIVE, "video") == 1
        cancel.click()
        assert tab.evaluate(LIVE, "video") == 0
    webcam.click()
    tab.get_by_role("button", name="Take picture").dblclick()
    bridge.until(lambda: len(widget.images) == 1)
    tab.wait_for_timeout(300)
    bridge.pump()
    assert (len(widget.images), tab.evaluate(LIVE, "video")) == (1, 0)


def test_a_path_that_is_not_there_is_told(media):
    _, tab, bridge = media
    box = tab.get_by_label("Path on the kernel's disk")
    box.fill("nowhere/none.png")
    box.press("Enter")
    bridge.until(lambda: "none.png" in tab.locator(".wb-error").inner_text())


def test_without_devices_the_reason_stands_on_the_buttons(chromium):
    context = chromium.new_context()
    tab = context.new_page()
    tab.add_init_script("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")
    Bridge(MediaInput(), tab)
    for name in ("Record", "Webcam"):
        button = tab.get_by_role("button", name=name)
        assert button.get_attribute("aria-disabled") == "true"
        assert "HTTPS" in button.get_attribute("title")
    context.close()
