"""Helping losses of training: linear heads that read off the middle of the network what a patch, a frame or a word is of.

They are thrown away afterwards. Answers alone teach colours and places quickly, and shapes, digits and words slowly.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from workbench.pocket.features import ninth
from workbench.pocket.questions import WORDS
from workbench.pocket.tones import MOST
from workbench.pocket.world import COLOURS, DIGITS, PLACES, SHAPES, SIZES

__all__ = ["Find", "Hear", "Look"]


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


class Find:
    """Reads off the hidden state of every word for a colour or a shape where in the picture there is any of it.

    To say where the red star is takes two steps, from the word to the patches that are red and from there to their
    place, and an answer alone tells a model little about either. This teaches the first one. A word that was spoken has
    no token of its own: where there is a picture and such a word, all that comes behind both is to know its places.

    Args:
        model: the model to listen to.
        tokenizer: which of its tokens are words for colours and shapes.
        layer: whose output.
    """

    def __init__(self, model, tokenizer, layer: int = 4) -> None:  # noqa: ANN001
        import torch

        size = model.config.text_config.hidden_size
        self.head = torch.nn.ModuleDict({name: torch.nn.Linear(size, len(PLACES)) for name in ("read", "heard")})
        # of every token the shape and the colour it names, counted from 1 as in patch_labels; 0: none
        self.words = torch.zeros(len(tokenizer), 2, dtype=torch.long)
        names = {shape: (k, 0) for k, shape in enumerate(SHAPES, 1)}
        names |= {colour: (0, k) for k, colour in enumerate(COLOURS, 1)}
        for token in range(len(tokenizer)):
            known = names.get(tokenizer.decode([token]).strip().lower())
            if known:
                self.words[token] = torch.tensor(known)
        self.spoken = torch.tensor([names.get(word, (0, 0)) for word in WORDS])
        self.token = model.config.audio_token_id
        self.seen: Any = None
        self.places_right = float("nan")
        model.model.language_model.layers[layer].register_forward_hook(self._keep)

    def _keep(self, module, args, output) -> None:  # noqa: ANN001
        self.seen = output

    def loss(self, data: dict):
        """Cross-entropy over the nine places, of words after the only picture of their prompt, read and heard ones."""
        import torch
        from torch.nn import functional as f

        total = torch.zeros(())
        for name, (at, filled) in self.labels(data).items():
            if len(filled):
                logits = self.head[name](self.seen[at])
                total = total + f.binary_cross_entropy_with_logits(logits, filled, reduction="none").sum(-1).mean()
                if name == "read":
                    self.places_right = ((logits > 0) == (filled > 0)).all(-1).float().mean().item()
        return total

    def labels(self, data: dict) -> dict[str, tuple[Any, Any]]:
        """What there is to find in a packed batch.

        Returns:
            ``read``: which tokens are such words behind the one picture of shapes of their prompt, bool (B, T), and where
            in it there is what they mean, float32 (W, 9): 1 or 0. ``heard``: the same of all tokens behind such a picture
            and the one sound of their prompt, in which such a word is spoken.
        """
        import torch

        ids, tree, block, known = (data[name] for name in ("ids", "tree", "block", "patch_labels"))
        row, col = (block >= 0).nonzero(as_tuple=True)
        if not len(row):
            none = torch.zeros_like(ids, dtype=torch.bool), torch.zeros(0, len(PLACES))
            return {"read": none, "heard": none}
        trees = int(tree.max()) + 1
        prompts = len(ids) * trees
        of = row * trees + tree[row, col]  # the prompt of each patch

        def over(index, values, how: str, start: int, size: int = prompts):  # noqa: ANN001, ANN202
            return torch.full((size,), start).scatter_reduce(0, index, values, how)

        xy = data["image_xy"]  # -1 on padding
        place = ninth(xy, xy.amax(1, keepdim=True) + 1)[xy[..., 0] >= 0]
        shown = [over(of * len(PLACES) + place, known[:, k], "amax", -1, prompts * len(PLACES)) for k in (0, 1)]
        there = torch.stack(shown, -1).view(prompts, len(PLACES), 2)
        pieces = block[row, col]
        one = over(of, pieces, "amin", ids.numel()) == over(of, pieces, "amax", -1)
        coloured = over(of, known[:, 1], "amin", 0) >= 0  # digits and what is not of this world have no colour
        end = over(of, col, "amax", -1)
        mine = torch.arange(len(ids))[:, None] * trees + tree.clamp(min=0)
        able = (tree >= 0) & (one & coloured)[mine]

        def filled(at, meant):  # noqa: ANN001, ANN202
            return at, ((there[mine[at]] == meant[:, None]) & (meant[:, None] > 0)).any(-1).float()

        where = torch.arange(ids.shape[1])[None]
        word = self.words[ids]
        read = (word > 0).any(-1) & able & (where > end[mine])

        row, col = (ids == self.token).nonzero(as_tuple=True)
        ends = data["audio_labels"][data["audio_mask"]]  # of each frame the word that is over with it, by number
        named = (ends >= 0) & (ends < len(WORDS))
        of = row * trees + tree[row, col]
        to = of[named, None].expand(-1, 2)
        heard = torch.zeros(prompts, 2, dtype=torch.long).scatter_reduce(0, to, self.spoken[ends[named]], "amax")
        last = torch.maximum(end, over(of, col, "amax", -1))
        behind = (heard > 0).any(-1)[mine] & able & (where > last[mine])
        return {"read": filled(read, word[read]), "heard": filled(behind, heard[mine[behind]])}
