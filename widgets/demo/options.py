"""What can be typed after ``workbench demo``. Imports nothing heavy: ``--help`` reads it."""

from __future__ import annotations

import argparse

from workbench.arguments import whole

__all__ = ["MORE", "arguments"]

MORE = (
    "It is served on this machine only, unless --host or --share say otherwise. Ctrl-C ends it. Nothing visitors bring "
    "is kept after they leave."
)


def _login(text: str) -> str:
    user, _, password = text.partition(":")
    if not (user and password):
        raise argparse.ArgumentTypeError("expected USER:PASSWORD, both of them not empty")
    return text


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the demo."""
    parser.add_argument("model", nargs="?", default="pocket", metavar="MODEL",
                        help="a known name, a folder or a hub id (default: pocket, which is embedded)")  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS",
                        help="0.0.0.0 is for this whole network (default: this machine only)")  # fmt: skip
    parser.add_argument("--port", type=whole(0, 65535), metavar="N", help="default: the first free one from 7860 on")
    parser.add_argument("--auth", type=_login, metavar="USER:PASSWORD", help="what visitors have to know")
    parser.add_argument("--share", action="store_true",
                        help="a public https link by Gradio's tunnel; with --auth, or --public")  # fmt: skip
    parser.add_argument("--public", action="store_true", help="share without a password")
    parser.add_argument("--check", action="store_true",
                        help="rehearse: one question over the link, then end; status 1 if it fails")  # fmt: skip
    parser.add_argument("--replay", metavar="DIR",
                        help="serve a folder's .trace files at their recorded speed, without torch")  # fmt: skip
    parser.add_argument("--open", action="store_true", help="open it in a browser of this machine")
    parser.add_argument("--max-tokens", type=whole(1, 100_000), default=256, metavar="N",
                        help="of one answer (default: 256)")  # fmt: skip
    parser.add_argument("--queue", type=whole(1, 1000), default=16, metavar="N",
                        help="visitors in line; more are asked to come back (default: 16)")  # fmt: skip
    parser.add_argument("--per-minute", type=whole(1, 10_000), default=20, metavar="N",
                        help="questions of one visitor a minute (default: 20)")  # fmt: skip
