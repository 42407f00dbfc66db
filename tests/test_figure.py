"""Figures for a paper, and the command that writes them."""

import io
import re
import xml.etree.ElementTree as ET
import zlib
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from tests.test_readings import TRACE, attention
from tests.traces import make_image
from widgets import figure, sheet
from widgets.figure import draw, write
from widgets.sheet import Sheet, viridis
from workbench import cli
from workbench.errors import TraceError
from workbench.readings import keep

EVIL = "<script>alert(1)</script> & (\\ café"


@pytest.fixture(scope="module")
def a():
    """All on the patch of row 2, column 3 of the first picture, and on the sound from 280 to 320 ms."""
    return attention(lambda *_: {18: 0.5, 35: 0.5})


def frame(sheet):
    """The rectangle around the strongest place."""
    (found,) = [m for kind, m in sheet.marks if kind == "rect" and m[5] == (213, 94, 0)]
    return found[:4]


def test_the_strongest_patch_is_framed_at_its_pixels(a):
    sheet = draw(TRACE, a.map("image", 0, token=2))
    ((x, y, w, h, pixels),) = [m for kind, m in sheet.marks if kind == "picture"]
    assert pixels.shape == (36, 60, 3)
    scale = w / 60
    assert h == pytest.approx(36 * scale)
    left, top, wide, tall = frame(sheet)
    np.testing.assert_allclose([(left - x) / scale, (top - y) / scale], [36, 24], atol=1e-4)
    np.testing.assert_allclose([wide / scale, tall / scale], [12, 12], atol=1e-4)


def test_the_strongest_frame_is_framed_at_its_milliseconds(a):
    sheet = draw(TRACE, a.map("audio", 0, token=2))
    left, _, wide, _ = frame(sheet)
    total = TRACE.prompt.segment("audio").end_ms[-1]
    assert (left - 18) / 460 * total == pytest.approx(280)
    assert wide / 460 * total == pytest.approx(40)
    words = [m[2] for kind, m in sheet.marks if kind == "text"]
    assert "seconds" in words
    assert any("share of attention" in w and "token 2" in w for w in words)
    assert any(w.startswith("Q: What is at the top left?") for w in words)
    assert any("pocket (revision 1" in w and "float32 on cpu" in w for w in words)
    assert "0.5" in words, "the colour bar has its largest value"


def test_the_colour_bar_of_a_flat_picture_can_be_read():
    flat = replace(TRACE, images=(make_image(20, 4000), *TRACE.images[1:]))
    sheet = draw(flat, attention(lambda *_: {18: 0.5}).map("image", 0, token=2))
    ((x, _, w, h, _),) = [m for kind, m in sheet.marks if kind == "picture"]
    assert (w, h) == (460, pytest.approx(2.3))
    texts = [m for kind, m in sheet.marks if kind == "text"]
    numbers = sorted(m[1] for m in texts if m[0] > x + w)
    assert len(numbers) == 3
    assert min(np.diff(numbers)) > 15, "of 7.5 points each"
    assert min(m[1] for m in texts if "share of attention" in m[2]) > numbers[-1]
    assert sheet.height > max(m[1] for m in texts)


def test_png_svg_and_pdf_are_what_they_say(a, tmp_path):
    made = a.map("image", 0, token=2)
    for name in ("a.png", "a.svg", "a.PDF"):
        write(TRACE, made, tmp_path / name, note=EVIL)
    with PIL.Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
        assert image.size[0] == ((460 + 36 + 64) * 3)
        assert image.info["dpi"][0] == pytest.approx(216, abs=0.1)
    assert (np.abs(pixels - (213, 94, 0)).sum(-1) == 0).sum() > 100, "the frame is there"
    root = ET.fromstring((tmp_path / "a.svg").read_text("utf-8"))
    assert "script" not in {e.tag.split("}")[1] for e in root.iter()}
    assert any("café" in (e.text or "") for e in root.iter())
    data = (tmp_path / "a.PDF").read_bytes()
    assert data.startswith(b"%PDF-1.4")
    start = int(re.search(rb"startxref\n(\d+)", data).group(1))
    assert data[start : start + 4] == b"xref"
    for number, offset in enumerate(re.findall(rb"^(\d{10}) 00000 n", data, re.MULTILINE), 1):
        assert data[int(offset) :].startswith(b"%d 0 obj" % number)
    (length,) = re.search(rb"4 0 obj\n<<  ?/Filter /FlateDecode /Length (\d+)", data).groups()
    at = data.index(b"stream\n", data.index(b"4 0 obj")) + 7
    drawn = zlib.decompress(data[at : at + int(length)]).decode("ascii")
    assert "/I0 Do" in drawn
    assert "caf\\351" in drawn
    assert "\\050\\134" in drawn, "a bracket in the words does not end the string"


def test_colours_of_amounts():
    assert viridis(0) == (68, 1, 84)
    assert viridis(1) == viridis(7) == (253, 231, 37)
    brightness = [sum(c * w for c, w in zip(viridis(t), (0.3, 0.6, 0.1), strict=True)) for t in np.linspace(0, 1, 30)]
    assert (np.diff(brightness) > 0).all()
    sheet = Sheet(10, 10)
    sheet.rect(0, 0, 10, 10, fill=(0, 0, 0), alpha=0.5)
    with PIL.Image.open(io.BytesIO(sheet.png(scale=1))) as image:
        assert image.getpixel((5, 5))[0] in (127, 128)


