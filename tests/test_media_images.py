"""Pictures: every format and mode against values a person can check, metadata, limits, broken files."""

import hashlib
import io
import struct
import threading
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import ExifTags, ImageCms, ImageOps, PngImagePlugin
from PIL import Image as PILImage

from workbench.errors import MediaError
from workbench.media import Image, guards, image_from_record, load_image, patch_grid
from workbench.media.containers import gif_frames, header_size, jpeg_without_metadata

RNG = np.random.default_rng(7)
SECRET = b"51.5007N 0.1246W"  # must never be found in what we embed


def scene(height=30, width=44):
    """Red left, green right, a blue row at the bottom: tells every turn and mirror from every other."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = (200, 10, 20)
    pixels[:, width // 2 :] = (10, 180, 30)
    pixels[-6:] = (20, 30, 220)
    return pixels


def encoded(pixels, kind="PNG", mode=None, **options):
    picture = pixels if isinstance(pixels, PILImage.Image) else PILImage.fromarray(pixels)
    file = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(file, kind, **options)
    return file.getvalue()


def decoded(data):
    """What any viewer shows: opened, turned upright, as RGB."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return np.asarray(ImageOps.exif_transpose(PILImage.open(io.BytesIO(data))).convert("RGB"))


def exif_with(orientation=None):
    exif = PILImage.Exif()
    if orientation:
        exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "SecretCam"
    exif[ExifTags.Base.ImageDescription] = SECRET.decode()
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (51.0, 30.0, 2.5)
    return exif.tobytes()


def check(image):
    """What holds for every Image."""
    assert image.pixels.dtype == np.uint8
    assert image.pixels.shape == (image.height, image.width, 3)
    assert not image.pixels.flags.writeable
    assert np.array_equal(decoded(image.data), image.pixels)
    assert SECRET not in image.data
    assert b"SecretCam" not in image.data
    again = image_from_record(image.name, image.sha256, image.mime, image.data, notes=image.notes)
    assert again == image
    assert (again.name, again.mime, again.data, again.notes) == (image.name, image.mime, image.data, image.notes)
    return image


