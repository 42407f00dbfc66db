"""Second and third losses of training: linear heads that read off the middle of the network what a patch or a frame is.

They are thrown away afterwards. Answers alone teach colours and places quickly, and shapes, digits and words slowly.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from workbench.pocket.questions import WORDS
from workbench.pocket.tones import MOST
from workbench.pocket.world import COLOURS, DIGITS, SHAPES, SIZES

__all__ = ["Hear", "Look"]


class Look:
    """Reads what a patch shows off the hidden state of its token after one of the middle layers.

    Args:
        model: the model to listen to.
        layer: whose output.
    """

    def __init__(self, model, layer: int = 3) -> None:  # noqa: ANN001
        import torch

        self.sizes = (len(SHAPES) + len(DIGITS) + 1, len(COLOURS) + 1, len(SIZES), 2)
        self.head = torch.nn.Linear(model.config.text_config.hidden_size, sum(self.sizes))
        self.seen: Any = None
        self.shapes_right = float("nan")
        model.model.language_model.layers[layer].register_forward_hook(self._keep)

    def _keep(self, module, args, output) -> None:  # noqa: ANN001
        self.seen = output

    def loss(self, data: dict):
        """Cross-entropy over all image tokens of shape, colour, size and change; where there is nothing a fifth counts."""
        import torch
        from torch.nn import functional as f

        labels = data["patch_labels"]
        if not len(labels):
            return torch.zeros(())
        logits = self.head(self.seen[data["block"] >= 0]).split(self.sizes, -1)
        filled = labels[:, 0] > 0
        self.shapes_right = (logits[0][filled].argmax(-1) == labels[filled, 0]).float().mean().item()
        weights = torch.where(filled | (labels[:, 3] == 1), 1.0, 0.2) * (labels[:, 0] >= 0)
        each = torch.zeros(len(labels))
        for k, part in enumerate(logits):
            each = each + f.cross_entropy(part, labels[:, k], reduction="none", ignore_index=-1)
        return (each * weights).sum() / weights.sum().clamp(min=1)


class Hear:
    """Reads what a frame sounds like, and which word is being said, off the hidden states of sound tokens.

    Args:
        model: the model to listen to.
        early, late: whose output the spectrum and the word are read from.
    """

    def __init__(self, model, early: int = 1, late: int = 3) -> None:  # noqa: ANN001
        import torch

        size = model.config.text_config.hidden_size
        known = len(WORDS) + 2 * MOST
        self.head = torch.nn.ModuleDict({"bands": torch.nn.Linear(size, 32), "word": torch.nn.Linear(size, known)})
        self.token = model.config.audio_token_id
        self.heard: dict[str, Any] = {}
        self.words_right = float("nan")
        for name, layer in (("bands", early), ("word", late)):
            keep = partial(self._keep, name)
            model.model.language_model.layers[layer].register_forward_hook(keep)

    def _keep(self, name: str, module, args, output) -> None:  # noqa: ANN001
        self.heard[name] = output

    def loss(self, data: dict):
        """Squared error of the spectrum, loud frames counting more, and cross-entropy of the word or the beeps."""
        import torch
        from torch.nn import functional as f

        from workbench.pocket.senses import mel_bands

        mask = data["audio_mask"]
        if not mask.any():
            return torch.zeros(())
        place = data["ids"] == self.token
        frames = data["audio_frames"][mask]
        loudness = frames.pow(2).mean(-1).sqrt()
        loudness = loudness / loudness.max().clamp(min=1e-6)
        apart = (self.head["bands"](self.heard["bands"][place]) - mel_bands(frames) / 2).pow(2).mean(-1)
        bands = (apart * loudness).sum() / loudness.sum()
        which = data["audio_labels"][mask]
        known = which >= 0
        if not known.any():
            return 0.5 * bands
        logits = self.head["word"](self.heard["word"][place])[known]
        self.words_right = (logits.argmax(-1) == which[known]).float().mean().item()
        return f.cross_entropy(logits, which[known]) + 0.5 * bands
