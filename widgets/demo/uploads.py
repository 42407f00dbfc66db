"""What visitors have uploaded: a folder of this server alone, who means which file in it, and when each of them goes.

Gradio has one folder for all its apps: their uploads, and its copies of what an app offers. This server's uploads get a
folder of their own in there, while it runs. So every file in it is a visitor's, and nothing outside it is ever touched:

    <Gradio's folder>/<hash>/scene.png              offered to all as an example: may be asked about, and stays
    <Gradio's folder>/uploads-…/<hash>/mine.png     uploaded: may be asked about, and goes with its visitor, or of age
    <Gradio's folder>/uploads-…/tmp…                being uploaded; broken off, it goes at once
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

from workbench.errors import MediaError

__all__ = ["Uploads"]

_EVERY_S, _AGE_S = 60.0, 1800.0  # every minute, uploads older than half an hour go, whoever they were of


class Uploads:
    """The uploads of one server.

    Args:
        folder: Where they lie; None while there is no server, which then has none.

    Attributes:
        folder: The same, without symbolic links.
        offered: Files of the server's own that anybody may ask about.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = None if folder is None else Path(os.path.realpath(folder))
        self.offered: frozenset[Path] = frozenset()
        self._held: dict[str, dict[Path, int]] = {}  # with the time of the upload that each visitor means
        self._writing = 0

    def offer(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        """Let anybody ask about these files."""
        self.offered = frozenset(Path(os.path.realpath(path)) for path in paths)

    def allows(self, named: str) -> bool:
        """Whether a path leads to where uploads are, or to a file that is offered; whatever lies there."""
        if "\0" in named:
            return False
        path = Path(os.path.realpath(named))
        return self._own(path) or path in self.offered

    def taken(self, named: Any) -> Path:
        """The file that a visitor has named, if it is one that he may name.

        Args:
            named: A path; strangers may send anything.

        Returns:
            The same without symbolic links.

        Raises:
            MediaError: It is none, wherever else it leads, and whether or not there is a file; or it was deleted.
        """
        if not isinstance(named, str) or not self.allows(named):
            raise MediaError("A file that was not uploaded here: upload it first, with handle_file(path).")
        path = Path(os.path.realpath(named))
        if not path.is_file():
            raise MediaError("This upload is no longer kept: add it again.")
        return path

    def read(self, path: str) -> bytes:
        """The bytes of a file that was taken.

        Raises:
            MediaError: It was deleted since.
        """
        try:
            return self.taken(path).read_bytes()
        except OSError as error:
            raise MediaError("This upload is no longer kept: add it again.") from error

    def bytes(self) -> int:
        """How much there is."""
        total = 0
        for path in self._files():
            with contextlib.suppress(OSError):  # deleted meanwhile
                total += path.stat().st_size
        return total

    # --- whose they are -----------------------------------------------------------------------------------------------

    def hold(self, session: str, paths: Iterable[Any]) -> None:
        """Keep files until a visitor leaves; what is no upload is not his. Equal uploads of several are one file."""
        for named in paths:
            with contextlib.suppress(MediaError, OSError):  # the question's own check says so
                path = self.taken(named)
                if self._own(path):
                    self._held.setdefault(session, {})[path] = path.stat().st_mtime_ns

    def leave(self, session: str) -> None:
        """Delete a visitor's files, unless another has the same."""
        for path, uploaded in self._held.pop(session, {}).items():
            if any(path in others for others in list(self._held.values())):
                continue
            with contextlib.suppress(OSError):  # deleted by age
                if path.stat().st_mtime_ns == uploaded:  # else somebody has uploaded the same since, and will ask
                    self._delete(path)

    # --- when they go -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """While an upload comes in. After the last of several at once, what was broken off goes: nobody writes on."""
        self._writing += 1
        try:
            yield
        finally:
            self._writing -= 1
            if not self._writing and self.folder is not None:
                with contextlib.suppress(OSError):
                    for path in list(self.folder.iterdir()):  # Gradio moves an upload into a folder once it is whole
                        if not path.is_dir():
                            self._delete(path)

    def sweep(self, seconds: float = _AGE_S) -> None:
        """Delete every file that is older than so many seconds."""
        before = time.time() - seconds
        for path in self._files():
            with contextlib.suppress(OSError):
                if path.lstat().st_mtime < before:
                    self._delete(path)

    @contextlib.asynccontextmanager
    async def serve(self, app: Any, home: str) -> AsyncIterator[None]:
        """While a server runs: its uploads go to a folder of their own, by age, and all at its end.

        Args:
            app: Gradio's server.
            home: Gradio's folder.
        """
        self.folder = made = _folder(home)
        app.uploaded_file_dir = str(made)
        sweeper = asyncio.create_task(self._sweeps())
        try:
            yield
        finally:
            sweeper.cancel()
            shutil.rmtree(made, ignore_errors=True)

    async def _sweeps(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            await asyncio.to_thread(self.sweep)

    def _own(self, path: Path) -> bool:
        return self.folder is not None and path != self.folder and path.is_relative_to(self.folder)

    def _delete(self, path: Path) -> None:
        """Delete a file, if it is in the folder: never one that a link leads to, outside."""
        if self._own(Path(os.path.realpath(path.parent), path.name)):
            with contextlib.suppress(OSError):  # gone already, or open, on Windows
                path.unlink()

    def _files(self) -> Iterator[Path]:
        if self.folder is not None:
            for folder, _, names in os.walk(self.folder):  # follows no links
                yield from (Path(folder, name) for name in names)


def _folder(home: str) -> Path:
    """A new one in Gradio's, of mode 700: nobody else of this machine reads uploads."""
    Path(home).mkdir(parents=True, exist_ok=True)
    return Path(os.path.realpath(tempfile.mkdtemp(prefix="uploads-", dir=home)))