# --- formats and modes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "WEBP"])
def test_lossless_formats_give_the_pixels_that_went_in(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(scene(), kind, **options)
    image = check(load_image(data))
    assert np.array_equal(image.pixels, scene())
    assert image.sha256 == hashlib.sha256(data).hexdigest()
    assert image.mime == ("image/webp" if kind == "WEBP" else "image/png")
    assert (image.data == data) is (kind in ("PNG", "WEBP"))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_lossy_formats_are_close_and_kept_as_they_are(kind, mode):
    data = encoded(scene(), kind, mode, quality=95)
    image = check(load_image(data))
    wanted = np.asarray(PILImage.fromarray(scene()).convert(mode).convert("RGB"))
    assert np.abs(image.pixels.astype(int) - wanted).mean() < 6
    assert image.data == data


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
def test_kinds_of_jpeg_lose_their_metadata_and_keep_every_pixel(options):
    data = encoded(scene(70, 90), "JPEG", exif=exif_with(6), comment=SECRET, **options)
    assert SECRET in data
    image = check(load_image(data))
    assert image.mime == "image/jpeg"
    assert image.pixels.shape == (90, 70, 3)
    assert jpeg_without_metadata(image.data, 6) == image.data


def test_grey_and_black_and_white():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    image = check(load_image(encoded(grey)))
    assert np.array_equal(image.pixels, np.repeat(grey[..., None], 3, 2))
    assert image.notes == ("greyscale converted to RGB",)
    bits = check(load_image(encoded(PILImage.fromarray(grey > 100))))
    assert np.array_equal(bits.pixels[..., 1], np.where(grey > 100, 255, 0))
    assert bits.notes == ("black and white converted to RGB",)


def test_16_bit_grey_is_scaled_not_clipped():
    deep = np.array([[0, 257, 32768], [65535, 128 * 257, 300]], np.uint16)
    for source in (encoded(deep), PILImage.fromarray(deep), PILImage.fromarray(deep.astype(np.int32))):
        image = check(load_image(source))
        assert image.pixels[..., 0].tolist() == [[0, 1, 128], [255, 128, 1]]
        assert "16-bit values scaled to 8 bits" in image.notes


def png_of_16_bits(pixels, transparent=None):
    """Pillow writes no 16-bit colour, so by hand: (height, width, channels) uint16."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    key = chunk(b"tRNS", np.array(transparent, ">u2").tobytes()) if transparent is not None else b""
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + key + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_a_channel(channels):
    pixels = np.full((2, 5, channels), 65535, np.uint16)
    pixels[0, :, 0] = 128 * 257
    image = check(load_image(png_of_16_bits(pixels)))
    assert image.pixels[0, 0, 0] == 128
    assert image.pixels[1].tolist() == [[255] * 3] * 5
    assert "16-bit values scaled to 8 bits" in image.notes


def test_a_transparent_colour_of_16_bits():
    colour = np.full((1, 2, 3), 100 * 257, np.uint16)
    colour[0, 1] = 7 * 257
    image = check(load_image(png_of_16_bits(colour, transparent=[7 * 257] * 3)))
    assert image.pixels.tolist() == [[[100] * 3, [255] * 3]]
    grey = np.array([[[5], [40000]]], np.uint16)
    image = check(load_image(png_of_16_bits(grey, transparent=[5])))
    assert image.pixels[0, :, 0].tolist() == [255, 156]
    assert "transparent parts put on white" in image.notes


def test_transparency_goes_onto_white():
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[0, :, 3] = (0, 51, 255)
    pixels[1, :, 3] = 255
    wanted = [[[255] * 3, [244, 204, 204], [200, 0, 0]], [[200, 0, 0]] * 3]
    premultiplied = PILImage.fromarray(pixels).convert("RGBa")
    for source in (
        encoded(pixels),
        encoded(pixels, "WEBP", lossless=True, exact=True),
        pixels,
        PILImage.fromarray(pixels),
    ):
        image = check(load_image(source))
        assert image.pixels.tolist() == wanted
        assert image.notes == ("transparent parts put on white",)
        assert image.mime == "image/png"
    assert np.abs(check(load_image(premultiplied)).pixels.astype(int) - np.array(wanted)).max() <= 3


def test_an_alpha_channel_that_hides_nothing_goes_unmentioned():
    data = encoded(np.dstack([scene(), np.full((30, 44), 255, np.uint8)]))
    image = check(load_image(data))
    assert image.notes == ()
    assert image.data == data


def test_palettes_and_their_three_kinds_of_transparency():
    plain = encoded(scene(), "PNG", "P")
    assert np.abs(check(load_image(plain)).pixels.astype(int) - scene()).max() < 60
    indexed = PILImage.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    indexed.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    one = check(load_image(encoded(indexed, "PNG", transparency=1)))
    assert one.pixels.tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]
    some = check(load_image(encoded(indexed, "PNG", transparency=bytes([255, 0, 51]))))
    assert some.pixels.tolist() == [[[255, 0, 0], [255, 255, 255], [204, 204, 255]]]
    gif = check(load_image(encoded(indexed, "GIF", transparency=2)))
    assert gif.pixels.tolist() == [[[255, 0, 0], [0, 255, 0], [255, 255, 255]]]


def test_la_and_a_transparent_colour():
    la = np.dstack([np.full((2, 2), 100, np.uint8), np.array([[0, 255], [255, 255]], np.uint8)])
    image = check(load_image(encoded(PILImage.fromarray(la, "LA"))))
    assert image.pixels[..., 0].tolist() == [[255, 100], [100, 100]]
    key = check(load_image(encoded(np.array([[1, 2]], np.uint8), transparency=2)))
    assert key.pixels[..., 2].tolist() == [[1, 255]]


def test_cmyk():
    ink = np.zeros((20, 20, 4), np.uint8)
    ink[:, :10, 1:3] = 255  # magenta and yellow: red
    data = encoded(PILImage.fromarray(ink, "CMYK"), "JPEG", quality=95)
    image = check(load_image(data))
    assert image.mime == "image/png"
    assert "CMYK converted to RGB" in image.notes
    assert np.abs(image.pixels[10, 3].astype(int) - (255, 0, 0)).max() < 12
    assert np.abs(image.pixels[10, 17].astype(int) - 255).max() < 12


@pytest.mark.parametrize("mode", ["YCbCr", "LAB", "HSV", "F", "I", "RGBX", "PA", "1", "La"])
def test_pil_images_of_any_mode(mode):
    grey = PILImage.fromarray((np.arange(12).reshape(3, 4) / 11).astype(np.float32))
    source = grey if mode == "F" else PILImage.fromarray(scene()).convert({"La": "LA", "PA": "P"}.get(mode, mode))
    source = source.convert(mode)
    before = source.tobytes()
    check(load_image(source))
    assert source.tobytes() == before
    assert source.mode == mode


def test_integers_that_fit_neither_8_nor_16_bits():
    with pytest.raises(MediaError, match="mode I with values from 0 to 70000"):
        load_image(PILImage.fromarray(np.array([[0, 70000]], np.int32)))


# --- colour, orientation, animation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "PIL"])
def test_exif_orientation_is_honoured_and_the_rest_dropped(kind, orientation):
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = encoded(scene(), "PNG" if kind == "PIL" else kind, exif=exif_with(orientation), **options)
    assert b"SecretCam" in data
    image = check(load_image(PILImage.open(io.BytesIO(data)) if kind == "PIL" else data))
    assert np.array_equal(image.pixels, decoded(data))
    assert image.pixels.shape[:2] == ((30, 44) if orientation < 5 else (44, 30))
    assert (image.notes == (f"turned upright (EXIF orientation {orientation})",)) is (orientation > 1)
    assert (image.mime == "image/jpeg") is (kind == "JPEG")


def test_orientation_6_by_hand():
    """Orientation 6: the camera was held upright, the first row of the file is the right column of the picture."""
    data = encoded(scene(), "PNG", exif=exif_with(6))
    assert np.array_equal(load_image(data).pixels, np.rot90(scene(), -1))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientations_that_do_not_exist_are_ignored(value):
    assert load_image(encoded(scene(), "JPEG", exif=exif_with(value))).pixels.shape == (30, 44, 3)


def test_broken_exif_does_not_cost_the_picture():
    data = encoded(scene(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + SECRET)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check(load_image(data)).mime == "image/jpeg"


def metadata_of_every_kind(kind):
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + SECRET + b"</x:xmpmeta>"
    if kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", SECRET.decode())
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        return encoded(scene(), "PNG", pnginfo=text, exif=exif_with())
    if kind == "GIF":
        return encoded(scene(), "GIF", comment=SECRET)
    options = {"comment": SECRET} if kind == "JPEG" else {"lossless": True}
    return encoded(scene(), kind, exif=exif_with(), xmp=xmp, **options)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "JPEG", "WEBP"])
def test_no_metadata_of_any_kind_is_embedded(kind):
    data = metadata_of_every_kind(kind)
    assert SECRET in data
    assert SECRET not in check(load_image(data)).data


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_what_hides_behind_the_end_is_not_embedded(kind):
    assert SECRET not in check(load_image(encoded(scene(), kind) + SECRET)).data


def test_a_thumbnail_in_the_jfif_header_is_not_embedded():
    data = encoded(scene(), "JPEG")
    thumbnail = SECRET + bytes(5 * 5 * 3 - len(SECRET))
    assert data[2:4] == b"\xff\xe0"
    header = data[6:18] + b"\x05\x05" + thumbnail
    data = data[:2] + struct.pack(">BBH", 0xFF, 0xE0, len(header) + 2) + header + data[20:]
    image = check(load_image(data))
    assert image.mime == "image/jpeg"


def wide_gamut_profile():
    """A made-up RGB profile: sRGB with the red and green primaries exchanged, so that its effect cannot be missed."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {}
    for i in range(struct.unpack_from(">I", data, 128)[0]):
        name, offset, size = struct.unpack_from(">4sII", data, 132 + 12 * i)
        tags[name] = (offset, size)
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    both = bytes(data[red[0] : red[0] + red[1]]), bytes(data[green[0] : green[0] + green[1]])
    data[green[0] : green[0] + green[1]], data[red[0] : red[0] + red[1]] = both
    offset, size = tags[b"desc"]
    title = data[offset : offset + size].replace("sRGB".encode("utf-16-be"), "Test".encode("utf-16-be"))
    data[offset : offset + size] = title.replace(b"sRGB", b"Test")
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_colour_profile_is_applied(kind):
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = encoded(scene(), kind, icc_profile=wide_gamut_profile(), **options)
    image = check(load_image(data))
    assert image.mime == "image/png"
    assert "converted to sRGB from the profile 'Test" in image.notes[0]
    assert np.abs(image.pixels[3, 5].astype(int) - (10, 200, 20)).max() < 12
    assert np.abs(image.pixels[3, 40].astype(int) - (180, 10, 30)).max() < 12


def test_an_srgb_profile_changes_nothing():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = check(load_image(encoded(scene(), "JPEG", icc_profile=profile)))
    assert image.notes == ()
    assert image.mime == "image/jpeg"


def test_a_profile_that_does_not_fit_is_ignored_with_a_note():
    for profile in (b"not a profile at all", wide_gamut_profile()[:300]):
        image = check(load_image(encoded(scene(), "PNG", icc_profile=profile)))
        assert np.array_equal(image.pixels, scene())
        assert image.notes == ("its colour profile could not be used and was ignored",)
    grey = check(load_image(encoded(scene(), "PNG", "L", icc_profile=wide_gamut_profile())))
    assert "its colour profile could not be used and was ignored" in grey.notes


@pytest.mark.parametrize(("kind", "many"), [("GIF", 12), ("PNG", 5), ("WEBP", 3), ("MPO", 2)])
def test_of_an_animation_the_first_frame(kind, many):
    frames = [PILImage.fromarray(np.full((8, 9, 3), 20 * i, np.uint8)) for i in range(1, many + 1)]
    options = {"lossless": True} if kind == "WEBP" else {}
    image = check(load_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)))
    assert np.abs(image.pixels.astype(int) - 20).max() <= (2 if kind == "MPO" else 0)
    assert f"first of {many} {'pictures' if kind == 'MPO' else 'frames'}" in image.notes


