"""From a fresh checkout to a running workbench, with nothing but Python 3.11 or newer.

    python start.py lab  [DIR] [--no-browser] …    open the lessons in JupyterLab
    python start.py demo [MODEL] [--share] …       share the views on a link
    python start.py test [pytest options]          run every check
    python start.py lint                           run the style, type and layout checks alone
    python start.py clean                          delete .venv and every cache

The first `lab`, `demo` or `test` makes a virtual environment in .venv and installs, at the versions in
requirements.lock, what that command needs; afterwards it only compares a fingerprint. An interrupted start goes on
where it stopped.

WORKBENCH_TORCH_INDEX=URL-OR-FOLDER takes torch and torchvision from there: another CUDA, or the much smaller CPU build
(the package registry's torch is CPU-only on Windows and brings CUDA on Linux). It is remembered until `clean`.

Standard library only. It has to parse on Python 3.8, so that it can tell an old Python what is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

if sys.version_info < (3, 11):
    sys.exit(
        f"The workbench needs Python 3.11 or newer; this is Python {sys.version.split()[0]} ({sys.executable}).\n"
        "Install a newer one and run this again with it, for example:  python3.11 start.py lab"
    )

import tomllib

ROOT = Path(__file__).resolve().parent
LOCK = "requirements.lock"
TORCH_INDEX = "WORKBENCH_TORCH_INDEX"
STATE = "workbench-state.json"

# The optional parts of pyproject.toml that a command needs. What was installed stays: `lab` after `test` adds nothing.
EXTRAS = {
    "lab": ("lab", "model"),
    "demo": ("demo", "model"),
    "test": ("demo", "dev", "lab", "model", "train"),
    "lint": ("dev",),
}
CACHES = (".hypothesis", ".import_linter_cache", ".mypy_cache", ".pytest_cache", ".ruff_cache", "build", "dist")
# What another build of torch brings along in other versions than the lock's
TORCH_COMPANIONS = re.compile(r"(nvidia|cuda)-|triton\b", re.IGNORECASE)
TOO_NEW = (3, 15)  # for the torch in requirements.lock; and torchvision leaves out one release before
LEFT_OUT = (3, 14, 1)
IN_A_VENV = {"bin", "include", "lib", "lib64", "scripts", "share", "etc", ".gitignore", "constraints.txt", STATE}


class Stop(Exception):  # noqa: N818 (it ends the program; it is no error of the program)
    """Something the user has to know or do, in words for the user."""


def say(text: str) -> None:
    """Tell what happens, at once and on any terminal."""
    print("[start] " + text, flush=True)


class House:
    """One checkout: its environment, and what is known about it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.scripts = self.venv / ("Scripts" if os.name == "nt" else "bin")
        self.python = self.scripts / ("python.exe" if os.name == "nt" else "python")
        self.pip = [str(self.python), "-m", "pip"]
        self.state_file = self.venv / STATE

    # --- what is there ---

    def state(self) -> dict[str, object]:
        """What the last installation wrote down; empty when there was none or it cannot be read."""
        try:
            state = json.loads(self.state_file.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def write_state(self, state: dict[str, object]) -> None:
        """Replace the state in one step, so that an interruption never leaves half of it."""
        new = self.state_file.with_suffix(".new")
        new.write_text(json.dumps(state, indent=1), "utf-8")
        os.replace(new, self.state_file)  # noqa: PTH105 (Path.replace is the same; this one says "atomic")

    def fingerprint(self) -> str:
        """Changes when anything does that an installation depends on: requirements, versions, Python, place."""
        try:
            project = tomllib.loads((self.root / "pyproject.toml").read_text("utf-8"))
            lock = (self.root / LOCK).read_text("utf-8")
        except OSError as error:
            raise Stop(f"{error.filename} is missing. Get the whole repository, not single files of it.") from None
        except ValueError as error:
            raise Stop(f"pyproject.toml cannot be read: {error}") from None
        installed = {name: project.get(name) for name in ("build-system", "project")}  # not the linters' settings
        installed["hatch"] = project.get("tool", {}).get("hatch")
        place = [str(self.root), self.venv_config().get("version", "")]
        return hashlib.sha256(json.dumps([installed, lock, place], default=str).encode()).hexdigest()

    def venv_config(self) -> dict[str, str]:
        """Read pyvenv.cfg; empty when there is none."""
        try:
            lines = (self.venv / "pyvenv.cfg").read_text("utf-8").splitlines()
        except (OSError, ValueError):
            return {}
        pairs = (line.partition("=") for line in lines if "=" in line)
        config = {key.strip().lower(): value.strip() for key, _, value in pairs}
        config.setdefault("version", config.get("version_info", ""))  # virtualenv's and uv's name for it
        return config

    def usable(self) -> bool:
        """Whether .venv holds a Python that is new enough and whose home is still there."""
        config = self.venv_config()
        version = re.match(r"(\d+)\.(\d+)", config.get("version", ""))
        if not version or (int(version[1]), int(version[2])) < (3, 11):
            return False
        return self.python.exists() and Path(config.get("home", "")).is_dir()

    # --- making it ---

    def ensure(self, command: str) -> None:
        """Make .venv fit for a command; does nothing, in milliseconds, when it already is."""
        state = self.state()
        known = state.get("extras")
        had = {str(extra) for extra in known} if isinstance(known, list) else set()
        torch_from = str(state.get("torch_from") or "")  # a shell without the variable keeps the torch that is there
        index = os.environ.get(TORCH_INDEX, "").strip() or torch_from
        if index and "://" not in index:
            index = str(Path(index).expanduser().absolute())  # a folder of wheels, wherever we are called from
        extras = sorted(had.union(EXTRAS[command]))
        other_torch = "model" in extras and index != torch_from
        if (
            self.usable()
            and state.get("complete") is True
            and state.get("fingerprint") == self.fingerprint()
            and had.issuperset(EXTRAS[command])
            and not other_torch
        ):
            return
        self.fingerprint()  # stops here when the checkout is not whole
        if not self.usable():
            if "model" in extras:
                self.check_python()
            self.make_venv()
            torch_from = ""
        new: dict[str, object] = {"complete": False, "extras": extras, "torch_from": torch_from}
        self.write_state(new)
        self.install_pip()
        size = "1 GB" if "model" not in extras else "8 GB" if sys.platform == "linux" and not index else "3 GB"
        say(f"Installing the workbench ({', '.join(extras)}). The first time takes minutes and up to {size} of disk.")
        constraints = LOCK
        if index and "model" in extras:
            constraints = self.install_torch(index, anew=index != torch_from)
            new["torch_from"] = index
            self.write_state(new)
        if run([*self.pip, "install", "-c", constraints, "-e", f".[{','.join(extras)}]"], self.root):
            raise Stop(self.advice())
        self.lead_home()
        if quiet([str(self.python), "-P", "-c", "import workbench"]):  # -P: not from the folder we are called in
            raise Stop(
                f"It was installed, and {self.python} does not find it.\n"
                "Move this folder to a path of plain letters only, then run this again."
            )
        new.update(complete=True, fingerprint=self.fingerprint())
        self.write_state(new)
        say("Ready.")

    def check_python(self) -> None:
        """Stop before a .venv is made of a Python that torch has no builds for."""
        if sys.version_info >= TOO_NEW or sys.version_info[:3] == LEFT_OUT:
            other = "py -3.13" if os.name == "nt" else "python3.13"
            raise Stop(
                f"This is Python {sys.version.split()[0]}, for which torch and torchvision have no builds: they have "
                f"some for 3.11 to 3.14, without 3.14.1. Run this with one of those: {other} start.py lab"
            )

    def lead_home(self) -> None:
        """Write the way to this folder into .venv as one from there, where its name has other letters than ASCII.

        pip writes the name in UTF-8, and Python reads it in the system's own encoding before 3.13: on Windows, and
        under a locale such as C, it would not find the folder, or not start at all.
        """
        if str(self.root).isascii() or self.venv.is_symlink():
            return
        sites = [*self.venv.glob("lib/python*/site-packages"), self.venv / "Lib" / "site-packages"]
        for path in (path for site in sites if site.is_dir() for path in site.glob("*.pth")):
            lines = path.read_text("utf-8", errors="replace").splitlines()
            if str(self.root) in lines:
                there = os.path.relpath(self.root, path.parent)
                path.write_text("".join(f"{there if one == str(self.root) else one}\n" for one in lines), "utf-8")

    def guard(self) -> None:
        """Never delete a .venv that does not look like one."""
        if self.venv.is_symlink() or not self.venv.exists() or (self.venv / "pyvenv.cfg").is_file():
            return
        names = [path.name for path in self.venv.iterdir()] if self.venv.is_dir() else [self.venv.name]
        strange = sorted(name for name in names if name.lower() not in IN_A_VENV)
        if strange:
            raise Stop(
                f"{self.venv} is not a virtual environment: it holds {', '.join(strange[:3])}. "
                "Move it away, then run this again."
            )

    def make_venv(self) -> None:
        """Make .venv from the Python that runs this, over whatever unusable rest lies there."""
        self.guard()
        say(f"Making a virtual environment with Python {sys.version.split()[0]} in {self.venv}")
        if self.venv.is_symlink():
            self.venv.unlink()
        base = getattr(sys, "_base_executable", None) or sys.executable  # not .venv's own, which is about to go
        status = run([base, "-m", "venv", "--clear", str(self.venv)], self.root)
        if status:
            raise Stop(
                "The virtual environment could not be made (see above).\n"
                "  On Debian and Ubuntu:  sudo apt-get install python3-venv\n"
                "  Elsewhere: install Python from its own installer, with pip. Then run this again."
            )

    def install_pip(self) -> None:
        """Give .venv the pip that it lacks when it was made by another tool, or only half made."""
        ask = [*self.pip, "--version"]
        if quiet(ask) and (run([str(self.python), "-m", "ensurepip"], None) or quiet(ask)):
            raise Stop(f"There is no pip in {self.venv}. Run `python start.py clean`, then this again.")

    def install_torch(self, index: str, *, anew: bool) -> str:
        """Install torch and torchvision from another index; returns the constraints that go with them."""
        lines = (self.root / LOCK).read_text("utf-8").splitlines()
        wanted = [line.split(";")[0].strip() for line in lines if re.match(r"torch(vision)?==", line)]
        source = ["--no-index", "--find-links", index] if Path(index).is_dir() else ["--index-url", index]
        say(f"Taking {' and '.join(wanted)} from {index}")
        again = ["--force-reinstall"] if anew else []
        if run([*self.pip, "install", "--no-deps", *again, *source, *wanted], self.root):
            raise Stop(
                f"{' and '.join(wanted)} could not be installed from {index} (see above).\n"
                f"  {TORCH_INDEX} must name a package index or a folder of wheels that has these versions for "
                f"Python {self.venv_config().get('version')}.\n"
                "  To do without it: unset it, then run this again."
            )
        kept = [line for line in lines if not TORCH_COMPANIONS.match(line)]
        (self.venv / "constraints.txt").write_text("\n".join(kept) + "\n", "utf-8")
        return ".venv/constraints.txt"  # relative: nothing in the path can be taken for an option or an address

    def advice(self) -> str:
        """What to do when pip failed, the likeliest reason first."""
        free = shutil.disk_usage(str(self.root)).free / 1e9
        lines = ["The packages could not be installed. pip says above what stopped it; what usually helps:"]
        if free < 10:
            lines.append(f"  - free some disk: only {free:.1f} GB are left, and torch is large")
        lines += [
            "  - check the network, then run the same command again: it goes on where it stopped",
            "  - behind a proxy or with a registry of your own: set HTTPS_PROXY or PIP_INDEX_URL, and PIP_CERT",
            f"  - torch is too large or the wrong one: set {TORCH_INDEX} (see README.md)",
            "  - no release of something for your Python? Take Python 3.11, with which all this is tested",
        ]
        if os.name == "nt":
            lines.append("  - access denied: close what runs from .venv, as JupyterLab")
            lines.append("  - file names too long: move this folder nearer to the drive's root, or allow long paths")
        lines.append("  - start over: `python start.py clean`, then run this again")
        return "\n".join(lines)

    # --- the commands ---

    def lab(self, arguments: list[str]) -> int:
        """Open JupyterLab on a copy of the lessons; the arguments are those of `workbench lab`."""
        return self.workbench("lab", arguments)

    def demo(self, arguments: list[str]) -> int:
        """Serve the demo and open it in a browser; the arguments are those of `workbench demo`."""
        away = {"--check", "--share", "--host"}.intersection(one.split("=")[0] for one in arguments)
        return self.workbench("demo", arguments if away else ["--open", *arguments])

    def workbench(self, command: str, arguments: list[str]) -> int:
        """Run a command of the workbench, with what it needs installed."""
        self.ensure(command)
        script = self.scripts / ("workbench.exe" if os.name == "nt" else "workbench")
        return run([str(script), command, *arguments], None, hand_over=True)

    def test(self, arguments: list[str]) -> int:
        """Run the tests; the arguments are pytest's."""
        self.ensure("test")
        return run([str(self.python), "-m", "pytest", *arguments], self.root, hand_over=True)

    def lint(self, arguments: list[str]) -> int:
        """Run each check and name those that failed."""
        if arguments:
            raise Stop(f"lint takes no arguments, and was given {' '.join(arguments)}.")
        self.ensure("lint")
        checks = lint_commands(self.root)
        failed = [name for name, rest in checks.items() if run([str(self.python), *rest], self.root)]
        if failed:
            say(f"Not clean: {', '.join(failed)}. `ruff check --fix .` and `ruff format .` mend much of it.")
        else:
            say("Clean.")
        return 1 if failed else 0

    def clean(self, arguments: list[str]) -> int:
        """Delete .venv and the caches; nothing that a person made."""
        if arguments:
            raise Stop(f"clean takes no arguments, and was given {' '.join(arguments)}.")
        if os.name == "nt" and Path(sys.prefix).resolve() == self.venv.resolve():
            raise Stop("This is .venv's own Python, and cannot delete itself. Run `deactivate`, then this again.")
        self.guard()
        found = [self.venv, *(self.root / name for name in CACHES)]
        for name in ("benchmarks", "tests", "widgets", "workbench"):
            found += (self.root / name).rglob("__pycache__")
        for path in found:
            if path.is_symlink():
                path.unlink()
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                continue
            if path.exists():
                raise Stop(f"{path} could not be deleted. Close what uses it (JupyterLab?), then run this again.")
            say(f"Deleted {path.relative_to(self.root)}")
        return 0


def environment(program: str) -> dict[str, str]:
    """The caller's environment with .venv first, less what would send Python or pip elsewhere."""
    dropped = {"PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__", "PIP_USER", "PIP_TARGET", "PIP_PREFIX"}
    fixed = {"PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONNOUSERSITE": "1", "PYTHONUTF8": "1"}
    kept = {name: value for name, value in os.environ.items() if name.upper() not in dropped}
    path = os.pathsep.join([str(Path(program).parent), *filter(None, [os.environ.get("PATH")])])
    return {**kept, "PATH": path, **fixed}  # PIP_USER: pip's own configuration may ask for it too


def lint_commands(root: Path) -> dict[str, list[str]]:
    """The checks by name, as arguments to Python. tests/test_house.py runs the same, so that `test` alone decides."""
    imports = "import sys; from importlinter.cli import lint_imports_command as main; sys.exit(main())"
    lessons = [str(path.relative_to(root)) for path in sorted((root / "notebooks").rglob("*.ipynb"))]
    return {
        "ruff check": ["-m", "ruff", "check", "."],
        "ruff format": ["-m", "ruff", "format", "--check", "."],
        "mypy": ["-m", "mypy"],
        "import-linter": ["-c", imports, "--no-logo"],
        **({"nbstripout": ["-m", "nbstripout", "--verify", *lessons]} if lessons else {}),
    }


def run(command: list[str], cwd: Path | None, *, hand_over: bool = False) -> int:
    """Show a command, run it to its end, and give its exit status as a shell would.

    Ctrl-C reaches the child too, and the child decides what it means: JupyterLab asks back. A step that fails by it
    ends this program, unless the rest was handed over to that command.
    """
    say("$ " + " ".join(f"'{part}'" if re.search(r"[\s;&|<>()\[\]]", part) else part for part in command))
    interrupted = ended = False
    child: subprocess.Popen[bytes] | None = None

    def heard(*_: object) -> None:
        nonlocal interrupted
        interrupted = True

    def end(*_: object) -> None:
        nonlocal ended
        ended = True
        if child is not None:
            child.terminate()

    # A handler and no exception: one that is raised just as the child has ended loses its exit status
    before = signal.getsignal(signal.SIGINT)
    listens = before not in (signal.SIG_IGN, None)  # else Ctrl-C is for somebody else, as in a shell's background
    if listens:
        signal.signal(signal.SIGINT, heard)
    before_end = signal.signal(signal.SIGTERM, end)  # a child that is handed over would outlive this program
    try:
        child = subprocess.Popen(command, cwd=cwd, env=environment(command[0]))
        if ended:
            child.terminate()
        status = child.wait()
    except OSError as error:
        say(f"It cannot be started: {error}")
        return 127
    finally:
        signal.signal(signal.SIGTERM, before_end or signal.SIG_DFL)
        if listens:
            signal.signal(signal.SIGINT, before)
    if interrupted and status and not hand_over:
        raise KeyboardInterrupt
    return 128 - status if status < 0 else status


def quiet(command: list[str]) -> int:
    """Run a question to which only the exit status is the answer."""
    try:
        return subprocess.run(command, env=environment(command[0]), capture_output=True, check=False).returncode
    except OSError:
        return 127


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Run one command; returns the exit status."""
    commands = ("lab", "demo", "test", "lint", "clean")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if arguments else 2
    if arguments[0] not in commands:
        say(f"There is no command {arguments[0]!r}. There are: {', '.join(commands)}.")
        return 2
    try:
        return int(getattr(House(root), arguments[0])(arguments[1:]))
    except Stop as stop:
        say(str(stop))
        return 1
    except KeyboardInterrupt:
        say("Stopped. Run the same command again to go on.")
        return 130


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr] # a path may hold what the terminal cannot show
    sys.exit(main(sys.argv[1:]))
