"""The world the pocket model lives in: a few coloured shapes at nine places, and a renderer for them.

A ``Scene`` is what a picture shows; ``render`` draws one with jitter in size, place, hue, outline and background, so
that what is learnt carries over to other people's drawings. ``plain_render`` is a second, different renderer (no
anti-aliasing, exact CSS colours, no jitter) that training never sees: the card reports on it.
"""

from __future__ import annotations

import colorsys
import io
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "COLOURS", "DIGITS", "PLACES", "SHAPES", "SIZES", "Scene", "Thing", "background", "changed", "difference", "plain_render", "random_scene",
    "render",
]  # fmt: skip

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
SHAPES = ("circle", "square", "triangle", "star", "cross")
SIZES = {"small": (0.22, 0.3), "large": (0.38, 0.47)}
"""Radius of a small and of a large thing, as a part of a ninth's shorter side."""
PLACES = (
    "top left", "top", "top right",
    "left", "center", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip

# hue in degrees, saturation, value: ranges a person would still call by that name
_HSV = {
    "red": ((-8, 8), (0.75, 1.0), (0.7, 1.0)),
    "green": ((100, 145), (0.55, 1.0), (0.45, 1.0)),
    "blue": ((212, 243), (0.65, 1.0), (0.6, 1.0)),
    "yellow": ((46, 60), (0.65, 1.0), (0.86, 1.0)),
    "purple": ((270, 302), (0.45, 1.0), (0.42, 0.85)),
    "white": ((0, 360), (0.0, 0.05), (0.93, 1.0)),
}
_CSS = {
    "red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255),
    "yellow": (255, 255, 0), "purple": (128, 0, 128), "white": (255, 255, 255),
}  # fmt: skip
_TILE = 4  # supersampling of a shape's mask


@dataclass(frozen=True)
class Thing:
    """One shape: its colour, its shape, the index of its place in ``PLACES``, and its size: of ``SIZES`` or any (``""``)."""

    colour: str
    shape: str
    place: int
    size: str = ""

    @property
    def name(self) -> str:
        """``"red circle"``."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """What a picture shows, in reading order; no two things share a place."""

    things: tuple[Thing, ...]

    def at(self, place: int) -> Thing | None:
        """The thing at a place, or None."""
        return next((t for t in self.things if t.place == place), None)

    def having(self, colour: str | None = None, shape: str | None = None) -> list[Thing]:
        """The things of a colour and/or a shape, in reading order."""
        return [t for t in self.things if colour in (None, t.colour) and shape in (None, t.shape)]


def random_scene(rng: np.random.Generator, fewest: int = 1, most: int = 3) -> Scene:
    """A scene of ``fewest`` to ``most`` things, everything uniform; four in five things are clearly small or large."""
    places = sorted(rng.choice(9, int(rng.integers(fewest, most + 1)), replace=False).tolist())
    return Scene(tuple(_thing(rng, p) for p in places))


def _thing(rng: np.random.Generator, place: int) -> Thing:
    size = ("small", "small", "large", "large", "")[rng.integers(5)]
    return Thing(COLOURS[rng.integers(len(COLOURS))], SHAPES[rng.integers(len(SHAPES))], place, size)


def changed(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same scene after one change (see ``difference``), or, one time in eight, after none."""
    things = list(scene.things)
    free = [p for p in range(9) if scene.at(p) is None]
    kinds = ["came"] if free else []
    if things:
        kinds += ["went", "colour", "shape", "moved"] if free else ["went", "colour", "shape"]
    kind = kinds[rng.integers(len(kinds))] if rng.random() < 0.875 else "none"
    if kind == "came":
        things.append(_thing(rng, free[rng.integers(len(free))]))
    elif kind != "none":
        thing = things.pop(rng.integers(len(things)))
        if kind == "colour":
            others = [c for c in COLOURS if c != thing.colour]
            things.append(replace(thing, colour=others[rng.integers(len(others))]))
        elif kind == "shape":
            shapes = [s for s in SHAPES if s != thing.shape]
            things.append(replace(thing, shape=shapes[rng.integers(len(shapes))]))
        elif kind == "moved":
            things.append(replace(thing, place=free[rng.integers(len(free))]))
    return Scene(tuple(sorted(things, key=lambda t: t.place)))


def difference(before: Scene, after: Scene) -> str:
    """What ``changed`` did, in words: ``"The star at the top turned blue."``, ``"Nothing."``."""

    def only(one: Scene, other: Scene) -> list[Thing]:
        there = {(t.colour, t.shape, t.place) for t in other.things}
        return [t for t in one.things if (t.colour, t.shape, t.place) not in there]

    gone, new = only(before, after), only(after, before)
    if not gone and not new:
        return "Nothing."
    if not gone:
        return f"A {new[0].name} came at the {PLACES[new[0].place]}."
    old = gone[0]
    if not new:
        return f"The {old.name} at the {PLACES[old.place]} went away."
    if new[0].place != old.place:
        return f"The {old.name} moved to the {PLACES[new[0].place]}."
    if new[0].colour != old.colour:
        return f"The {old.shape} at the {PLACES[old.place]} turned {new[0].colour}."
    return f"The {old.name} turned into a {new[0].shape}."


def _outline(shape: str, rng: np.random.Generator) -> np.ndarray | None:
    """Corner points (N, 2) in the unit disc, y down; None for the circle."""
    if shape == "circle":
        return None
    turn = math.radians(float(rng.normal(0, 5)))
    if shape == "square":
        points = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float) * 0.82
    elif shape == "triangle":
        squeeze = rng.uniform(0.85, 1.05)
        points = np.array([(0, -0.95), (0.95 * squeeze, 0.8), (-0.95 * squeeze, 0.8)], float)
    elif shape == "star":
        inner = rng.uniform(0.36, 0.5)
        angle = np.arange(10) * math.pi / 5 - math.pi / 2
        radius = np.where(np.arange(10) % 2 == 0, 1.0, inner)
        points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    else:
        a = rng.uniform(0.2, 0.38)
        if rng.random() < 0.15:
            turn += math.pi / 4  # an x is a cross too
        points = np.array(
            [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)]
        )
        points = points * 0.95
    c, s = math.cos(turn), math.sin(turn)
    return points @ np.array([[c, s], [-s, c]])