@given(st.integers(1, 30), st.booleans())
@settings(max_examples=20, deadline=None)
def test_gif_frames_are_counted_as_pillow_does(many, comment):
    frames = [PILImage.fromarray(np.full((4, 5), i, np.uint8)) for i in range(many)]
    options = {"comment": b"c" * 300} if comment else {}
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], **options)
    assert gif_frames(data) == PILImage.open(io.BytesIO(data)).n_frames == many
    assert gif_frames(data, most=5) == min(many, 5)


# --- arrays and PIL images ------------------------------------------------------------------------------------------


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
@settings(max_examples=60, deadline=None)
def test_arrays_come_through_unchanged_by_every_way(pixels):
    wanted = check(load_image(pixels))
    assert np.array_equal(wanted.pixels, pixels)
    assert np.array_equal(check(load_image(PILImage.fromarray(pixels))).pixels, pixels)
    assert load_image(PILImage.fromarray(pixels)).sha256 == wanted.sha256
    assert np.array_equal(check(load_image(encoded(pixels))).pixels, pixels)
    unit = pixels.astype(np.float32) / 255
    assert np.array_equal(check(load_image(unit)).pixels, pixels)
    assert np.array_equal(check(load_image(unit.astype(np.float64))).pixels, pixels)


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(4))))
@settings(max_examples=60, deadline=None)
def test_transparent_arrays_are_blended_as_pillow_blends(pixels):
    assert np.array_equal(load_image(pixels).pixels, load_image(PILImage.fromarray(pixels)).pixels)


