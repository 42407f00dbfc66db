"""MediaInput: uploads in parts, what is refused and when, order, cards."""

import io
import os
import wave

import numpy as np
import PIL.Image
import pytest

from tests.traces import make_image, make_sound
from widgets.media_input import MediaInput, outline, wav
from workbench.errors import MediaError
from workbench.media import load_audio


def png(width=60, height=36, colour="red"):
    file = io.BytesIO()
    PIL.Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def send(media, name, data, part=1000):
    key = media.answer({"ask": "begin", "name": name, "size": len(data)})["upload"]
    for at in range(0, len(data), part):
        piece = data[at : at + part]
        got = media.answer({"ask": "part", "upload": key, "offset": at}, [memoryview(piece)])
        assert got == {"received": at + len(piece)}
    return media.answer({"ask": "finish", "upload": key})


def test_a_file_comes_in_parts_and_is_the_same_file():
    media = MediaInput()
    send(media, "scene.png", png(), part=70)
    sound = wav(make_sound(1.3))
    send(media, "word.wav", sound)
    (picture,), (heard,) = media.images, media.audio
    assert picture.pixels.shape == (36, 60, 3)
    assert picture.pixels[0, 0].tolist() == [255, 0, 0]
    assert np.abs(heard.samples - make_sound(1.3).samples).max() < 1e-4
    assert [item["name"] for item in media.items] == ["scene.png", "word.wav"]
    assert media._uploads == {}


def test_cards_say_what_the_model_will_see():
    media = MediaInput(default_image_tokens=70)
    media.add(make_image(36, 60), make_sound(1.3))
    card, sound = media.items
    assert (card["rows"], card["cols"], card["tokens"], card["about"]) == (6, 10, 60, "60×36 px")
    assert (sound["tokens"], sound["about"]) == (33, "1.30 s")
    media.image_tokens = 280
    assert media.items[0]["tokens"] == 12 * 21  # at most 280
    low, high = (np.frombuffer(sound[name]["view"], np.int8) for name in ("low", "high"))
    assert len(low) == len(high) == 240
    assert (low <= high).all()
    assert high.max() > 90


def test_order_removal_and_replay():
    media = MediaInput()
    media.add(make_image(10, 20, name="a"), make_sound(0.1, name="b"), make_image(10, 20, name="c"))
    first, second, third = (item["key"] for item in media.items)
    media.answer({"ask": "move", "key": third, "step": -1})
    assert [item["name"] for item in media.items] == ["a", "c", "b"]
    media.answer({"ask": "move", "key": first, "step": -1})  # it is the first already
    media.move(999, 1)
    assert [item["name"] for item in media.items] == ["a", "c", "b"]
    assert [image.name for image in media.images] == ["a", "c"]
    said = media.answer({"ask": "sound", "key": second})["wav"]["view"]
    with wave.open(io.BytesIO(said)) as file:
        assert (file.getframerate(), file.getnframes(), file.getnchannels()) == (16_000, 1600, 1)
    media.answer({"ask": "remove", "key": second})
    with pytest.raises(MediaError, match="not there any more"):
        media.answer({"ask": "sound", "key": second})
    media.clear()
    assert media.items == []


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"just some text", "a text file"), (b"%PDF-1.7 ...", "PDF"), (b"\0\0\0\x18ftypisom" + bytes(50), "Take stills"),
     (b"\x00" * 100, "zero bytes")],
)  # fmt: skip
def test_what_is_no_picture_or_sound_is_refused_at_its_first_part(data, words):
    media = MediaInput()
    key = media.answer({"ask": "begin", "name": "mine", "size": 500_000_000})["upload"]
    with pytest.raises(MediaError, match=words):
        media.answer({"ask": "part", "upload": key, "offset": 0}, [data])
    assert media._uploads == {}
    assert media.items == []


