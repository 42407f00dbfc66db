"""``workbench demo``: load, serve, show the link, rehearse, and end cleanly.

options ──► checked ──► model, or saved traces ──► server on this machine ──► tunnel, if asked ──► link and QR code
                                                          ▲                                             │
                                 one question over it (--check)                          Ctrl-C: runs end, files go
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import ipaddress
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from widgets.demo.direct import direct
from workbench.arguments import UsageError
from workbench.errors import WorkbenchError
from workbench.versions import installing

__all__ = ["qr", "rehearse", "run", "tunnel"]

Say = Callable[[str], None]

_ROOM = (
    "For people in this room: workbench demo --host 0.0.0.0 --auth USER:PASSWORD, and give them {link}. Over plain "
    "http browsers allow no microphone: they can upload sounds."
)


_HOSTS = "Leave it out for this machine only; 0.0.0.0 is for this whole network."


def run(asked: argparse.Namespace, say: Say) -> int:
    """Serve until Ctrl-C; with ``--check``, until one question was answered.

    Args:
        asked: As :mod:`widgets.demo.options` reads it.
        say: Takes notes for the user.

    Returns:
        The exit status.

    Raises:
        WorkbenchError: An option that cannot be followed, or a model that cannot be had.
    """
    auth = _checked(asked)
    folder = tempfile.mkdtemp(prefix="workbench-demo-")  # mode 700: nobody else of this machine reads uploads
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = folder
    try:
        return _serve(asked, auth, say)
    finally:
        if before is None:
            os.environ.pop("GRADIO_TEMP_DIR", None)
        else:
            os.environ["GRADIO_TEMP_DIR"] = before
        shutil.rmtree(folder, ignore_errors=True)


def _checked(asked: argparse.Namespace) -> tuple[str, str] | None:
    """The user and the password, once all options go together."""
    auth = None
    if asked.auth is not None:
        user, _, password = asked.auth.partition(":")
        auth = (user, password)
    if asked.share and auth is None and not asked.public:
        raise UsageError(
            "--share puts this machine's model on a public address: give a password with --auth USER:PASSWORD, or say "
            "--public if anybody may use it."
        )
    _port(asked.host, asked.port or 0)  # before a model is loaded for minutes
    if asked.replay is not None and asked.model != "pocket":
        raise UsageError(f"--replay serves saved traces and loads no model: leave {asked.model!r} out.")
    try:
        import gradio  # noqa: F401
        import segno  # noqa: F401
    except ImportError as error:
        raise WorkbenchError(
            f"The demo needs {error.name}: python -m pip install {installing('demo')}, or python start.py demo."
        ) from error
    return auth


def _model(asked: argparse.Namespace, say: Say) -> Any:
    if asked.replay is not None:
        from widgets.demo.replay import Replay

        replay = Replay(asked.replay)
        for reason in replay.left_out:
            say(f"Left out: {reason}")
        return replay
    import contextlib

    import workbench

    with contextlib.redirect_stdout(sys.stderr):
        return workbench.load(asked.model)


def _serve(asked: argparse.Namespace, auth: tuple[str, str] | None, say: Say) -> int:
    from widgets.demo.app import build
    from widgets.demo.line import Limits

    began = time.monotonic()
    model = _model(asked, say)
    say(f"{model!r}: there, in {time.monotonic() - began:.1f} s")
    each = asked.per_minute
    limits = Limits(waiting=asked.queue, tokens=asked.max_tokens, per_minute=each, per_address=20 * each)
    demo = build(model, limits=limits)
    ended = threading.Event()
    try:
        _, local, _ = demo.launch(
            server_name=asked.host, server_port=_port(asked.host, asked.port), auth=auth, quiet=True,
            prevent_thread_lock=True,
        )  # fmt: skip
        link, failed = local, False
        if asked.share:
            try:
                link = tunnel(demo)
            except WorkbenchError as error:
                failed = True
                say(str(error))
                say(_ROOM.format(link=f"http://{here()}:{demo.server_port}"))
        elif not _loopback(asked.host):
            link = f"http://{here() if asked.host in ('0.0.0.0', '::') else asked.host}:{demo.server_port}/"  # noqa: S104
            if auth is None:
                say("Everybody in this network can use it: --auth USER:PASSWORD asks for a password.")
            say("Over plain http browsers allow no microphone, except on this machine; sounds can be uploaded.")
        if asked.check:
            failed |= bool(getattr(model, "left_out", ()))
            return 1 if not rehearse(link, auth, model, say) or failed else 0
        print(link, flush=True)  # noqa: T201 (what was asked for)
        if link != local or not _loopback(asked.host):
            say(f"\n{qr(link)}")
        say("Ctrl-C ends it.")
        _wait(ended, asked, local)
    finally:
        demo.close(verbose=False)
        _close_tunnels()
    say("ended")
    return 0


def _wait(ended: threading.Event, asked: argparse.Namespace, local: str) -> None:
    """Until Ctrl-C, or until the machine asks for an end."""

    def end(_number: int, _frame: Any) -> None:
        ended.set()

    main = threading.current_thread() is threading.main_thread()
    before = {which: signal.signal(which, end) for which in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        if asked.open:
            _open(local)
        while not ended.wait(0.5):  # in pieces: on Windows an endless wait hears no Ctrl-C
            pass
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def _open(link: str) -> None:
    """Open a browser, if there is one with a window: one of the terminal would take that over, and wait."""
    import webbrowser

    with contextlib.suppress(webbrowser.Error):  # there is none: the link is printed
        if type(webbrowser.get()) is not webbrowser.GenericBrowser:
            threading.Thread(target=webbrowser.open, args=(link,), daemon=True).start()


def rehearse(link: str, auth: tuple[str, str] | None, model: Any, say: Say) -> bool:
    """Ask one question over the link, as a visitor's program would; whether it was answered."""
    began = time.monotonic()
    try:
        with direct(urlsplit(link).hostname or ""):
            size = _visit(link, auth, model, say)
    except Exception as error:  # noqa: BLE001 (whatever it is: the rehearsal failed, and that is what is asked for)
        say(f"FAIL  {link}: {type(error).__name__}: {error}")
        return False
    say(f"ok    its page: {size / 1000:.0f} kB; all in {time.monotonic() - began:.1f} s")
    return True