def test_arrays_of_one_channel():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert load_image(grey).pixels[..., 2].tolist() == grey.tolist()
    assert load_image(grey[..., None]).pixels[..., 2].tolist() == grey.tolist()


def test_the_callers_array_is_neither_kept_nor_changed():
    pixels = scene()
    image = load_image(pixels)
    pixels[:] = 0
    assert image.pixels.any()
    assert pixels.flags.writeable
    view = np.repeat(np.repeat(scene(), 2, 0), 2, 1)[::2, ::2]  # not contiguous
    assert np.array_equal(load_image(view).pixels, scene())
    with pytest.raises(ValueError, match="read-only"):
        image.pixels[0, 0, 0] = 1


def test_the_hash_of_an_array_knows_its_shape():
    assert load_image(np.zeros((2, 3), np.uint8)).sha256 != load_image(np.zeros((3, 2), np.uint8)).sha256


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 4), np.float64) + 2, "values run from 2 to 2"),
        (np.full((3, 4), 200.0), "divide by 255"),
        (np.full((3, 4), -0.5), "from -0.5 to -0.5"),
        (np.array([[0.0, np.nan]]), r"\(0, 1\) is nan"),
        (np.array([[np.inf, 0.0]], np.float32), r"\(0, 0\) is inf"),
        (np.zeros((3, 4), np.int64), "dtype int64"),
        (np.zeros((3, 4), bool), "dtype bool"),
        (np.zeros((3, 4), complex), "complex128"),
        (np.zeros((3, 4), object), "object"),
        (np.zeros((3, 20, 30), np.uint8), "colour channels come last"),
        (np.zeros((5, 6, 2), np.uint8), r"\(5, 6, 2\)"),
        (np.zeros((2, 5, 6, 3), np.uint8), "one by one"),
        (np.zeros(12, np.uint8), r"\(12,\)"),
        (np.zeros((), np.uint8), r"shape \(\)"),
        (np.zeros((0, 5, 3), np.uint8), "5×0 pixels"),
        (np.zeros((1, 40_000), np.uint8), "40,000"),
    ],
)
def test_arrays_that_are_no_picture_are_named_with_shape_and_dtype(array, words):
    with pytest.raises(MediaError, match=words) as error:
        load_image(array)
    assert f"numpy array of shape {array.shape} {array.dtype}" in str(error.value)


