"""The spoken words of the pocket world, synthesised once into a cache folder.

Voices come from espeak-ng (many variants and accents, any speed and pitch) and flite. Some of each are held out of
training, and festival altogether: the card reports on them apart. No human voice was ever heard.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from workbench.errors import MediaError
from workbench.pocket.questions import WORDS

__all__ = ["RATE", "Voice", "augment", "bank", "cache_folder", "synthesise", "voices"]

RATE = 16_000
_MEND = {
    "espeak-ng": "sudo apt-get install espeak-ng   (macOS: brew install espeak-ng)",
    "flite": "sudo apt-get install flite   (macOS: brew install flite)",
    "text2wave": "sudo apt-get install festival festvox-kallpc16k   (macOS: brew install festival)",
}
_ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-029", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc")
_VARIANTS = (
    "adam Alex Alicia Andrea Andy Annie antonio belinda benjamin boris caleb david Denis Diogo edward edward2 Gene Gene2 "
    "Henrique Hugo Jacky john kaukovalta Lee linda marcelo Marco Mario Michael michel miguel Mike Nguyen pablo paul "
    "pedro quincy RicishayMax RicishayMax2 rob robert steph steph2 Storm zac anika f2 f3 f4 grandpa klatt klatt2 klatt3 "
    "klatt4 m2 m3 m4 m5 m6 norbert sandro travis victor m1 grandma robosoft4 robosoft7"
).split()
# max and steph3 are in neither: but for a line or two they are RicishayMax and steph, which are trained on
_HELD_OUT_VARIANTS = "aunty ed gustave iven shelby f1 f5 m7 m8 klatt6".split()


@dataclass(frozen=True)
class Voice:
    """A way of speaking: the engine, its voice, speed (1 = normal) and pitch (1 = normal)."""

    engine: str
    name: str
    speed: float = 1.0
    pitch: float = 1.0


def voices(split: str, count: int, seed: int = 0) -> list[Voice]:
    """``count`` voices of a split.

    Args:
        split: ``"train"``; ``"espeak"``: espeak-ng variants and an accent never trained on; ``"flite"``: the flite
            voice never trained on; ``"festival"``: an engine never trained on, of a speaker that is: its kal and flite's
            are from one recording.
        count: how many; speeds and pitches are drawn.
        seed: of the draw.
    """
    rng = np.random.default_rng([seed, sum(map(ord, split))])
    drawn = []
    for _ in range(count):
        speed, pitch = float(rng.uniform(0.75, 1.4)), float(rng.uniform(0.6, 1.5))
        if split == "festival":
            drawn.append(Voice("festival", "kal", speed))
        elif split == "flite" or (split == "train" and rng.random() < 0.4):
            name = "rms" if split == "flite" else ("kal", "awb", "slt", "kal16")[int(rng.integers(4))]
            drawn.append(Voice("flite", name, speed, pitch))
        elif split in ("train", "espeak"):
            held = split == "espeak"
            variants = _HELD_OUT_VARIANTS if held else _VARIANTS
            accents = ("en-us", "en-gb-scotland") if held else _ACCENTS
            name = f"{accents[int(rng.integers(len(accents)))]}+{variants[int(rng.integers(len(variants)))]}"
            drawn.append(Voice("espeak", name, speed, pitch))
        else:
            raise MediaError(f"unknown split of voices {split!r}: expected train, espeak, flite or festival")
    return drawn


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise MediaError(f"the speech synthesiser {name!r} is not installed; to mend it: {_MEND[name]}")
    return path


def synthesise(word: str, voice: Voice) -> np.ndarray:
    """A word in a voice: float32 at 16 kHz, outer silence cut off, loudest sample 1.

    Raises:
        MediaError: the synthesiser is missing (with the command that installs it) or gave nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "word.wav"
        text = None
        if voice.engine == "espeak":
            speed, pitch = str(round(165 * voice.speed)), str(min(99, round(50 * voice.pitch)))
            command = [_program("espeak-ng"), "-v", voice.name, "-s", speed, "-p", pitch, "-w", str(out), word]
        elif voice.engine == "flite":
            mean = {"slt": 170, "awb": 130}.get(voice.name, 105) * (0.4 + 0.6 * voice.pitch)
            command = [_program("flite"), "-voice", voice.name, "--setf", f"duration_stretch={1 / voice.speed:.2f}",
                       "--setf", f"int_f0_target_mean={mean:.0f}", "-t", word, "-o", str(out)]  # fmt: skip
        else:
            command = [_program("text2wave"), "-eval", f"(Parameter.set 'Duration_Stretch {1 / voice.speed:.2f})",
                       "-o", str(out)]  # fmt: skip
            text = word
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if done.returncode or not out.exists() or out.stat().st_size < 100:
            said = " ".join(done.stderr.split())[:200]
            mend = f" Festival without a voice says so: {_MEND['text2wave']}" if voice.engine == "festival" else ""
            raise MediaError(f"{command[0]} could not say {word!r} as {voice}: {said}.{mend}")
        wave, rate = _read(out.read_bytes())
    return _trim(_resample(wave, rate))


def _read(data: bytes) -> tuple[np.ndarray, int]:
    import soundfile

    wave, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    return (wave if wave.ndim == 1 else wave.mean(1)), rate


