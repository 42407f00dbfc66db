"""A sheet of paper: rectangles, lines, words and pictures, written as PNG, SVG or PDF. No plotting library.

Measures are points (1/72 inch) from the top left. SVG and PDF keep words as words and shapes as shapes; pictures are
embedded. The PDF uses its readers' built-in Helvetica, which has the letters of Western Europe; others become "?". The
PNG uses a font of this machine, or Pillow's own, which has English; what a font lacks becomes its base letter, or "?".
"""

from __future__ import annotations

import base64
import functools
import html
import io
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from workbench.thumbnails import VIRIDIS

__all__ = ["Sheet", "viridis"]

_FONTS = ("DejaVuSans.ttf", "Arial Unicode.ttf", "Arial.ttf", "LiberationSans-Regular.ttf", "NotoSans-Regular.ttf")
Colour = tuple[int, int, int]

_ANCHORS = np.array(VIRIDIS, np.float64)


def viridis(t: float) -> Colour:
    """A colour for an amount of 0 to 1."""
    at = float(np.clip(t, 0, 1)) * (len(_ANCHORS) - 1)
    low = min(int(at), len(_ANCHORS) - 2)
    r, g, b = _ANCHORS[low] + (_ANCHORS[low + 1] - _ANCHORS[low]) * (at - low)
    return round(r), round(g), round(b)


@dataclass
class Sheet:
    """What is drawn, in order, on ``width`` × ``height`` points of white."""

    width: float
    height: float
    marks: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)

    def rect(
        self, x: float, y: float, w: float, h: float, *, fill: Colour | None = None, line: Colour | None = None,
        alpha: float = 1.0, thick: float = 1.0,
    ) -> None:  # fmt: skip
        """A rectangle; ``alpha`` is of its filling."""
        self.marks.append(("rect", (x, y, w, h, fill, line, alpha, thick)))

    def path(self, points: Sequence[tuple[float, float]], colour: Colour, thick: float = 0.7) -> None:
        """Straight lines from point to point."""
        self.marks.append(("path", (list(points), colour, thick)))

    def text(self, x: float, y: float, words: str, *, size: float = 9, anchor: str = "start",
             colour: Colour = (30, 30, 30)) -> None:  # fmt: skip
        """Words whose baseline begins (``start``), is centred (``middle``) or ends (``end``) at a point."""
        self.marks.append(("text", (x, y, words, size, anchor, colour)))

    def picture(self, x: float, y: float, w: float, h: float, pixels: np.ndarray) -> None:
        """(height, width, 3) uint8 pixels, stretched over a rectangle."""
        self.marks.append(("picture", (x, y, w, h, np.ascontiguousarray(pixels))))

    # --- PNG ----------------------------------------------------------------------------------------------------------

    def png(self, scale: float = 3.0) -> bytes:
        """As pixels, ``scale`` of them a point."""
        size = (round(self.width * scale), round(self.height * scale))
        out = PIL.Image.new("RGB", size, (255, 255, 255))
        for kind, mark in self.marks:
            if kind == "picture":
                x, y, w, h, pixels = mark
                left, top, right, bottom = (round(v * scale) for v in (x, y, x + w, y + h))
                one = PIL.Image.fromarray(pixels).resize((max(1, right - left), max(1, bottom - top)))
                out.paste(one, (left, top))
            elif kind == "rect":
                out = self._png_rect(out, mark, scale)
            elif kind == "path":
                points, colour, thick = mark
                PIL.ImageDraw.Draw(out).line(
                    [(x * scale, y * scale) for x, y in points], fill=colour, width=max(1, round(thick * scale))
                )
            else:
                x, y, words, size_, anchor, colour = mark
                said, font = _drawable(words, size_ * scale)
                PIL.ImageDraw.Draw(out).text(
                    (x * scale, y * scale), said, fill=colour, font=font,
                    anchor={"start": "ls", "middle": "ms", "end": "rs"}[anchor],
                )  # fmt: skip
        file = io.BytesIO()
        out.save(file, "PNG", dpi=(72 * scale, 72 * scale))
        return file.getvalue()

    @staticmethod
    def _png_rect(out: PIL.Image.Image, mark: tuple[Any, ...], scale: float) -> PIL.Image.Image:
        x, y, w, h, fill, line, alpha, thick = mark
        box = [round(x * scale), round(y * scale), round((x + w) * scale) - 1, round((y + h) * scale) - 1]
        box[2:] = [max(box[0], box[2]), max(box[1], box[3])]
        if fill is not None:
            inside = (box[0], box[1], box[2] + 1, box[3] + 1)
            under = out.crop(inside)
            out.paste(PIL.Image.blend(under, PIL.Image.new("RGB", under.size, fill), alpha), inside[:2])
        if line is not None:
            PIL.ImageDraw.Draw(out).rectangle(box, outline=line, width=max(1, round(thick * scale)))
        return out

    # --- SVG ----------------------------------------------------------------------------------------------------------

    def svg(self) -> bytes:
        """As one SVG file, pictures inside it."""
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width:g}pt" height="{self.height:g}pt"',
            f'viewBox="0 0 {self.width:g} {self.height:g}" font-family="Helvetica, Arial, sans-serif">',
            '<rect width="100%" height="100%" fill="#fff"/>',
        ]
        for kind, mark in self.marks:
            if kind == "rect":
                x, y, w, h, fill, line, alpha, thick = mark
                paint = f'fill="{_hex(fill)}" fill-opacity="{alpha:.3g}"' if fill is not None else 'fill="none"'
                stroke = f' stroke="{_hex(line)}" stroke-width="{thick:g}"' if line is not None else ""
                parts.append(f'<rect x="{x:.2f}" y="{y:.2f}" width="{w:.2f}" height="{h:.2f}" {paint}{stroke}/>')
            elif kind == "path":
                points, colour, thick = mark
                joined = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
                parts.append(
                    f'<polyline points="{joined}" fill="none" stroke="{_hex(colour)}" stroke-width="{thick:g}"/>'
                )
            elif kind == "text":
                x, y, words, size, anchor, colour = mark
                parts.append(
                    f'<text x="{x:.2f}" y="{y:.2f}" font-size="{size:g}" text-anchor="{anchor}" fill="{_hex(colour)}">'
                    f"{html.escape(_printable(words))}</text>"
                )
            else:
                x, y, w, h, pixels = mark
                file = io.BytesIO()
                PIL.Image.fromarray(pixels).save(file, "PNG")
                parts.append(
                    f'<image x="{x:.2f}" y="{y:.2f}" width="{w:.2f}" height="{h:.2f}" preserveAspectRatio="none" '
                    f'href="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"/>'
                )
        return "\n".join([*parts, "</svg>\n"]).encode()

    # --- PDF ----------------------------------------------------------------------------------------------------------

    def pdf(self) -> bytes:
        """As a PDF of one page of this size."""
        drawn: list[str] = []
        pictures: list[np.ndarray] = []
        alphas: list[float] = []
        for kind, mark in self.marks:
            if kind == "rect":
                x, y, w, h, fill, line, alpha, thick = mark
                box = f"{x:.2f} {self.height - y - h:.2f} {w:.2f} {h:.2f} re"
                if fill is not None:
                    if alpha not in alphas:
                        alphas.append(alpha)
                    drawn.append(f"q /A{alphas.index(alpha)} gs {_rgb(fill)} rg {box} f Q")
                if line is not None:
                    drawn.append(f"q {_rgb(line)} RG {thick:g} w {box} S Q")
            elif kind == "path":
                points, colour, thick = mark
                steps = " ".join(
                    f"{x:.2f} {self.height - y:.2f} {'l' if k else 'm'}" for k, (x, y) in enumerate(points)
                )
                drawn.append(f"q {_rgb(colour)} RG {thick:g} w {steps} S Q")
            elif kind == "text":
                x, y, words, size, anchor, colour = mark
                x -= _width(words, size) * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
                drawn.append(
                    f"BT /F {size:g} Tf {_rgb(colour)} rg {x:.2f} {self.height - y:.2f} Td ({_pdf(words)}) Tj ET"
                )
            else:
                x, y, w, h, pixels = mark
                drawn.append(f"q {w:.2f} 0 0 {h:.2f} {x:.2f} {self.height - y - h:.2f} cm /I{len(pictures)} Do Q")
                pictures.append(pixels)
        return _pdf_file(self.width, self.height, "\n".join(drawn), pictures, alphas)