def test_a_pil_image_whose_file_is_gone(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(RNG.integers(0, 256, (200, 200, 3), np.uint8))[:5000])
    with (
        PILImage.open(path) as picture,
        pytest.raises(MediaError, match=r"PIL image of 200×200 .*, mode RGB: .*cut short"),
    ):
        load_image(picture)


# --- limits and broken files ----------------------------------------------------------------------------------------


def huge_header(kind, width=40_000, height=40_000):
    if kind == "PNG":
        body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", 13) + b"IHDR" + body + struct.pack(">I", zlib.crc32(b"IHDR" + body))
        return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 10) + b"IDAT" + bytes(14)
    small = bytearray(encoded(scene(), "WEBP" if kind == "VP8X" else kind))
    if kind == "GIF":
        small[6:10] = struct.pack("<HH", width, height)
    elif kind == "BMP":
        small[18:26] = struct.pack("<ii", width, -height)
    elif kind == "JPEG":
        at = small.index(b"\xff\xc0")
        small[at + 5 : at + 9] = struct.pack(">HH", height, width)
    elif kind == "WEBP":
        small[26:30] = struct.pack("<HH", 16383, 16383)
    else:
        sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        small[12:12] = b"VP8X" + struct.pack("<I", 10) + bytes(4) + sides
    return bytes(small)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "JPEG", "WEBP", "VP8X"])