def _mask(shape: str, radius: float, centre: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Coverage (S, S) float32 0..1 of a shape in a tile whose middle is ``centre``'s pixel, anti-aliased."""
    from PIL import Image, ImageDraw

    side = 2 * (math.ceil(radius) + 2)
    tile = Image.new("L", (side * _TILE, side * _TILE), 0)
    draw = ImageDraw.Draw(tile)
    x = (side / 2 + centre[0] % 1) * _TILE
    y = (side / 2 + centre[1] % 1) * _TILE
    r = radius * _TILE
    points = _outline(shape, rng)
    if points is None:
        draw.ellipse((x - r * 0.95, y - r * 0.95, x + r * 0.95, y + r * 0.95), fill=255)
    else:
        draw.polygon([(x + r * px, y + r * py) for px, py in points], fill=255)
    return np.asarray(tile.reduce(_TILE), dtype=np.float32) / 255


def _colour(name: str, rng: np.random.Generator) -> np.ndarray:
    """RGB (3,) 0..255 that goes by that name; now and then the exact CSS colour."""
    if rng.random() < 0.2:
        return np.array(_CSS[name], np.float32)
    (h0, h1), (s0, s1), (v0, v1) = _HSV[name]
    h, s, v = rng.uniform(h0, h1) / 360 % 1, rng.uniform(s0, s1), rng.uniform(v0, v1)
    return np.array(colorsys.hsv_to_rgb(h, s, v), np.float32) * 255


def background(height: int, width: int, rng: np.random.Generator, dark: bool) -> np.ndarray:
    """A canvas (H, W, 3) float32 0..255: plain, gradient, blotchy or textured, of low saturation; ``dark``: 130 at most."""

    def shade() -> np.ndarray:
        kind = rng.random()
        if dark:
            value = 0.0 if kind < 0.3 else rng.uniform(0, 0.5)
        else:
            value = 1.0 if kind < 0.35 else rng.uniform(0.0, 1.0)
        # the model's first LayerNorm makes the palest tint as strong as a full colour: most grounds are neutral
        saturation = rng.uniform(0, 0.25) if kind > 0.85 else 0.0
        return np.array(colorsys.hsv_to_rgb(rng.random(), saturation, value), np.float32) * 255

    first = shade()
    kind = rng.random()
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = np.tile(first, (width, 1))  # whole rows: numpy is slow where the last axis is three long
    if kind > 0.75:  # a gradient towards a neighbour of the first shade
        second = np.clip(first + rng.uniform(-60, 60, 3).astype(np.float32), 0, 130 if dark else 255)
        angle = rng.uniform(0, 2 * math.pi)
        ramp = (
            np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None] * math.sin(angle)
            + np.linspace(-0.5, 0.5, width, dtype=np.float32)[None] * math.cos(angle)
            + 0.5
        )
        canvas += ramp.repeat(3, 1).reshape(canvas.shape) * np.tile(second - first, (width, 1))
    if kind > 0.9:  # blotches: coarse noise stretched over the canvas
        from PIL import Image

        n = int(rng.integers(3, 24))
        coarse = Image.fromarray(rng.normal(0, rng.uniform(4, 18), (n, n)).astype(np.float32))
        canvas += np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR))[..., None]
    if rng.random() < 0.1:
        canvas += _texture(height, width, rng)[..., None] * rng.uniform(6, 28)
    return canvas


def _texture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Stripes, checks, dots or weave (H, W), -1..1, of any direction, 6 to 60 pixels a repeat."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle, pitch = rng.uniform(0, math.pi), 2 * math.pi / rng.uniform(6, 60)
    u = np.sin(pitch * (x * math.cos(angle) + y * math.sin(angle)))
    v = np.sin(pitch * (y * math.cos(angle) - x * math.sin(angle)))
    kind = rng.integers(4)
    if kind == 0:
        return u
    if kind == 1:
        return np.sign(u * v)
    return np.maximum(0, u * v) if kind == 2 else (u + v) / 2