def test_what_cannot_be_drawn_is_said(a, tmp_path):
    with pytest.raises(TraceError, match=r"\.png, \.svg, \.pdf"):
        write(TRACE, a.map("image", 0), tmp_path / "a.gif")
    with pytest.raises(TraceError, match="over an image or a sound"):
        draw(TRACE, a.map("text"))
    with pytest.raises(TraceError, match="cannot be written"):
        write(TRACE, a.map("image", 0), tmp_path / "no" / "a.png")


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_draws_what_was_kept_without_a_model(a, tmp_path, capsys, monkeypatch):
    from workbench import loading

    monkeypatch.setattr(loading, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    file, out = tmp_path / "a.trace", tmp_path / "map.svg"
    keep(TRACE, a).save(file)
    assert cli.main(["attend", str(file), "--token", "3", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert "token 3" in out.read_text("utf-8")
    more = ["--audio", "0", "--head", "1", "--no-sinks"]
    assert cli.main(["attend", str(file), "--token", "0", "--token=-1", "--out", str(out), *more]) == 0
    assert "head 1" in out.read_text("utf-8")
    for wrong, words in (
        (["--token", "99"], "7 tokens"), (["--token", "1", "--image", "5"], "no image 5"),
        (["--token", "1", "--rollout", "--head", "1"], "leave --layer and --head away"),
    ):  # fmt: skip
        assert cli.main(["attend", str(file), *wrong, "--out", str(out)]) == 1
        assert words in capsys.readouterr().err
    assert cli.main(["attend", str(file), "--token", "1", "--out", str(tmp_path / "map.gif")]) == 1
    assert ".png, .svg, .pdf" in capsys.readouterr().err


def test_the_command_says_why_it_loads_a_model_and_loads_what_the_trace_is_of(a, tmp_path, capsys, monkeypatch):
    from workbench import loading
    from workbench.errors import ModelError

    loaded = []

    def load(name, **how):
        loaded.append((name, how))
        raise ModelError("not today")

    monkeypatch.setattr(loading, "load", load)
    info = replace(
        TRACE.model, name="gemma-4-12b", variant="google/gemma-4-12B-it", revision="abc", quantization="int4"
    )
    trace = replace(TRACE, model=info)
    keep(trace, replace(a, identity=info.identity)).save(tmp_path / "a.trace")
    asked = ["attend", str(tmp_path / "a.trace"), "--token", "1", "--out", str(tmp_path / "map.svg")]
    assert cli.main([*asked, "--rollout"]) == 1
    assert "kept without rollout. Asking the model." in capsys.readouterr().err
    how = {"quantization": "int4", "variant": "google/gemma-4-12B-it", "revision": "abc"}
    assert loaded == [("gemma-4-12b", how)]
    assert cli.main([*asked, "--rollout", "--model", "gemma-4-e4b"]) == 1
    assert loaded[1:] == [("gemma-4-e4b", {"quantization": "int4"})]
    part = replace(a, identity=info.identity, of_heads=99)
    keep(trace, part).save(tmp_path / "a.trace")
    assert cli.main(asked) == 1
    assert "some layers or heads only" in capsys.readouterr().err


def test_the_command_asks_the_model_for_the_rest(tmp_path, capsys):
    workbench = pytest.importorskip("workbench")
    pytest.importorskip("torch")
    from workbench.pocket import HERE

    model = workbench.load("pocket", progress=False)
    trace = model.ask("Which word?", audio=[HERE / "examples" / "seven.wav"], max_new_tokens=3, temperature=0, draft=0)
    trace.save(tmp_path / "a.trace")
    out = tmp_path / "map.png"
    assert cli.main(["attend", str(tmp_path / "a.trace"), "--token", "1", "--rollout", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out), "what is said on the way goes to standard error"
    with PIL.Image.open(out) as image:
        assert image.size[0] > image.size[1]


@pytest.mark.parametrize("fonts", [sheet._FONTS, ()])
def test_letters_that_a_font_lacks_are_never_boxes(fonts, monkeypatch):
    monkeypatch.setattr(sheet, "_FONTS", fonts)
    sheet._font.cache_clear()
    said, font = sheet._drawable("Où est le carré ≥ \U0010fffe?", 30)
    sheet._font.cache_clear()
    nothing = bytes(font.getmask("\U0010ffff"))
    assert all(letter.isascii() or bytes(font.getmask(letter)) != nothing for letter in said)
    assert said[:8].replace("ù", "u") == "Ou est l"
    assert said.endswith("?")


def test_a_long_question_begins_at_its_beginning_and_fits():
    first, second = figure._lines("Q: " + "word " * 100, 92)
    assert first.startswith("Q: word")
    assert second.endswith(" …")
    wide = figure._lines("Q: " + "四角はどこにありますか" * 20, 92)
    assert all(len(line) <= 46 for line in wide)
    assert len(wide) == 2