def test_too_many_pixels_are_refused_by_the_header(kind):
    data = huge_header(kind)
    with pytest.raises(MediaError):  # imports are not what is measured
        load_image(data)
    tracemalloc.start()
    try:
        with (
            warnings.catch_warnings(),
            pytest.raises(MediaError, match=r"bytes \([\d,]+ of them\): .* pixels .*at most 64"),
        ):
            warnings.simplefilter("error")
            load_image(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20, "no pixel of it was decoded"


def test_the_pixel_limit_is_a_parameter_and_includes_its_value():
    data = encoded(np.zeros((10, 12), np.uint8))
    assert load_image(data, max_pixels=120).width == 12
    with pytest.raises(MediaError, match="12×10 pixels"):
        load_image(data, max_pixels=119)
    with pytest.raises(MediaError, match="12×10 pixels"):
        load_image(PILImage.open(io.BytesIO(data)), max_pixels=119)
    with pytest.raises(MediaError, match="too large"):
        load_image(data, max_bytes=len(data) - 1)


def test_a_limit_above_pillows_own_still_gives_our_error(monkeypatch):
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 1000)
    for side in (40, 100):  # Pillow warns above its limit and raises above twice that
        with pytest.raises(MediaError, match="too many pixels"):
            load_image(encoded(np.zeros((side, side), np.uint8)))


def segment(marker, body=b""):
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def last_scan(data):
    """Where the last scan of a JPEG lies, with nothing behind it but the end."""
    return data[data.rindex(b"\xff\xda") : data.rindex(b"\xff\xd9")]


def test_a_jpeg_that_goes_over_its_pixels_for_hours_is_refused():
    data = encoded(scene(), "JPEG", progressive=True)
    many = data[:-2] + last_scan(data) * 70 + data[-2:]
    check(load_image(many))
    at = many.index(b"\xff\xc2")
    large = many[: at + 5] + struct.pack(">HH", 8000, 8000) + many[at + 9 :]
    with pytest.raises(MediaError, match=r"80 times over its 8000×8000 pixels. Expected at most 62 scans"):
        load_image(large)
    hidden = large[:2] + b"\xff\xd0" + large[2:]  # a marker without a length, which other readers take for one with
    with pytest.raises(MediaError, match="80 times over"):
        load_image(hidden)
    with pytest.raises(MediaError, match="Expected at most 353,356 scans"):
        load_image(data[:-2] + last_scan(data) * 400_000 + data[-2:])


def test_what_large_progressive_jpegs_have_is_no_reason_to_refuse_them():
    """50 MP in 12 scans, a thumbnail with two of its own, and a film behind the end, as phones write them."""
    data = encoded(scene(), "JPEG", progressive=True)
    film = np.random.default_rng(3).integers(0, 256, 4_000_000, np.uint8).tobytes()
    assert film.count(b"\xff\xda") > 50
    thumbnail = segment(0xE1, b"Exif\0\0" + encoded(scene(8, 8), "JPEG") * 2)
    whole = data[:2] + thumbnail + data[2:-2] + last_scan(data) * 2 + data[-2:] + film
    guards.check_jpeg_scans(whole, 8660, 5774, "a")
    assert len(load_image(whole).data) < 5000
    with pytest.raises(MediaError, match="14 times"):
        guards.check_jpeg_scans(whole, 30_000, 20_000, "a")


def test_segments_and_comments_that_pillow_joins_for_minutes():
    data = encoded(scene(), "JPEG")
    exif = segment(0xE1, b"Exif\0\0" + bytes(32))
    check(load_image(data[:2] + exif + segment(0xE2, b"ICC_PROFILE\0\1\1") * 400 + segment(0xFE, b"x") + data[2:]))
    for head in (exif * 40_000, b"\xff\xd0" + exif * 40_000, b"\xff\x00junk" + exif * 40_000):
        with pytest.raises(MediaError, match="more than 1,000 segments before its picture"):
            load_image(data[:2] + head + data[2:])


