"""A small fixed part of the exam in one file, so that a test can hold the floor of each figure without a synthesiser.

``python -m workbench.pocket.sample`` makes it again; the words need espeak-ng, flite and festival.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict
from pathlib import Path

from workbench.pocket.exam import Case, parts
from workbench.pocket.questions import Turn
from workbench.pocket.speech import RATE

__all__ = ["HERE", "make", "read", "write"]

HERE = Path(__file__).resolve().parents[2] / "tests" / "pocket_sample.zip"
"""Where it lies in a checkout, wherever one stands."""

_EACH = {"pictures": 24, "other renderer": 16, "digits": 30, "pairs": 24, "beeps": 20, "sound and picture": 14,
         "text and turns": 24, "everything else": 20}  # fmt: skip
_SIDE = 320  # pixels kept of a picture's longer side


def make(seed: int = 4242) -> list[Case]:
    """The first cases of every part of the exam, and one of each spoken word a voice."""
    chosen: list[Case] = []
    for name, cases in parts(seed, 60, progress=True).items():
        every = list(cases())
        step = max(1, len(every) // 31) if name not in _EACH else 1
        chosen += every[::step][: _EACH.get(name, 31)]
    return chosen


def write(cases: list[Case], path: Path) -> None:
    """Pictures as JPEG of at most 320 pixels a side, sounds as Ogg Vorbis, questions and answers as JSON."""
    import soundfile

    listed = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as out:

        def add(name: str, data: bytes) -> None:
            out.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), data)  # the same file every time

        for k, case in enumerate(cases):
            names = []
            for m, (kind, medium) in enumerate(case.media):
                packed = io.BytesIO()
                if kind == "image":
                    small = medium.convert("RGB")
                    small.thumbnail((_SIDE, _SIDE))
                    small.save(packed, "JPEG", quality=85)
                else:
                    soundfile.write(packed, medium, RATE, format="OGG", subtype="VORBIS")
                names.append(f"{k}-{m}.{'jpg' if kind == 'image' else 'ogg'}")
                add(names[-1], packed.getvalue())
            listed.append({
                "media": names, "turns": [asdict(turn) for turn in case.turns], "rows": case.rows,
                "system": case.system, "history": [asdict(turn) for turn in case.history],
            })  # fmt: skip
        add("cases.json", json.dumps(listed, indent=0).encode())


def read(path: Path) -> list[Case]:
    """What ``write`` wrote."""
    import soundfile
    from PIL import Image

    cases = []
    with zipfile.ZipFile(path) as stored:
        for one in json.loads(stored.read("cases.json")):
            media: list = []
            for name in one["media"]:
                data = io.BytesIO(stored.read(name))
                if name.endswith(".jpg"):
                    media.append(("image", Image.open(data).convert("RGB")))
                else:
                    media.append(("audio", soundfile.read(data, dtype="float32")[0]))
            turns, history = ([Turn(**turn) for turn in one[which]] for which in ("turns", "history"))
            cases.append(Case(media, turns, one["rows"], one["system"], tuple(history)))
    return cases


if __name__ == "__main__":
    write(make(), HERE)
    print(f"{HERE}  {HERE.stat().st_size:,} bytes")