def render(
    scene: Scene, rng: np.random.Generator, width: int = 384, height: int = 384, dark: bool | None = None
) -> Image.Image:
    """Draw a scene, every time another way.

    Two scenes drawn by equal generators differ in what differs between them only: each place has its own jitter.

    Args:
        scene: what to draw.
        rng: all jitter comes from it.
        width, height: pixels.
        dark: whether the ground must be dark enough for white shapes; None: where there are any without an outline.

    Returns:
        An RGB picture; about one in six has been through JPEG.
    """
    from PIL import Image

    outlined = rng.random() < 0.12
    if dark is None:
        dark = any(t.colour == "white" for t in scene.things) and not outlined
    canvas = background(height, width, rng, dark)
    cell_w, cell_h = width / 3, height / 3
    cell = min(cell_w, cell_h)
    common = rng.uniform(0.26, 0.46)
    places = int(rng.integers(2**31))
    for thing in scene.things:
        own = np.random.default_rng([places, thing.place])
        if thing.size:
            scale = own.uniform(*SIZES[thing.size])
        else:
            scale = common if own.random() < 0.5 else own.uniform(0.24, 0.47)
        radius = max(3.0, cell * scale)
        slack_x, slack_y = max(0.0, cell_w / 2 - radius), max(0.0, cell_h / 2 - radius)
        x = (thing.place % 3 + 0.5) * cell_w + own.uniform(-1, 1) * min(slack_x, cell_w * 0.22)
        y = (thing.place // 3 + 0.5) * cell_h + own.uniform(-1, 1) * min(slack_y, cell_h * 0.22)
        seed = int(own.integers(2**31))
        ink = _colour(thing.colour, own)
        if outlined:
            _paint(canvas, _mask(thing.shape, radius * 1.1 + 1, (x, y), np.random.default_rng(seed)), (x, y), ink * 0.1)
        _paint(canvas, _mask(thing.shape, radius, (x, y), np.random.default_rng(seed)), (x, y), ink)
    if rng.random() < 0.12:  # grain
        grain = rng.normal(0, rng.uniform(1, 10), (height // 2 + 1, width // 2 + 1, 1)).astype(np.float32)
        canvas += grain.repeat(2, 0).repeat(2, 1)[:height, :width]
    picture = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    if rng.random() < 0.17:
        packed = io.BytesIO()
        picture.save(packed, "JPEG", quality=int(rng.integers(30, 95)))
        picture = Image.open(packed).convert("RGB")
    return picture


def _paint(canvas: np.ndarray, mask: np.ndarray, centre: tuple[float, float], ink: np.ndarray) -> None:
    """Blend ``ink`` into ``canvas`` through ``mask`` in place, cut off at the edges."""
    half = mask.shape[0] // 2
    left, top = int(centre[0]) - half, int(centre[1]) - half
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + mask.shape[1], canvas.shape[1]), min(top + mask.shape[0], canvas.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    part = mask[y0 - top : y1 - top, x0 - left : x1 - left, None]
    window = canvas[y0:y1, x0:x1]
    window += part * (ink - window)


def plain_render(
    scene: Scene,
    width: int = 300,
    height: int = 300,
    background: str | None = None,
    scale: float = 0.36,
    smooth: bool = False,
) -> Image.Image:
    """The second renderer: hard edges, CSS colours, centred shapes. Training never sees it.

    Args:
        scene: what to draw.
        width, height: pixels.
        background: any PIL colour; None takes white, or grey when a white shape would vanish.
        scale: radius, as a part of a grid cell's shorter side, of things that are neither small nor large.
        smooth: softened edges, as vector graphics have.
    """
    from PIL import Image, ImageDraw

    if smooth:
        large = plain_render(scene, width * 3, height * 3, background, scale)
        return large.resize((width, height), Image.Resampling.LANCZOS)

    if background is None:
        background = "gray" if any(t.colour == "white" for t in scene.things) else "white"
    picture = Image.new("RGB", (width, height), background)
    draw = ImageDraw.Draw(picture)
    for thing in scene.things:
        r = min(width, height) / 3 * {"small": 0.26, "large": 0.42, "": scale}[thing.size]
        x, y = (thing.place % 3 + 0.5) * width / 3, (thing.place // 3 + 0.5) * height / 3
        ink = _CSS[thing.colour]
        if thing.shape == "circle":
            draw.ellipse((x - r, y - r, x + r, y + r), fill=ink)
        elif thing.shape == "square":
            draw.rectangle((x - r, y - r, x + r, y + r), fill=ink)
        elif thing.shape == "triangle":
            draw.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=ink)
        elif thing.shape == "star":
            angle = [k * math.pi / 5 - math.pi / 2 for k in range(10)]
            radius = [r if k % 2 == 0 else r * 0.4 for k in range(10)]
            draw.polygon([(x + q * math.cos(a), y + q * math.sin(a)) for a, q in zip(angle, radius, strict=True)], ink)
        else:
            draw.rectangle((x - r, y - r / 3, x + r, y + r / 3), fill=ink)
            draw.rectangle((x - r / 3, y - r, x + r / 3, y + r), fill=ink)
    return picture