@pytest.mark.parametrize("before", [b"", b"\x21\xf9\x00", b"\x21\xff\x0bNETSCAPE2.0\x00\x00", b"\x07\x00junk"])
def test_comments_of_a_gif_are_passed_over(before):
    """Also behind blocks that Pillow reads in ways of its own: it must see no comment."""
    data = encoded(scene(), "GIF")
    start = 13 + (3 << (data[10] & 7) + 1)
    assert data[10] & 0x80
    comments = (b"\x21\xfe" + b"\x02ab" * 900 + b"\0") * 5 + b"\x21\xfe\0"
    made = data[:start] + before + b"\0\0" + comments + data[start:]
    assert "comment" in PILImage.open(io.BytesIO(made)).info
    shown = guards.gif_without_comments(made, "a")
    assert "comment" not in PILImage.open(io.BytesIO(shown)).info
    assert np.array_equal(load_image(made).pixels, load_image(data).pixels)
    assert load_image(made).sha256 == hashlib.sha256(made).hexdigest()


def test_a_gif_with_blocks_without_end():
    data = encoded(scene(), "GIF")
    start = 13 + (3 << (data[10] & 7) + 1)
    for blocks in (b"\x21\xfe" + b"\x01x" * 400_000 + b"\0", b"\x21\xf9\1x\0" * 60_000, bytes(300_000)):
        with pytest.raises(MediaError, match="more than 100,000 blocks before its first picture"):
            load_image(data[:start] + blocks + data[start:])


def test_a_gif_frame_larger_than_the_header_says():
    data = bytearray(encoded(np.zeros((4, 4), np.uint8), "GIF"))
    at = data.index(b"\x2c", 13)
    data[at + 5 : at + 9] = struct.pack("<HH", 60_000, 60_000)
    with pytest.raises(MediaError):
        load_image(bytes(data))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "progressive"])
