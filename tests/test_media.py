"""What pictures and sounds have in common: where they may come from, what they are called, and bad input."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

import workbench.media
from workbench.errors import MediaError
from workbench.media import describe, display_name, load_audio, load_image, sniff
from workbench.media.sources import clean


def picture(kind="PNG"):
    file = io.BytesIO()
    PILImage.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3)).save(file, kind)
    return file.getvalue()


def sound(kind="WAV", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, np.linspace(-0.5, 0.5, 1600), 16_000, format=kind, subtype=subtype)
    return file.getvalue()


LOADERS = [pytest.param(load_image, picture(), id="image"), pytest.param(load_audio, sound(), id="audio")]


# --- sources --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("load", "data"), LOADERS)
def test_every_kind_of_file_source_gives_the_same(load, data, tmp_path, monkeypatch):
    path = tmp_path / "Größe 1.dat"  # content decides, not the ending
    path.write_bytes(data)
    wanted = load(data)
    for source in (path, str(path)):
        loaded = load(source)
        assert loaded == wanted
        assert loaded.name == "Größe 1.dat"
    with path.open("rb") as file:
        loaded = load(file)
        assert loaded == wanted
        assert loaded.name == "Größe 1.dat"
        assert not file.closed
    for source in (bytearray(data), memoryview(data), io.BytesIO(data), memoryview(data + data)[: len(data)]):
        assert load(source) == wanted
    assert load(io.BytesIO(data)).name == "file object"
    assert load(data).name == f"bytes ({len(data):,} of them)"
    assert load(data, name="/home/me/a\x00b\x1b[31m.dat").name == "ab[31m.dat"
    monkeypatch.chdir(tmp_path)
    assert load("Größe 1.dat") == wanted
    monkeypatch.setenv("HOME", str(tmp_path))
    if os.name == "posix":
        assert load("~/Größe 1.dat") == wanted


@pytest.mark.parametrize(("load", "data"), LOADERS)
def test_a_file_object_is_read_from_where_it_stands(load, data):
    file = io.BytesIO(b"head" + data)
    file.seek(4)
    assert load(file) == load(data)
    with pytest.raises(MediaError, match=r"empty \(0 bytes\).*seek\(0\)"):
        load(file)


@pytest.mark.parametrize(("load", "data"), LOADERS)
def test_file_objects_that_give_little_at_a_time(load, data):
    class Slow(io.RawIOBase):
        def __init__(self):
            self.file = io.BytesIO(data)

        def read(self, size=-1):
            return self.file.read(min(size, 7))

    assert load(Slow()) == load(data)


@pytest.mark.parametrize("ending", [".raw", ".png", ".mp3", ".xyz", ""])
def test_the_ending_of_a_name_means_nothing(tmp_path, ending):
    path = tmp_path / f"sound{ending}"
    path.write_bytes(sound())
    assert load_audio(path) == load_audio(sound())


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("load", "data"), LOADERS)
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nowhere/scene.png", r"nowhere/scene\.png: there is no such file\. A relative path starts"),
        (Path("nowhere/scene.png"), "no such file"),
        ("", "path is empty"),
        ("a\0b.png", "ab.png: the file cannot be opened"),
        ("x" * 5000, "cannot be opened"),
        ("http://example.org/a.png", "fetches nothing"),
        ("HTTPS://example.org/a.png", "fetches nothing"),
        ("data:image/png;base64,AAAA", "fetches nothing"),
        ("file:///etc/passwd", "fetches nothing"),
        ("s3://bucket/a.wav", "fetches nothing"),
        (Path("https://example.org/a.png"), "fetches nothing"),
        (b"", r"bytes \(0 of them\): it is empty"),
        (bytearray(), "it is empty"),
        (io.BytesIO(), "file object: it is empty"),
        (io.StringIO("text"), "mode 'rb'"),
        (bytes(100), r"bytes \(100 of them\): this is no .* nothing but zero bytes"),
        (b"\x93\x01\xfe\xd2\xaa\x10\x00\x07" * 9, "data of no kind we know"),
        (b"Dear all,\r\n\tsee you there", "a text file"),
        ("Grüße".encode() * 2000, "a text file"),
        ("hello".encode("utf-16"), "a text file"),
        (b"BMW is a car; OggSaid no; RIFFraff", "a text file"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"<!DOCTYPE html><p>404", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (b"\0\0\0\x18ftypmp42" + bytes(20), "an MP4 video"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "a HEIC picture"),
        (b"\0\0\0\x18ftypM4A " + bytes(20), "an M4A sound"),
        (b"II*\0" + bytes(20), "a TIFF picture"),
        (b"FORM\0\0\0\x10AIFFCOMM", "an AIFF sound"),
        (None, "NoneType cannot be read"),
        (7, "a int cannot be read"),
        (["a.png"], "one by one"),
        ({"a": 1}, "a dict cannot be read"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_bad_sources(load, data, source, words):
    if hasattr(source, "seek"):
        source.seek(0)
    with pytest.raises(MediaError, match=words):
        load(source)
    load(data)  # nothing was left behind


@pytest.mark.parametrize(("load", "data"), LOADERS)
def test_names_must_be_text(load, data):
    with pytest.raises(MediaError, match="name=7"):
        load(data, name=7)


@pytest.mark.parametrize(("load", "data"), LOADERS)
def test_empty_files_and_text_files_with_the_wrong_ending(load, data, tmp_path):
    empty, text = tmp_path / "empty.png", tmp_path / "notes.png"
    empty.touch()
    text.write_text("shopping list")
    with pytest.raises(MediaError, match=r"^empty\.png: it is empty"):
        load(empty)
    with pytest.raises(MediaError, match=r"^notes\.png: this is no .*a text file\. Expected (PNG|WAV)"):
        load(text)


@pytest.mark.parametrize(("load", "data"), LOADERS)
def test_folders_pipes_and_devices(load, data, tmp_path):
    with pytest.raises(MediaError, match="this is a folder"):
        load(tmp_path)
    if os.name == "posix":
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(MediaError, match="not a regular file"):
            load(tmp_path / "pipe")
        with pytest.raises(MediaError, match="not a regular file"):
            load("/dev/zero")


@pytest.mark.parametrize(("load", "data"), LOADERS)
def test_files_that_may_not_be_read(load, data, tmp_path, monkeypatch):
    path = tmp_path / "private.png"
    path.write_bytes(data)

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # root may read everything, so a real file would not do
    with pytest.raises(MediaError, match=r"private\.png: reading this file is not permitted"):
        load(path)


@pytest.mark.parametrize(("load", "data"), LOADERS)
def test_file_objects_that_fail(load, data):
    class Broken(io.RawIOBase):
        def read(self, size=-1):
            raise OSError("the stick was pulled out")

    closed = io.BytesIO(data)
    closed.close()
    with pytest.raises(MediaError, match="stick was pulled out"):
        load(Broken())
    with pytest.raises(MediaError, match="closed file"):
        load(closed)


def test_a_file_object_without_end_is_given_up():
    class Endless(io.RawIOBase):
        given = 0

        def read(self, size=-1):
            self.given += size
            return bytes(size)

    file = Endless()
    with pytest.raises(MediaError, match=r"too large, more than 0\.0977 MiB"):
        load_image(file, max_bytes=102_400)
    assert file.given == 102_401


def test_pictures_given_as_sounds_and_the_reverse():
    with pytest.raises(MediaError, match=r"looks like a PNG picture.*Pictures go in as images"):
        load_audio(picture())
    with pytest.raises(MediaError, match=r"looks like a WAV sound.*Sounds go in as audio"):
        load_image(sound())
    with pytest.raises(MediaError, match="a Audio cannot be read"):
        load_image(load_audio(sound()))
    with pytest.raises(MediaError, match="a Image cannot be read"):
        load_audio(load_image(picture()))
    with pytest.raises(MediaError, match=r"PIL image of 5×4 pixels, mode RGB: .* cannot be read"):
        load_audio(PILImage.open(io.BytesIO(picture())))


def test_torch_tensors_get_a_hint():
    tensor = type("Tensor", (), {"__module__": "torch"})()
    for load in (load_image, load_audio):
        with pytest.raises(MediaError, match=r"\.cpu\(\)\.numpy\(\)"):
            load(tensor)


def test_a_missing_library_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(MediaError, match="python -m pip install soundfile"):
        load_audio(sound())


@pytest.mark.parametrize("load", [load_image, load_audio])
@given(data=st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_random_bytes_are_refused_politely(load, data):
    with pytest.raises(MediaError, match=r"bytes \(\d+ of them\): "):
        load(data)


# --- sniff, describe, names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_sniff_knows_pictures(kind):
    assert sniff(picture(kind)) == "image"


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("WAV", None), ("WAVEX", None), ("FLAC", None), ("MP3", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("AIFF", None)],
)
def test_sniff_knows_sounds(kind, subtype):
    data = sound(kind, subtype)
    assert sniff(data) == sniff(memoryview(data)) == sniff(data[:64]) == "audio"


def test_sniff_knows_videos_and_what_is_neither():
    assert sniff(b"\0\0\0\x18ftypisom" + bytes(9)) == "video"
    assert sniff(b"\x1aE\xdf\xa3" + bytes(9)) == "video"
    assert sniff(b"RIFF\0\0\0\0AVI LIST") == "video"
    for data in (b"", b"R", b"RIFF", b"hello", b"\xff\xfeh\0i\0", b"BM", bytes(64), b"xxxxWAVE", b"\xff\xff\xff\xff"):
        assert sniff(data) is None


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_sniff_and_describe_take_anything(data):
    assert sniff(data) in ("image", "audio", "video", None)
    assert describe(data)


@given(st.text(max_size=300))
def test_names_are_one_short_printable_line(name):
    for shown in (display_name(name), clean(name)):
        assert len(shown) <= 125
        assert not set(shown) & {"\n", "\r", "\0", "\x1b", "\u202e", "\x9b", "\u2028"}
    assert "/" not in display_name(name)


def test_names_by_hand():
    assert display_name("/home/me/scene.png") == "scene.png"
    assert display_name(Path("a/b.wav")) == "b.wav"
    assert display_name(r"C:\Users\me\scene.png") == "scene.png"
    assert display_name("photo\u202egnp.exe") == "photognp.exe"
    assert display_name(bytes(12_345)) == "bytes (12,345 of them)"
    assert display_name(np.zeros((3, 4))) == "numpy array of shape (3, 4) float64"
    assert display_name((np.zeros(4, np.int16), 8000)) == "numpy array of shape (4,) int16"
    long = display_name("a" * 500 + ".png")
    assert len(long) == 120
    assert long.endswith(".png")


# --- the package ----------------------------------------------------------------------------------------------------


def test_exported_members():
    for name in workbench.media.__all__:
        assert getattr(workbench.media, name) is not None
    assert workbench.media.__all__ == sorted(
        workbench.media.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n)
    )


def test_importing_it_imports_no_heavy_library():
    code = "import sys, workbench.media; print({m.partition('.')[0] for m in sys.modules})"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("PIL", "soundfile", "soxr", "librosa", "scipy", "torch", "transformers"):
        assert f"'{heavy}'" not in modules


def test_loading_a_sound_imports_neither_librosa_nor_torch():
    code = (
        "import sys, numpy, workbench.media as m; m.load_audio((numpy.ones(999), 8000));"
        "m.load_image(numpy.ones((2, 2)));"
        "print({n.partition('.')[0] for n in sys.modules})"
    )
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("librosa", "scipy", "torch", "transformers"):
        assert f"'{heavy}'" not in modules


def test_a_png_that_unpacks_to_far_more_than_it_says():
    """A decompression bomb in the pixel data: Pillow stops at the size in the header."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(50_000_000)))
    assert load_image(bomb + chunk(b"IEND", b"")).pixels.shape == (4, 4, 3)
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000)))
    profile = chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(80_000_000)))
    pixels = chunk(b"IDAT", zlib.compress(bytes(13 * 4)))
    for extra in (text, profile):  # beside the pixels: refused as broken
        with pytest.raises(MediaError, match="broken or cut short"):
            load_image(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + pixels + chunk(b"IEND", b""))
