"""Models from the hub: looked up first, room on the disk checked, then fetched; kept where Hugging Face keeps them.

The size comes from the hub, so what will be fetched is known before a byte of it. Only what Transformers reads is
taken: ``.safetensors`` (no file that can run code), settings, tokenizer and templates. A fetch that was stopped goes on
with the same call: files that came whole are not fetched again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench import headers
from workbench.catalog import Entry, find
from workbench.counting import fetched_bytes
from workbench.errors import DoesNotFit, ModelError

__all__ = ["RESERVE", "fetch", "fetched"]

_WANTED = {
    "allow_patterns": ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"],
    "ignore_patterns": ["*/*"],  # other forms of the same weights lie in folders
}
RESERVE = 1_000_000_000
"""Bytes that stay free on the disk."""


def fetched(entry: Entry, revision: str | None = None, *, progress: bool = True) -> Path:
    """The folder of a model, fetched if it is not on this disk.

    Args:
        entry: Of the catalog.
        revision: Of a hub id: branch, tag or commit.
        progress: Say how much will be fetched, and show a bar with the time left.

    Raises:
        ModelError: There is no such model or revision, or it could not be fetched.
        DoesNotFit: The disk has not enough room.
    """
    if entry.local:
        return Path(entry.source)
    size = round(fetched_bytes(find(entry.source)) / 1e9, 1)  # of the variant, where one was chosen
    return fetch(entry.name, entry.source, revision, gigabytes=size, progress=progress)


def fetch(
    name: str, source: str, revision: str | None = None, *, gigabytes: float = 0.0, progress: bool = True
) -> Path:
    """As :func:`fetched`, of a hub id.

    Args:
        name: What to call it in messages.
        source: Its hub id.
        revision: Branch, tag or commit; None is the hub's ``main``.
        gigabytes: About how large it is, for messages; 0 is not known.
        progress: As above.
    """
    import huggingface_hub as hub
    from huggingface_hub import constants

    what = f"{name} ({source}" + (f", about {gigabytes:g} GB)" if gigabytes else ")")
    if constants.HF_HUB_OFFLINE:
        why = "HF_HUB_OFFLINE is set, so nothing is fetched"
        if os.environ.get("TRANSFORMERS_OFFLINE") and not os.environ.get("HF_HUB_OFFLINE"):
            why = why.replace("HF_HUB", "TRANSFORMERS")  # the other name that it listens to
        return _here(what, source, revision, why)
    with _bars(shown=progress):
        try:
            files: Any = hub.snapshot_download(source, revision=revision, dry_run=True, **_WANTED)
        except Exception as error:  # noqa: BLE001 (whatever the network and its libraries raise; judged by its cause)
            refused = _refused(what, source, revision, error)
            if refused is not None and not isinstance(refused, _ClosedError):
                raise refused from None
            if refused is not None:  # what came before the terms, or the name, changed is as good as it was
                try:
                    return _here(what, source, revision, "the hub does not give it")
                except ModelError:
                    raise refused from None
            return _here(what, source, revision, f"the hub cannot be reached ({_words(error)})")
        if not any(f.filename.endswith(".safetensors") for f in files):
            raise ModelError(f"{source} holds no *.safetensors on the hub: the workbench reads no other weights.")
        left = [f for f in files if f.will_download]
        size = sum(f.file_size or 0 for f in left)
        if left:
            _check_room(what, size, Path(constants.HF_HUB_CACHE), progress=progress, files=len(left))
        try:
            folder = Path(hub.snapshot_download(source, revision=revision, tqdm_class=_bar(), **_WANTED))
        except Exception as error:  # as above
            raise _stopped(what, size, error) from error
    headers.whole(folder)
    return folder


def _here(what: str, source: str, revision: str | None, why: str) -> Path:
    """The folder as it lies on this disk, whole."""
    import huggingface_hub as hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted = source if revision is None else f"{source} --revision {revision}"
    how = f"Where there is a network: hf download {wanted}. A folder that was copied here loads by its path."
    try:
        folder = Path(hub.snapshot_download(source, revision=revision, local_files_only=True, **_WANTED))
        headers.whole(folder)
    except LocalEntryNotFoundError as error:
        there = "only a part of it is" if type(error).__name__ == "IncompleteSnapshotError" else "it is not"
        raise ModelError(f"{what}: {there} on this disk, and {why}. {how}") from None
    except ModelError as error:
        raise ModelError(f"{what}: {error} On this disk is only a part of it, and {why}. {how}") from None
    return folder


class _ClosedError(ModelError):
    """The hub has it and does not give it to us, or says that it has not."""


def _refused(what: str, source: str, revision: str | None, error: BaseException) -> ModelError | None:
    """The error for what the hub said no to; None where it said nothing."""
    from huggingface_hub import errors

    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    for one in causes:
        if isinstance(one, errors.RevisionNotFoundError):
            return ModelError(
                f"revision={revision!r}: {source} has no such branch, tag or commit. Leave it out for the newest."
            )
        if isinstance(one, errors.GatedRepoError):
            return _ClosedError(f"{what} is closed to you: accept its terms on its page, then `hf auth login`.")
        if isinstance(one, errors.RepositoryNotFoundError):
            return _ClosedError(
                f"The hub has no model {source!r}, or it is closed to you: log in with `hf auth login`."
            )
        if isinstance(one, errors.HFValidationError):
            return ModelError(f"{source!r} is no hub id: {one}")
    return None


def _check_room(what: str, size: int, folder: Path, *, progress: bool, files: int) -> None:
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if size + RESERVE > free:
        raise DoesNotFit(
            f"{what}: {size / 1e9:.1f} GB have to be fetched, and the disk of {folder} has {free / 1e9:.1f} GB free. "
            f"Make room for {(size + RESERVE - free) / 1e9:.1f} GB, or set HF_HOME to a folder on another disk."
        )
    if progress:
        print(  # noqa: T201 (what a user waits for)
            f"workbench: fetching {what}: {size / 1e9:.2f} GB in {files} files to {folder}, {free / 1e9:.0f} GB free",
            file=sys.stderr, flush=True,
        )  # fmt: skip


def _stopped(what: str, size: int, error: BaseException) -> ModelError:
    again = "Files that came whole are kept: the same call goes on from there."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return DoesNotFit(f"{what}: the disk is full. {again}")
    return ModelError(f"{what}: fetching its {size / 1e9:.2f} GB stopped ({_words(error)}). {again}")


def _words(error: BaseException) -> str:
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


@contextlib.contextmanager
def _bars(*, shown: bool) -> Iterator[None]:
    """Without the hub's progress bars, where they are not wanted."""
    from huggingface_hub import utils

    if shown or utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


def _bar() -> Any:
    """The hub's progress bar with the time left, which its own bars of bytes leave out."""
    from huggingface_hub import utils

    class Bar(utils.tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            if kwargs.get("unit") == "B":
                kwargs["bar_format"] = (
                    "{desc} {percentage:3.0f}% {n_fmt}B of {total_fmt}B, {remaining} left, {rate_fmt}"
                )
            super().__init__(*args, **kwargs)

    return Bar