@functools.cache
def _font(size: float) -> Any:
    for name in _FONTS:
        try:
            return PIL.ImageFont.truetype(name, size)
        except OSError:  # not on this machine
            continue
    return PIL.ImageFont.load_default(size)


def _drawable(words: str, size: float) -> tuple[str, Any]:
    """Words of letters that the font has, and the font."""
    font = _font(size)
    nothing = bytes(font.getmask("\U0010ffff"))

    def has(letter: str) -> bool:
        return letter.isascii() or bytes(font.getmask(letter)) != nothing

    def best(letter: str) -> str:
        base = unicodedata.normalize("NFKD", letter)[0]
        return letter if has(letter) else base if has(base) else "?"

    return "".join(map(best, _printable(words))), font


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _rgb(colour: Colour) -> str:
    return " ".join(f"{c / 255:.3f}" for c in colour)


def _printable(words: str) -> str:
    return "".join(c if c.isprintable() else "�" for c in words)


def _pdf(words: str) -> str:
    """A PDF string: Latin letters in octal where needed."""
    out = []
    for byte in _printable(words).encode("cp1252", errors="replace"):
        plain = 32 <= byte < 127 and chr(byte) not in "()\\"
        out.append(chr(byte) if plain else f"\\{byte:03o}")
    return "".join(out)


def _width(words: str, size: float) -> float:
    """About how wide words are in Helvetica: the default font of Pillow is as wide to a few percent."""
    return float(PIL.ImageFont.load_default(size * 10).getlength(words)) / 10


def _pdf_file(width: float, height: float, drawn: str, pictures: list[np.ndarray], alphas: list[float]) -> bytes:
    def stream(about: str, data: bytes) -> bytes:
        packed = zlib.compress(data)
        head = f"<< {about} /Filter /FlateDecode /Length {len(packed)} >>\nstream\n".encode()
        return head + packed + b"\nendstream"

    states = " ".join(f"/A{k} << /ca {a:.3f} >>" for k, a in enumerate(alphas))
    images = " ".join(f"/I{k} {6 + k} 0 R" for k in range(len(pictures)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width:.2f} {height:.2f}] /Contents 4 0 R /Resources << "
            f"/Font << /F 5 0 R >> /ExtGState << {states} >> /XObject << {images} >> >> >>"
        ).encode(),
        stream("", drawn.encode("ascii")),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for pixels in pictures:
        h, w = pixels.shape[:2]
        about = f"/Type /XObject /Subtype /Image /Width {w} /Height {h} /ColorSpace /DeviceRGB /BitsPerComponent 8"
        objects.append(stream(about, pixels.tobytes()))
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += "".join(f"{offset:010d} 00000 n \n" for offset in offsets).encode()
    out += f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()
    return bytes(out)