def test_files_cut_short_are_refused_wherever_they_are_cut(kind):
    pixels = RNG.integers(0, 256, (40, 50, 3), np.uint8)
    options = {"progressive": True} if kind == "progressive" else {}
    data = encoded(pixels, "JPEG" if kind == "progressive" else kind, **options)
    whole = load_image(data).pixels
    refused = 0
    cuts = range(1, len(data), max(1, len(data) // 60))
    for cut in cuts:
        try:
            image = load_image(data[:cut])
        except MediaError:
            refused += 1
        else:
            assert np.array_equal(image.pixels, whole), cut  # only what follows the last pixel was missing
    assert refused > 0.9 * len(cuts)


@given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP"]), st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_files_give_a_picture_or_a_media_error(kind, data):
    """Nothing but MediaError comes out, no warning either, and what is embedded still holds what it promises."""
    file = bytearray(SMALL_FILES[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            image = load_image(bytes(file), max_pixels=1_000_000)
        except MediaError:
            return
    check(image)


SMALL_FILES = {
    "PNG": encoded(scene(), "PNG", exif=exif_with(3)),
    "JPEG": encoded(scene(), "JPEG", exif=exif_with(6), comment=SECRET),
    "WEBP": encoded(scene(), "WEBP", exif=exif_with(8)),
    "GIF": encoded(scene(), "GIF", comment=b"hello"),
    "BMP": encoded(scene(), "BMP"),
}


@given(st.integers(1, 200), st.integers(1, 200))
@settings(max_examples=40, deadline=None)
def test_the_header_says_the_size(height, width):
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        assert header_size(kind, encoded(np.zeros((height, width), np.uint8), kind)) == (width, height)
    lossless = encoded(np.zeros((height, width, 4), np.uint8), "WEBP", lossless=True, exif=exif_with())
    assert header_size("WEBP", lossless) == (width, height)
    assert header_size("WEBP", encoded(np.zeros((height, width), np.uint8), "WEBP", lossless=True)) == (width, height)


def test_a_big_plain_png_is_packed_anew_and_a_big_jpeg_kept():
    noise = RNG.integers(0, 256, (1300, 1200, 3), np.uint8)
    data = encoded(noise, compress_level=0)
    assert len(data) > 4 << 20
    image = check(load_image(data))
    assert image.data != data
    jpeg = encoded(np.tile(noise, (3, 1, 1)), "JPEG", quality=97)
    assert len(jpeg) > 4 << 20
    assert check(load_image(jpeg)).data == jpeg


# --- odd sizes and the model's grid ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5000), (5000, 1), (3, 4), (1, 3)])
def test_tiny_and_elongated_pictures_are_accepted(height, width):
    image = check(load_image(encoded(RNG.integers(0, 256, (height, width, 3), np.uint8))))
    assert image.to_pil().size == (width, height)
    assert any("squeezed" in note for note in image.notes) is (max(height, width) > 70)


def test_patch_grid_by_hand():
    assert patch_grid(480, 480, 70) == (8, 8)
    assert patch_grid(300, 400, 280) == (14, 19)
    assert patch_grid(1, 5000, 280) == (1, 280)
    assert patch_grid(5000, 1, 70) == (70, 1)
    with pytest.raises(MediaError, match="0×5"):
        patch_grid(0, 5)


@given(st.integers(1, 40_000), st.integers(1, 40_000), st.sampled_from([70, 140, 280, 560, 1120]))
@settings(max_examples=300, deadline=None)
def test_patch_grid_is_that_of_transformers(height, width, tokens):
    module = pytest.importorskip("transformers.models.gemma4_unified.image_processing_gemma4_unified")
    rows, cols = patch_grid(height, width, tokens)
    assert (rows * 48, cols * 48) == module.get_aspect_ratio_preserving_size(height, width, 16, tokens * 9, 3)
    assert 1 <= rows * cols <= tokens


# --- records, identity, threads -------------------------------------------------------------------------------------


def test_an_image_is_given_back_as_it_is():
    image = load_image(scene())
    assert load_image(image) is image
    assert load_image(image, name="other").name == "other"
    assert load_image(image, name="other") == image
    assert image != load_image(scene()[::-1])
    assert image != "scene"
    assert len({image, load_image(scene())}) == 1
    assert repr(image) == "<Image 'numpy array of shape (30, 44, 3) uint8' 44×30>"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": 7}, "name is a int"),
        ({"sha256": "abc"}, "64 lower-case"),
        ({"sha256": None}, "64 lower-case"),
        ({"mime": "image/svg+xml"}, "svg"),
        ({"mime": ["image/png"]}, "Expected image/png"),
        ({"mime": "image/jpeg"}, "looks like a PNG picture"),
        ({"data": "text"}, "is a str"),
        ({"data": b""}, "empty"),
        ({"data": b"hello"}, "looks like a text file"),
        ({"data": encoded(scene())[:90]}, "cut short"),
        ({"data": metadata_of_every_kind("PNG")}, "never writes"),
        ({"data": encoded(np.zeros((2, 2, 4), np.uint8))}, "never writes"),
        ({"data": huge_header("PNG")}, "40,000"),
    ],
)
def test_records_that_the_workbench_did_not_write(change, words):
    record = {"name": "a.png", "sha256": "0" * 64, "mime": "image/png", "data": encoded(scene())} | change
    with pytest.raises(MediaError, match=words):
        image_from_record(**record)


def test_reading_back_keeps_the_hash_of_the_original():
    original = encoded(scene(), "BMP")
    image = load_image(original, name="../../etc/\x1bscene.bmp")
    assert image.name == "scene.bmp"
    back = image_from_record("../x/scene.bmp", image.sha256, image.mime, image.data)
    assert back.sha256 == hashlib.sha256(original).hexdigest()
    assert back.name == "scene.bmp"


def test_many_threads_at_once():
    files = [encoded(RNG.integers(0, 256, (60, 80, 3), np.uint8), "JPEG", exif=exif_with(6)) for _ in range(6)]
    wanted = [load_image(file) for file in files]
    found: dict[int, Image] = {}
    filters = list(warnings.filters)

    def work(i):
        found[i] = load_image(files[i % 6])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[i] == wanted[i % 6] for i in range(24))
    assert list(warnings.filters) == filters