def _resample(wave: np.ndarray, rate: int) -> np.ndarray:
    if rate == RATE:
        return wave
    from math import gcd

    from scipy.signal import resample_poly

    g = gcd(rate, RATE)
    return resample_poly(wave, RATE // g, rate // g).astype(np.float32)


def _trim(wave: np.ndarray) -> np.ndarray:
    peak = float(np.abs(wave).max(initial=0.0))
    if peak == 0:
        raise MediaError("a synthesiser returned silence")
    loud = np.flatnonzero(np.abs(wave) > peak * 0.02)
    return wave[max(0, loud[0] - 160) : loud[-1] + 480] / peak


def cache_folder() -> Path:
    """Where synthesised speech is kept: ``$GEMMA_WORKBENCH_CACHE`` or ``~/.cache/gemma-workbench``."""
    root = os.environ.get("GEMMA_WORKBENCH_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "gemma-workbench"


class Bank:
    """Every word in many voices, in memory as int16.

    Attributes:
        takes: word to a list of float-convertible int16 arrays, 16 kHz.
    """

    def __init__(self, samples: np.ndarray, starts: np.ndarray, words: np.ndarray) -> None:
        self.takes: dict[str, list[np.ndarray]] = {w: [] for w in WORDS}
        for k, w in enumerate(words):
            self.takes[WORDS[w]].append(samples[starts[k] : starts[k + 1]])

    def take(self, word: str, rng: np.random.Generator) -> np.ndarray:
        """One rendition, float32 -1..1."""
        options = self.takes[word]
        return options[int(rng.integers(len(options)))].astype(np.float32) / 32767


def bank(split: str, per_word: int, folder: Path | None = None, seed: int = 0, progress: bool = True) -> Bank:
    """The words in ``per_word`` voices of a split, from the cache, or synthesised into it first (about 15 ms a word)."""
    folder = folder or cache_folder() / "speech"
    jobs = [(k, voice) for k in range(len(WORDS)) for voice in voices(split, per_word, seed=seed * 1000 + k)]
    key = sha256(repr([WORDS, *jobs]).encode()).hexdigest()[:12]  # other voices are another file
    path = folder / f"{split}-{per_word}-{seed}-{key}.npz"
    if not path.exists():
        if progress:
            print(f"synthesising {len(jobs)} spoken words ({split}) into {path}", flush=True)
        with ThreadPoolExecutor(2) as pool:
            waves = list(pool.map(lambda job: (synthesise(WORDS[job[0]], job[1]) * 32767).astype(np.int16), jobs))
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        starts = np.cumsum([0, *[len(w) for w in waves]])
        np.savez(partial, samples=np.concatenate(waves), starts=starts, words=np.array([k for k, _ in jobs]))
        partial.replace(path)
    with np.load(path, allow_pickle=False) as stored:
        return Bank(stored["samples"], stored["starts"], stored["words"])


def augment(wave: np.ndarray, rng: np.random.Generator, longest: float = 1.6, *, strange: float = 0.0) -> np.ndarray:
    """A recording of a take: other speed, tone, level, offset and noise; at most ``longest`` seconds, float32 -1..1.

    Args:
        wave: the take, at ``RATE``.
        rng: all chance comes from it.
        longest: seconds.
        strange: share of takes whose voice is bent further: speed and throat by up to a quarter, and tones raised and
            lowered by bands, as no synthesiser here sounds.
    """
    bent = strange > 0 and rng.random() < strange
    factor = float(rng.uniform(0.8, 1.25)) if bent else float(rng.uniform(0.86, 1.16))
    if bent:
        wave = _by_bands(wave, rng)
    n = int(len(wave) / factor)
    wave = np.interp(np.arange(n) * factor, np.arange(len(wave)), wave).astype(np.float32)
    tilt = float(rng.uniform(-0.75, 0.75)) if rng.random() < 0.6 else 0.0
    if tilt:  # a first-order filter: duller or brighter
        wave = np.append(wave[:1], wave[1:] + tilt * wave[:-1])
    room = max(0, int(longest * RATE) - n)
    lead = int(rng.uniform(0, min(room, 0.5 * RATE)))
    tail = int(rng.uniform(0, min(room - lead, 0.4 * RATE)))
    wave = np.concatenate([np.zeros(lead, np.float32), wave, np.zeros(tail, np.float32)])[: int(longest * RATE)]
    wave = wave / max(1e-6, float(np.abs(wave).max()))
    if rng.random() < 0.85:
        noise = rng.standard_normal(len(wave), dtype=np.float32)
        if rng.random() < 0.5:  # towards brown: hum and rumble
            noise = np.convolve(noise, np.ones(6, np.float32) / 2.4, "same")
        wave = wave + noise * 10 ** float(rng.uniform(-3.6, -1.5))
    level = 10 ** float(rng.uniform(-1.4, 0))
    return np.clip(wave * level, -1, 1).astype(np.float32)


def _by_bands(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The wave with random gains, 5 dB from each other or so, at eight pitches an octave or less apart."""
    spectrum = np.fft.rfft(wave)
    pitch = np.log2(np.maximum(np.fft.rfftfreq(len(wave), 1 / RATE), 60))
    gains = np.interp(pitch, np.log2(np.geomspace(100, RATE / 2, 8)), rng.normal(0, 5, 8))
    return np.fft.irfft(spectrum * 10 ** (gains / 20), len(wave)).astype(np.float32)