def test_uploads_that_go_wrong_leave_what_was_there():
    media = MediaInput()
    media.add(make_image(10, 20))
    for size, words in ((0, "empty"), (1 << 40, "at most"), (-5, "at most")):
        with pytest.raises(MediaError, match=words):
            media.answer({"ask": "begin", "name": "x.png", "size": size})
    data = png()
    key = media.answer({"ask": "begin", "name": "x.png", "size": len(data)})["upload"]
    media.answer({"ask": "part", "upload": key, "offset": 0}, [data[:50]])
    with pytest.raises(MediaError, match=r"50 of \d+ bytes arrived"):
        media.answer({"ask": "finish", "upload": key})
    with pytest.raises(MediaError, match="not known any more"):
        media.answer({"ask": "part", "upload": key, "offset": 50}, [data[50:]])
    key = media.answer({"ask": "begin", "name": "x.png", "size": len(data)})["upload"]
    with pytest.raises(MediaError, match="lost its place"):
        media.answer({"ask": "part", "upload": key, "offset": 9}, [data])
    key = media.answer({"ask": "begin", "name": "x.png", "size": len(data)})["upload"]
    assert media.answer({"ask": "cancel", "upload": key}) == {}
    broken = data[:40] + bytes(30)
    with pytest.raises(MediaError):
        send(media, "broken.png", broken)
    huge = data[:16] + (70_000).to_bytes(4, "big") * 2 + data[24:]  # a header that promises 4.9 thousand megapixels
    with pytest.raises(MediaError, match=r"70,?000"):
        send(media, "huge.png", huge)
    assert len(media.items) == 1
    assert media._uploads == {}


def test_all_are_added_or_none():
    media = MediaInput()
    with pytest.raises(MediaError, match="text file"):
        media.add(make_image(10, 20), b"just some text")
    with pytest.raises(MediaError, match="32 pictures and sounds already"):
        media.add(*[make_image(4, 4)] * 33)
    assert media.images == media.items == []


def test_abandoned_uploads_and_too_many_items_are_bounded():
    media = MediaInput()
    for _ in range(40):
        media.answer({"ask": "begin", "name": "x.png", "size": 100})
    assert len(media._uploads) == 32
    media.add(*[make_image(4, 4)] * 32)
    with pytest.raises(MediaError, match="32 pictures and sounds already"):
        media.add(make_image(4, 4))
    assert len(media.images) == 32


def test_paths(tmp_path):
    media = MediaInput()
    (tmp_path / "a b.png").write_bytes(png())
    (tmp_path / "c.wav").write_bytes(wav(make_sound(0.2)))
    media.answer({"ask": "path", "path": f" {tmp_path / 'a b.png'} "})
    media.answer({"ask": "path", "path": str(tmp_path / "c.wav")})
    assert [item["kind"] for item in media.items] == ["image", "audio"]
    here = tmp_path / "home"
    here.mkdir()
    (here / "s.wav").write_bytes(wav(make_sound(0.2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(here))
        patch.setenv("USERPROFILE", str(here))
        media.add("~/s.wav")
    assert [item["kind"] for item in media.items] == ["image", "audio", "audio"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(MediaError, match="pipe"):
            media.add(tmp_path / "pipe")  # not waited for
    with pytest.raises(MediaError, match="cannot be opened"):
        media.add("a\0b")
    for path, words in ((" ", "Write the path"), (str(tmp_path / "none.png"), r"none\.png"), (str(tmp_path), ".")):
        with pytest.raises(MediaError, match=words):
            media.answer({"ask": "path", "path": path})


def test_outlines():
    low, high = outline(np.array([0, 0.5, -1, 1, 0.25, 0], np.float32), 3)
    assert (low.tolist(), high.tolist()) == ([0, -127, 0], [64, 127, 32])
    assert len(outline(np.zeros(2, np.float32))[0]) == 2


def test_wav_files_are_what_the_model_hears():
    sound = make_sound(0.5)
    again = load_audio(wav(sound))
    assert np.abs(again.samples - sound.samples).max() <= 1.01 / 32768


def test_small_pictures_are_made_once(monkeypatch):
    """A picture of twelve megapixels takes 60 ms: with 32 of them each move would take two seconds."""
    made = []
    monkeypatch.setattr("widgets.media_input.thumbnail", lambda image: made.append(image.name) or ("data:,", 1, 1))
    media = MediaInput()
    for k in range(4):
        media.add(png(60 + k), name=f"{k}.png")
    media.move(media.items[0]["key"], 2)
    before = [item["tokens"] for item in media.items]
    media.image_tokens = 70
    assert [item["tokens"] for item in media.items] != before
    media.remove(media.items[1]["key"])
    assert made == ["0.png", "1.png", "2.png", "3.png"]
    assert [item["name"] for item in media.items] == ["1.png", "0.png", "3.png"]
    media.clear()
    assert media._cards == {}
