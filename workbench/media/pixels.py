"""Pixels of any kind to upright sRGB, 8 bits a channel, with a note on every change."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import MediaError
from workbench.media import sources

if TYPE_CHECKING:
    import PIL.Image

__all__ = ["MAX_PIXELS", "MAX_SIDE", "check_dimensions", "from_array", "turned", "upright_rgb"]

MAX_PIXELS = 64_000_000  # 64 MP, 192 MB of RGB; below Pillow's own warning at 89 MP
MAX_SIDE = 32_768  # pixels


def check_dimensions(width: int, height: int, label: str, max_pixels: int) -> None:
    """Refuse a picture that is empty, too long or of too many pixels; MediaError names it."""
    if width < 1 or height < 1:
        raise MediaError(f"{label}: the picture has {width}×{height} pixels. Expected at least 1×1.")
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise MediaError(
            f"{label}: the picture has {width:,}×{height:,} pixels ({width * height / 1e6:,.4g} million). Expected at "
            f"most {max_pixels / 1e6:,.4g} million, and {MAX_SIDE:,} a side. Make it smaller; the model sees about a "
            "million at most."
        )


def upright_rgb(picture: PIL.Image.Image, label: str, max_pixels: int) -> tuple[np.ndarray, int, list[str]]:
    """Decode a PIL image, turn it upright and convert it; call with Pillow's errors handled.

    Returns:
        (height, width, 3) uint8, its EXIF orientation (1 to 8), and notes.
    """
    check_dimensions(*picture.size, label, max_pixels)
    picture.load()
    check_dimensions(*picture.size, label, max_pixels)  # a GIF's frame may be larger than its header said
    orientation, notes = _orientation(picture)
    info = dict(picture.info)
    picture, more = _to_rgb(turned(picture, orientation), info, label)
    return np.array(picture), orientation, [*notes, *more, *_elongated(*picture.size)]


def _orientation(picture: PIL.Image.Image) -> tuple[int, list[str]]:
    try:
        value = picture.getexif().get(0x0112, 1)
    except Exception:  # noqa: BLE001 - metadata that cannot be read is no reason to refuse the picture
        return 1, ["its EXIF data is unreadable and was ignored"]
    if not isinstance(value, int) or not 2 <= value <= 8:
        return 1, []
    return value, [f"turned upright (EXIF orientation {value})"]


def turned(picture: PIL.Image.Image, orientation: int) -> PIL.Image.Image:
    """What ``ImageOps.exif_transpose`` does to the pixels; that also rewrites the EXIF data, and may fail at it."""
    from PIL.Image import Transpose

    turn = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)
    return picture if turn is None else picture.transpose(turn)


def _to_rgb(picture: PIL.Image.Image, info: dict, label: str) -> tuple[PIL.Image.Image, list[str]]:
    """Any PIL mode to RGB: deep and palette pictures unfolded, profile applied, transparent parts put on white."""
    import PIL.Image

    notes: list[str] = []
    alpha = None
    mode = picture.mode
    if mode.startswith("I") or mode == "F":
        picture, alpha, note = _shallow(picture, info.get("transparency"), label)
        notes.append(note)
    elif mode in ("P", "PA"):
        picture = picture.convert("RGBA")  # palettes may be transparent in three ways; this knows them all
        notes.append("palette converted to RGB")
    elif mode in ("1", "L", "RGB") and "transparency" in info:
        key = info["transparency"]
        if isinstance(key, tuple) and max(key) > 255:  # of a PNG with 16 bits a channel, decoded to 8
            picture.info["transparency"] = tuple(value >> 8 for value in key)
        picture = picture.convert("RGBA")
    elif mode in ("RGBa", "La"):
        picture = picture.convert(mode[:-1] + "A")

    if picture.mode in ("RGBA", "LA"):
        alpha = picture.getchannel("A")
        picture = picture.convert("RGB" if picture.mode == "RGBA" else "L")
    picture, more = _to_srgb(picture, info.get("icc_profile"))
    notes += more
    if picture.mode != "RGB":
        word = {"L": "greyscale", "1": "black and white"}.get(picture.mode, picture.mode)
        if picture.mode != "L" or mode in ("L", "LA", "La"):
            notes.append(f"{word} converted to RGB")
        picture = picture.convert("RGB")
    if alpha is not None and np.asarray(alpha).min() < 255:
        ground = PIL.Image.new("RGB", picture.size, (255, 255, 255))
        ground.paste(picture, mask=alpha)
        picture = ground
        notes.append("transparent parts put on white")
    return picture, notes


def _shallow(
    picture: PIL.Image.Image, transparent: Any, label: str
) -> tuple[PIL.Image.Image, PIL.Image.Image | None, str]:
    """Integers of 16 or 32 bits, or floating point, to 8 bits; Pillow itself would clip them at 255."""
    import PIL.Image

    mode, values = picture.mode, np.asarray(picture)  # (height, width)
    low, high = values.min(), values.max()
    alpha = None
    if isinstance(transparent, int) and mode != "F":
        alpha = PIL.Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
    if mode == "F":
        grey = _from_unit(values, label)
        note = "floating point converted to 8 bits"
    elif mode.startswith("I;16") or (mode == "I" and low >= 0 and 255 < high <= 65535):
        grey = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
        note = "16-bit values scaled to 8 bits"
    elif mode == "I" and low >= 0 and high <= 255:
        grey = values.astype(np.uint8)
        note = "32-bit integers within 0 to 255 taken as 8 bits"
    else:
        raise MediaError(
            f"{label}: mode {mode} with values from {low} to {high}. Expected 0 to 255 or 0 to 65,535; scale them."
        )
    return PIL.Image.fromarray(grey), alpha, note


def _to_srgb(picture: PIL.Image.Image, profile: bytes | None) -> tuple[PIL.Image.Image, list[str]]:
    """Apply a colour profile; one that is sRGB changes nothing, one that does not fit is ignored with a note."""
    if not profile or picture.mode == "1":
        return picture, []
    try:
        from PIL import ImageCms

        theirs = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        title = sources.clean(ImageCms.getProfileDescription(theirs), 60)
        if "srgb" in title.lower():
            return picture, []
        ours = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(picture, theirs, ours, outputMode="RGB") or picture
        before = f"{picture.mode} colours" if picture.mode == "CMYK" else "colours"
        return converted, [f"{before} converted to sRGB from the profile {title!r}"]
    except Exception:  # noqa: BLE001 - no ImageCms, a broken profile, another colour space: it can do without
        return picture, ["its colour profile could not be used and was ignored"]


def _elongated(width: int, height: int) -> list[str]:
    longest = max(width, height) / min(width, height)
    if longest <= 70:  # the smallest budget, 70 tokens, still shows it in proportion
        return []
    return [f"very elongated ({width}×{height}): beyond one row of patches it reaches the model squeezed"]


def from_array(array: np.ndarray, label: str, max_pixels: int) -> tuple[np.ndarray, list[str]]:
    """A numpy array to (height, width, 3) uint8 and notes."""
    shape = array.shape
    if len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
        raise _wrong(array, label, "the colour channels come last; move them with numpy.moveaxis(a, 0, -1)")
    if len(shape) == 4:
        raise _wrong(array, label, "pass the pictures of a batch one by one")
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))):
        raise _wrong(array, label)
    check_dimensions(shape[1], shape[0], label, max_pixels)
    if array.dtype == np.uint8:
        values, notes = np.asarray(array), []
    elif np.issubdtype(array.dtype, np.floating):
        values, notes = _from_unit(array, label), ["floating point converted to 8 bits"]
    else:
        raise _wrong(array, label)
    values = values.reshape(*shape[:2], -1)  # (height, width, channels)
    if values.shape[2] == 1:
        return np.repeat(values, 3, axis=2), [*notes, "greyscale converted to RGB", *_elongated(shape[1], shape[0])]
    if values.shape[2] == 4:
        opacity = values[..., 3:].astype(np.uint16)
        if opacity.min() < 255:
            # The rounding of a·x + (255 - a)·255 over 255, as PIL's paste does it.
            blend = opacity * values[..., :3] + (255 - opacity) * np.uint16(255) + np.uint16(128)
            values = ((blend.astype(np.uint32) + (blend >> 8)) >> 8).astype(np.uint8)
            notes = [*notes, "transparent parts put on white"]
    return np.array(values[..., :3]), [*notes, *_elongated(shape[1], shape[0])]


def _from_unit(values: np.ndarray, label: str) -> np.ndarray:
    """Floating point in 0 to 1 to uint8, rounded; the same shape."""
    finite = np.isfinite(values)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise MediaError(f"{label}: the value at {where} is {values[where]}. Expected numbers from 0 to 1.")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        advice = "divide by 255 or convert to uint8" if low >= 0 and 1.5 < high <= 255 else "scale or clip it first"
        raise MediaError(f"{label}: values run from {low:g} to {high:g}. Expected 0 to 1 in floating point; {advice}.")
    return np.rint(values.astype(np.float64) * 255).astype(np.uint8)


def _wrong(array: np.ndarray, label: str, advice: str = "reshape or convert it") -> MediaError:
    what = f"shape {array.shape}, dtype {array.dtype}"
    return MediaError(
        f"{label}: an array of {what} is no picture. Expected (height, width), or a third axis of 1, 3 or 4 channels, "
        f"as uint8 or as floating point from 0 to 1; {advice}."
    )