def _visit(link: str, auth: tuple[str, str] | None, model: Any, say: Say) -> int:
    """Ask, and get the answer's page; its bytes."""
    import httpx
    from gradio_client import Client, handle_file

    from widgets.demo.replay import Replay
    from workbench.pocket.examples import SCENE

    health = httpx.get(f"{link}health", timeout=30, follow_redirects=True).json()
    say(f"ok    {link} answers: {health['model']}, version {health['version']}")
    client = Client(link, auth=auth, verbose=False)
    if isinstance(model, Replay):
        text, about = client.predict(next(iter(model.traces)), api_name="/ask")
    else:
        text, about = client.predict(
            "How many shapes are there?", images=[handle_file(str(SCENE))], max_new_tokens=16, api_name="/ask"
        )
    say(f"ok    one question over the link: {text!r}, {about['message']}")
    page = httpx.get(f"{link}{about['page']}", timeout=120)
    page.raise_for_status()
    client.close()
    return len(page.content)


# --- links ------------------------------------------------------------------------------------------------------------


def tunnel(demo: Any) -> str:
    """A public address for a demo that is served.

    Raises:
        WorkbenchError: There is none to be had.
    """
    from gradio import networking

    try:
        address: str = networking.setup_tunnel(
            local_host=demo.server_name, local_port=demo.server_port, share_token=secrets.token_urlsafe(32),
            share_server_address=None, share_server_tls_certificate=None,
        )  # fmt: skip
    except Exception as error:  # Gradio raises whatever went wrong beneath
        raise WorkbenchError(
            f"The tunnel could not be made, so there is no public link ({type(error).__name__}: {error}). It needs the "
            f"network, and a program that Gradio fetches once. On this machine the demo is at {demo.local_url}"
        ) from error
    return address.replace("http://", "https://", 1).rstrip("/") + "/"


def _close_tunnels() -> None:
    from gradio.tunneling import CURRENT_TUNNELS

    with contextlib.redirect_stdout(io.StringIO()):
        for one in CURRENT_TUNNELS:
            one.kill()


def qr(link: str) -> str:
    """A QR code of half blocks, to be photographed off a terminal."""
    import segno

    drawn = io.StringIO()
    segno.make(link, error="m", micro=False).terminal(drawn, border=2, compact=True)
    return drawn.getvalue()


def here() -> str:
    """This machine's address in its network; no packet is sent to find out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        try:
            way.connect(("192.0.2.1", 9))  # an address for documentation: nobody has it
        except OSError:
            return "127.0.0.1"
        return str(way.getsockname()[0])


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _port(host: str, wanted: int | None) -> int | None:
    """A port that is free; None lets Gradio look from 7860 on, 0 takes any.

    Raises:
        WorkbenchError: It is taken, or the host is not this machine's.
    """
    if wanted is None:
        return None
    try:
        family = socket.getaddrinfo(host, wanted, type=socket.SOCK_STREAM)[0][0]
    except (OSError, UnicodeError) as error:
        raise WorkbenchError(f"--host {host}: no such address ({error}). {_HOSTS}") from error
    with socket.socket(family) as door:
        if os.name != "nt":
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((host, wanted))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise WorkbenchError(f"--host {host} is no address of this machine. {_HOSTS}") from error
            raise WorkbenchError(
                f"{host}, port {wanted}: {error.strerror or error}. Take another --port, or leave it out."
            ) from error
        return int(door.getsockname()[1])
