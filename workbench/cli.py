"""The ``workbench`` command.

    workbench ask "What is at the top left?" --image scene.png      one question, the answer on standard output
    workbench view a.trace                                          a saved trace as an HTML page
    workbench attend a.trace --token 1 --out map.png                where it looked, as a figure
    workbench doctor                                                what works here, and what mends the rest
    workbench lab [DIR]                                             the lessons in JupyterLab
    workbench gallery [DIR]                                         the lessons as pages
    workbench demo [MODEL] --share --auth user:password             the views on a link, for many visitors

Only what was asked for goes to standard output; progress, notes and errors go to standard error. ``--help`` imports
neither torch nor Transformers.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from workbench import __version__, checkup, overlay
from workbench.arguments import UsageError, console, draft, number, temperature, whole
from workbench.errors import TraceError, WorkbenchError
from workbench.printing import Words, as_json, printer, strict, unheard

__all__ = ["main"]

OK, FAILED, USAGE, STOPPED = 0, 1, 2, 130
_EXITS = "exit status: 0 all went well, 1 the workbench raised an error, 2 wrong usage, 130 stopped (Ctrl-C)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    console(errors="replace")  # a Windows console cannot show every letter: "?" is better than a crash
    try:
        asked = _parser().parse_args(arguments)
    except SystemExit as end:  # argparse has said what is wrong
        return end.code if isinstance(end.code, int) else USAGE
    debug = asked.debug
    try:
        return int(asked.run(asked))
    except KeyboardInterrupt:
        _note("stopped")
        return STOPPED
    except BrokenPipeError:  # `workbench ask … | head -1` has read enough
        unheard()
        return FAILED
    except (WorkbenchError, OSError) as error:
        if debug:
            raise
        _note(str(error) or type(error).__name__)
        return USAGE if isinstance(error, UsageError) else FAILED


def _note(text: str) -> None:
    print(f"workbench: {text}", file=sys.stderr, flush=True)


def _silent(_text: str) -> None:
    """A note that nobody wants."""


# --- what can be typed ------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="workbench", description="See where Gemma 4 looked, what it nearly said, and which words were drafted.",
        epilog=_EXITS,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"gemma-workbench {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], help_: str, more: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=help_, description=f"{help_[0].upper()}{help_[1:]}. {more}", epilog=_EXITS)
        one.add_argument("--debug", action="store_true", help="show the traceback of an error")
        one.set_defaults(run=run)
        return one

    ask = command("ask", _ask, "ask a model one question, with pictures, sounds and videos",
                  "The answer goes to standard output word by word. Ctrl-C stops it between two words and keeps what "
                  "there is; a second one ends at once.")  # fmt: skip
    ask.add_argument("question", help="what you want to know")
    ask.add_argument("--image", action="append", default=[], metavar="FILE",
                     help="a picture (repeat it for more); - reads standard input")  # fmt: skip
    ask.add_argument("--audio", action="append", default=[], metavar="FILE", help="a sound, likewise")
    ask.add_argument("--video", action="append", default=[], metavar="FILE", help="a video, likewise: 32 frames of it")
    ask.add_argument("--model", default="pocket", metavar="NAME",
                     help="a known name, a folder or a hub id (default: pocket, which is embedded)")  # fmt: skip
    ask.add_argument("--system", metavar="TEXT", help="the system turn")
    ask.add_argument("--max-new-tokens", type=whole(1, 2**31 - 1), default=128, metavar="N",
                     help="at most so many (default: 128)")  # fmt: skip
    ask.add_argument("--temperature", type=temperature, metavar="T", help="0 is greedy (default: the model's own)")
    ask.add_argument(
        "--top-k", type=whole(0, 2**31 - 1), metavar="K", help="draw from the K most probable words; 0 is off"
    )
    ask.add_argument("--top-p", type=number(0, 1, above=True), metavar="P",
                     help="draw from the fewest words that hold this probability; 1 is off")  # fmt: skip
    ask.add_argument("--seed", type=whole(0, 2**63 - 1), metavar="N", help="repeat a sampled answer")
    ask.add_argument("--draft", type=draft, default="auto", metavar="auto|N", help="drafts a round; 0 is none")
    ask.add_argument("--image-tokens", type=int, choices=(70, 140, 280, 560, 1120), metavar="N",
                     help="tokens a picture may take: 70, 140, 280, 560 or 1120")  # fmt: skip
    ask.add_argument("--json", action="store_true", help="print one JSON object instead of the answer")
    ask.add_argument("--save", metavar="a.trace", help="keep the whole trace, media included, in a file")
    ask.add_argument("--rounds", action="store_true", help="show the rounds of drafts, on standard error")
    ask.add_argument("--quiet", action="store_true", help="no progress and no notes")

    view = command("view", _view, "turn a saved trace into an HTML page", "It needs neither the model nor torch.")
    view.add_argument("trace", help="a .trace file")
    view.add_argument("--out", metavar="a.html", help="where to (default: beside the trace); - is standard output")

    overlay.arguments(
        command("attend", _attend, "draw where the model looked on a picture or a sound, as PNG, SVG or PDF",
                "What the trace's readings do not hold is asked of its model again."),
        whole(0),
    )  # fmt: skip

    checkup.arguments(
        command("doctor", _doctor, "say what works on this machine, and what mends the rest",
                "Nothing is fetched but what --selftest names. The exit status is 1 when something is broken.")
    )  # fmt: skip

    plan = command("plan", _plan, "say what would be loaded here, and whether it fits", "Nothing is fetched.")
    plan.add_argument("name", nargs="?", default="pocket", help="a known name, a folder or a hub id")
    plan.add_argument("--quantization", metavar="NAME", help="none, int8, int4 or int4+16 (default: what is best here)")
    plan.add_argument("--device", metavar="NAME", help="cpu, cuda or mps (default: what is best here)")
    plan.add_argument("--context", type=whole(1), metavar="N", help="tokens of context to count (default: 8192)")
    plan.add_argument("--json", action="store_true", help="print one JSON object")

    quantize = command("quantize", _quantize, "write a model's weights packed", "The folder opens with `load`.")
    quantize.add_argument("name", help="a known name, a folder or a hub id")
    quantize.add_argument("--to", required=True, metavar="DIR", help="the folder to write")
    quantize.add_argument("--scheme", default="int4", metavar="NAME", help="int4 (default), int4+16 or int8")
    quantize.add_argument("--revision", metavar="NAME", help="of a hub id: branch, tag or commit")

    lab = command("lab", _lab, "open the lessons in JupyterLab",
                  "They are copied into a folder of yours; what you changed there is kept.")  # fmt: skip
    lab.add_argument("folder", nargs="?", metavar="DIR", help="where to (default: gemma-workbench-notebooks, here)")
    lab.add_argument("--no-browser", action="store_true", help="print the address instead of opening it")
    lab.add_argument("--port", type=whole(0, 65535), metavar="N", help="default: the first free one from 8888 on")

    gallery = command("gallery", _gallery, "run the lessons and keep them as pages",
                      "The pages open in any browser, without Python and without a network.")  # fmt: skip
    gallery.add_argument(
        "folder", nargs="?", default="gallery", metavar="DIR", help="where to (default: gallery, here)"
    )
    gallery.add_argument("--lesson", action="append", default=[], metavar="NAME",
                         help="a lesson, by the beginning of its name (repeat it for more; default: all)")  # fmt: skip

    from widgets.demo import options

    options.arguments(
        command("demo", _demo, "share the views on a link, for many visitors and one model", options.MORE)
    )
    return parser


# --- ask --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _ctrl_c(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C sets the event; a second one is a KeyboardInterrupt, as ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if stop.is_set():
            signal.default_int_handler(number, frame)
        stop.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _ask(asked: argparse.Namespace) -> int:
    note: Callable[[str], None] = _silent if asked.quiet else _note
    if asked.save is not None:
        _check_writable(asked.save)
    media = _media(asked)
    for medium in (one for several in media.values() for one in several):
        for text in medium.notes:
            note(f"{medium.name}: {text}")
    from workbench.prompt import conversation

    conversation(asked.question, **media, system=asked.system)  # refused before anything is loaded
    from workbench.loading import load

    with contextlib.redirect_stdout(sys.stderr):
        model = load(asked.model, progress=not asked.quiet)
    stop = threading.Event()
    out = printer(goes_on=asked.save is not None)
    words = Words(model.processor.tokenizer, out)
    with _ctrl_c(stop):
        trace = model.ask(
            asked.question, **media, system=asked.system, max_new_tokens=asked.max_new_tokens,
            temperature=asked.temperature, top_k=asked.top_k, top_p=asked.top_p, seed=asked.seed, draft=asked.draft,
            image_tokens=asked.image_tokens, on_token=None if asked.json else words, stop=stop,
        )  # fmt: skip
    if asked.json:
        out(strict(as_json(trace)) + "\n")
    else:
        words.show(trace.text)
        out("\n")
    if asked.save is not None:
        trace.save(asked.save)
        note(f"saved {asked.save}")
    if asked.rounds:
        from workbench.flight import table

        print(table(trace), file=sys.stderr, flush=True)
    if trace.finish == "stopped":
        note("stopped")
        return STOPPED
    if trace.finish in ("max_new_tokens", "context"):
        more = "ask for more with --max-new-tokens" if trace.finish == "max_new_tokens" else "the context is full"
        note(f"the answer was cut off after {trace.usage.generated} tokens: {more}")
    seed = f", seed {trace.settings.seed}" if trace.settings.seed is not None else ""
    note(f"{trace.usage.prompt} + {trace.usage.generated} tokens in {trace.timing.total_s:.2f} s{seed}")
    return OK


def _media(asked: argparse.Namespace) -> dict[str, Any]:
    """The files, checked and decoded; no model is needed for that, so a wrong one is told at once."""
    from workbench.media import load_audio, load_image, load_video

    files: dict[str, tuple[list[str], Callable[..., Any]]] = {
        "images": (asked.image, load_image),
        "audio": (asked.audio, load_audio),
        "video": (asked.video, load_video),
    }
    if sum(names.count("-") for names, _ in files.values()) > 1:
        raise WorkbenchError("Standard input (-) can be one file only, and - was given more than once.")

    def read(load: Callable[..., Any], file: str) -> Any:
        return load(sys.stdin.buffer, name="standard input") if file == "-" else load(file)

    return {kind: [read(load, file) for file in names] for kind, (names, load) in files.items()}


def _check_writable(path: str) -> None:
    """Find out before the model runs whether a file can be written in the end; leaves nothing behind."""
    goal = Path(path).expanduser()
    if goal.is_dir():
        raise TraceError(f"{path!r} is a folder; expected the name of a file, such as {str(goal / 'a.trace')!r}.")
    if not goal.parent.is_dir():
        raise TraceError(f"{path!r} cannot be written: there is no folder {str(goal.parent)!r}. Make it first.")
    try:
        if goal.exists():
            goal.open("ab").close()
        tempfile.TemporaryFile(dir=goal.parent).close()  # it is written beside its place, then moved there
    except OSError as error:
        reason = error.strerror or error
        raise TraceError(f"{path!r} cannot be written ({reason}): name another place, or make room.") from error


# --- view, doctor, plan, quantize, lab --------------------------------------------------------------------------------


def _view(asked: argparse.Namespace) -> int:
    import html

    from workbench.display import to_html
    from workbench.trace import Trace

    trace = Trace.load(asked.trace)
    title = html.escape(Path(asked.trace).name)
    head = f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>\n'
    head += '<body style="max-width: 60rem; margin: 2rem auto; padding: 0 1rem">\n'
    page = f"{head}{to_html(trace)}\n</body>\n</html>\n"
    if asked.out == "-":
        console(encoding="utf-8", newline="\n")  # as the page itself says, whatever the console speaks
        print(page, end="")
        return OK
    goal = Path(asked.out).expanduser() if asked.out is not None else Path(asked.trace).with_suffix(".html")
    if goal.exists() and goal.samefile(Path(asked.trace).expanduser()):
        raise TraceError(f"{asked.trace!r} would be overwritten by its page: name another place with --out.")
    _check_writable(str(goal))
    goal.write_text(page, "utf-8")
    print(goal)
    return OK


def _attend(asked: argparse.Namespace) -> int:
    from widgets import figure
    from workbench.loading import load

    with contextlib.redirect_stdout(sys.stderr):
        overlay.run(asked, load, figure, check=_check_writable, note=_note)
    print(asked.out)
    return OK


def _doctor(asked: argparse.Namespace) -> int:
    from dataclasses import asdict

    from workbench import doctor

    checkup.check(asked)
    if asked.json not in (None, "-"):
        _check_writable(asked.json)
    if asked.selftest is not None:
        with contextlib.redirect_stdout(sys.stderr):
            shown, kept, ok = checkup.selftest(asked, _note, strict)
        return _told(shown, kept, asked.json, ok=ok)
    facts = doctor.probe()
    found = doctor.findings(facts)
    able = not facts.torch_error and all(facts.versions.get(name) for name in doctor.EXTRAS["model"])
    if able and not asked.quick:
        found.append(doctor.ask_pocket())
    broken = any(one.level == "broken" for one in found)
    kept = strict({"ok": not broken, "facts": asdict(facts), "findings": [asdict(one) for one in found]})
    return _told(doctor.table(found), kept, asked.json, ok=not broken)


def _told(shown: str, kept: str, where: str | None, *, ok: bool) -> int:
    """Print a report for people, or its JSON; or the former, and the latter into a file."""
    if where not in (None, "-"):
        Path(where).expanduser().write_text(kept + "\n", "utf-8")
    print(kept if where == "-" else shown)
    return OK if ok else FAILED


def _plan(asked: argparse.Namespace) -> int:
    from dataclasses import asdict

    from workbench.planning import plan

    made = plan(asked.name, quantization=asked.quantization, device=asked.device, context=asked.context)
    print(strict({**asdict(made), "fits": made.fits if made.taken.weights else None}) if asked.json else repr(made))
    return OK if made.fits else FAILED


def _quantize(asked: argparse.Namespace) -> int:
    from workbench import repack

    rounding = repack.quantize(asked.name, asked.to, scheme=asked.scheme, revision=asked.revision, report=_note)
    _note(f"weights: {rounding}")
    print(f"workbench.load({os.fspath(Path(asked.to).expanduser().absolute())!r})")
    return OK


def _lab(asked: argparse.Namespace) -> int:
    from workbench import lessons

    done = lessons.copy(asked.folder if asked.folder is not None else lessons.FOLDER)
    if done.new:
        _note(f"copied {len(done.new)} files to {done.folder}")
    for name in done.kept:
        _note(f"{done.folder / name} is yours and was kept; to get the newer edition, rename yours")

    def say(address: str) -> None:
        print(address, file=sys.stdout if asked.no_browser else sys.stderr, flush=True)

    return lessons.run(done.folder, browser=not asked.no_browser, port=asked.port, say=say)


def _gallery(asked: argparse.Namespace) -> int:
    from widgets.gallery import build

    pages = build(asked.folder, names=asked.lesson, say=_note)
    print(pages[0])
    return OK


def _demo(asked: argparse.Namespace) -> int:
    from widgets.demo import command

    return command.run(asked, _note)


if __name__ == "__main__":
    sys.exit(main())
