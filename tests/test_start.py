"""start.py: what it runs and when, with pip and venv replaced by notes of what was asked of them; once for real."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import start

HERE = Path(start.__file__)
PROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "house"
version = "1"
dependencies = []
[project.optional-dependencies]
lab = []
demo = []
model = []
[tool.ruff]
line-length = 120
"""
LOCK = """\
numpy==2.4.6
nvidia-cublas==13.1.1.3 ; sys_platform == 'linux'
cuda-toolkit==13.0.3.0 ; sys_platform == 'linux'
torch==2.14.1 ; python_version < '4'
torchvision==0.29.1
triton==3.8.0 ; sys_platform == 'linux'
tritonclient==1.0
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A checkout in a place with spaces and letters of several alphabets."""
    root = tmp_path / "my größe & 模型"
    root.mkdir()
    (root / "pyproject.toml").write_text(PROJECT)
    (root / "requirements.lock").write_text(LOCK)
    monkeypatch.delenv(start.TORCH_INDEX, raising=False)
    return root


@pytest.fixture
def asked(monkeypatch):
    """What was run, with `venv` and `pip` faked; set `asked.fails` to a word in the command that is to fail."""

    class Asked(list):
        fails = None

        def starting(self, *words):
            return [command for command in self if all(word in command for word in words)]

    asked = Asked()

    def run(command, cwd, *, hand_over=False):
        asked.append(command)
        if asked.fails and asked.fails in command:
            return 1
        if command[1:3] == ["-m", "venv"]:
            make_venv(Path(command[-1]))
        return 0

    monkeypatch.setattr(start, "run", run)
    monkeypatch.setattr(start, "quiet", lambda command: 0)
    return asked


def make_venv(venv, version="3.11.7", home=None):
    shutil.rmtree(venv, ignore_errors=True)
    house = start.House(venv.parent)
    house.scripts.mkdir(parents=True)
    house.python.touch()
    (venv / "pyvenv.cfg").write_text(f"home = {home or venv.parent}\nversion = {version}\n")


def pips(asked):
    return [command[2:] for command in asked if command[1:4] == ["-m", "pip", "install"]]


# --- old Pythons and the command line --------------------------------------------------------------------------------


def test_it_parses_on_python_3_8_and_asks_for_a_newer_one_before_anything_new_is_imported():
    tree = ast.parse(HERE.read_text("utf-8"), feature_version=(3, 8))
    before = []
    for node in tree.body:
        if isinstance(node, ast.If):
            break
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            before += [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
    assert "version_info < (3, 11)" in ast.unparse(node)
    assert set(before) <= {*"__future__ hashlib json os re shutil signal subprocess sys pathlib".split()}


def test_it_uses_the_standard_library_only():
    names = {
        (alias.name if isinstance(node, ast.Import) else node.module).split(".")[0]
        for node in ast.walk(ast.parse(HERE.read_text("utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert names <= sys.stdlib_module_names


def test_an_old_python_is_told_what_is_missing(tmp_path):
    # The version test alone, run by this Python with the version of an old one
    source = HERE.read_text("utf-8").replace("sys.version_info <", "(3, 8) <")
    (tmp_path / "start.py").write_text(source, "utf-8")
    done = subprocess.run([sys.executable, tmp_path / "start.py", "lab"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "needs Python 3.11 or newer" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["--help"], 0), (["-h"], 0)])
def test_help(root, capsys, arguments, status):
    assert start.main(arguments, root) == status
    assert "python start.py lab" in capsys.readouterr().out


def test_an_unknown_command_names_the_known_ones(root, capsys):
    assert start.main(["labs"], root) == 2
    assert "'labs'. There are: lab, demo, test, lint, clean" in capsys.readouterr().out


# --- making and reusing the environment ------------------------------------------------------------------------------


def test_the_first_lab_makes_an_environment_and_installs_what_lab_needs(root, asked):
    assert start.main(["lab", "my lessons", "--no-browser"], root) == 0
    venv, install, lab = asked
    assert venv[1:] == ["-m", "venv", "--clear", str(root / ".venv")]
    assert install[1:] == ["-m", "pip", "install", "-c", "requirements.lock", "-e", ".[lab,model]"]
    assert lab[1:] == ["lab", "my lessons", "--no-browser"]
    assert Path(lab[0]).stem == "workbench"


def test_demo_installs_what_it_needs_and_opens_a_browser_unless_it_is_for_others(root, asked):
    assert start.main(["demo"], root) == 0
    assert asked[1][1:] == ["-m", "pip", "install", "-c", "requirements.lock", "-e", ".[demo,model]"]
    assert asked[2][1:] == ["demo", "--open"]
    assert start.main(["demo", "--host=0.0.0.0", "--auth", "a:b"], root) == 0
    assert asked[3][1:] == ["demo", "--host=0.0.0.0", "--auth", "a:b"]


def test_nothing_is_installed_when_nothing_changed(root, asked):
    start.main(["test"], root)
    asked.clear()
    assert start.main(["test", "-k", "trace", "-x"], root) == 0
    assert [command[1:] for command in asked] == [["-m", "pytest", "-k", "trace", "-x"]]


def test_lab_after_test_adds_nothing_and_test_after_lab_adds_what_is_missing(root, asked):
    start.main(["lab"], root)
    start.main(["test"], root)
    assert pips(asked)[1][-1] == ".[demo,dev,lab,model,train]"
    asked.clear()
    start.main(["lab"], root)
    start.main(["lint"], root)
    assert not pips(asked)
    assert not asked.starting("venv")


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda root: (root / "requirements.lock").write_text(LOCK + "pandas==3\n"), True),
        (lambda root: (root / "pyproject.toml").write_text(PROJECT.replace("lab = []", "lab = ['x']")), True),
        (lambda root: (root / "pyproject.toml").write_text(PROJECT.replace("120", "100")), False),
        (lambda root: (root / "requirements.lock").write_bytes(LOCK.replace("\n", "\r\n").encode()), False),
        (lambda root: (root / ".venv" / start.STATE).write_text("{"), True),
        (lambda root: (root / ".venv" / start.STATE).write_text("[]"), True),
        (lambda root: (root / ".venv" / start.STATE).unlink(), True),
    ],
    ids=["lock", "dependency", "linter setting", "line ends", "half a state", "foreign state", "no state"],
)
def test_what_calls_for_another_installation(root, asked, change, again):
    start.main(["lab"], root)
    asked.clear()
    change(root)
    start.main(["lab"], root)
    assert bool(pips(asked)) is again
    assert not asked.starting("venv")


def test_a_moved_checkout_is_installed_again_since_its_scripts_name_the_old_place(root, asked):
    start.main(["lab"], root)
    moved = root.with_name("elsewhere")
    root.rename(moved)
    make = (moved / ".venv" / "pyvenv.cfg").read_text().replace(str(root), str(moved))
    (moved / ".venv" / "pyvenv.cfg").write_text(make)
    asked.clear()
    start.main(["lab"], moved)
    assert len(pips(asked)) == 1


def break_by_version(venv):
    make_venv(venv, version="3.10.4")


def break_by_home(venv):
    make_venv(venv, home="/nowhere/python")


def break_by_python(venv):
    start.House(venv.parent).python.unlink()


def break_by_config(venv):
    (venv / "pyvenv.cfg").unlink()


@pytest.mark.parametrize("damage", [break_by_version, break_by_home, break_by_python, break_by_config])
def test_an_environment_that_cannot_work_is_made_anew(root, asked, damage):
    start.main(["lab"], root)
    damage(root / ".venv")
    asked.clear()
    assert start.main(["lab"], root) == 0
    assert asked.starting("venv", "--clear")
    assert len(pips(asked)) == 1


def test_an_environment_made_by_hand_is_used(root, asked):
    make_venv(root / ".venv", version="3.13.1")
    assert start.main(["lab"], root) == 0
    assert not asked.starting("venv")


def test_a_folder_that_is_no_environment_is_left_alone(root, asked, capsys):
    (root / ".venv").mkdir()
    (root / ".venv" / "thesis.docx").touch()
    assert start.main(["lab"], root) == 1
    assert start.main(["clean"], root) == 1
    assert "thesis.docx" in capsys.readouterr().out
    assert (root / ".venv" / "thesis.docx").exists()
    assert not asked


def test_a_missing_lock_is_named(root, asked, capsys):
    (root / "requirements.lock").unlink()
    assert start.main(["lab"], root) == 1
    assert "requirements.lock is missing" in capsys.readouterr().out
    assert not asked


# --- when a step fails -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fails", "words"), [("venv", "python3-venv"), ("pip", "run the same command again")])
def test_a_failed_step_says_what_to_do_and_the_next_run_goes_on(root, asked, capsys, fails, words):
    asked.fails = fails
    assert start.main(["lab"], root) == 1
    assert words in capsys.readouterr().out
    assert not [command for command in asked if "lab" in command[1:2]]
    asked.fails = None
    asked.clear()
    assert start.main(["lab"], root) == 0
    assert len(pips(asked)) == 1
    assert bool(asked.starting("venv")) is (fails == "venv")


def test_little_disk_is_the_first_advice(root, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 2_500_000_000))
    assert "only 2.5 GB are left" in start.House(root).advice().splitlines()[1]


def test_an_environment_without_pip_is_given_one(root, asked, monkeypatch):
    answers = iter([1, 0, 0])  # pip, pip once more, and whether the workbench is found
    monkeypatch.setattr(start, "quiet", lambda command: next(answers))
    assert start.main(["lab"], root) == 0
    assert asked.starting("ensurepip")


def test_the_exit_status_is_that_of_the_tests(root, asked):
    asked.fails = "pytest"
    assert start.main(["test"], root) == 1


def test_lint_runs_every_check_and_names_those_that_failed(root, asked, capsys):
    (root / "notebooks").mkdir()
    (root / "notebooks" / "00_welcome.ipynb").touch()
    asked.fails = "mypy"
    assert start.main(["lint"], root) == 1
    assert "Not clean: mypy." in capsys.readouterr().out
    said = [" ".join(command[1:]) for command in asked]
    assert sum(word in " ".join(said) for word in ("ruff check", "ruff format", "mypy", "importlinter")) == 4
    assert said[-1] == f"-m nbstripout --verify {Path('notebooks', '00_welcome.ipynb')}"


@pytest.mark.parametrize("command", ["lint", "clean"])
def test_arguments_that_mean_nothing_are_refused(root, asked, capsys, command):
    assert start.main([command, "--fast"], root) == 1
    assert "takes no arguments" in capsys.readouterr().out


# --- torch from elsewhere --------------------------------------------------------------------------------------------


def test_torch_comes_from_the_given_index_and_nothing_else_does(root, asked, monkeypatch):
    monkeypatch.setenv(start.TORCH_INDEX, "https://wheels.example/cpu")
    assert start.main(["lab"], root) == 0
    torch, rest = pips(asked)
    wanted = ["torch==2.14.1", "torchvision==0.29.1"]
    assert torch == [
        "pip",
        "install",
        "--no-deps",
        "--force-reinstall",
        "--index-url",
        "https://wheels.example/cpu",
        *wanted,
    ]
    assert rest == ["pip", "install", "-c", ".venv/constraints.txt", "-e", ".[lab,model]"]
    kept = (root / ".venv" / "constraints.txt").read_text().split("\n")
    assert [line.split("==")[0] for line in kept if line] == ["numpy", "torch", "torchvision", "tritonclient"]


def test_the_index_is_remembered_and_another_one_replaces_torch(root, asked, monkeypatch):
    monkeypatch.setenv(start.TORCH_INDEX, "https://wheels.example/cpu")
    start.main(["lab"], root)
    monkeypatch.delenv(start.TORCH_INDEX)
    asked.clear()
    start.main(["lab"], root)
    assert not pips(asked)  # a shell that lacks the variable undoes nothing
    start.main(["test"], root)
    torch, rest = pips(asked)
    assert "--force-reinstall" not in torch
    assert ".venv/constraints.txt" in rest
    asked.clear()
    monkeypatch.setenv(start.TORCH_INDEX, "https://wheels.example/rocm")
    start.main(["lab"], root)
    assert "--force-reinstall" in pips(asked)[0]


def test_an_index_that_failed_once_still_replaces_torch_the_next_time(root, asked, monkeypatch, capsys):
    start.main(["lab"], root)
    monkeypatch.setenv(start.TORCH_INDEX, "https://wheels.example/cpu")
    asked.fails = "--index-url"
    assert start.main(["lab"], root) == 1
    assert "could not be installed from https://wheels.example/cpu" in capsys.readouterr().out
    asked.fails = None
    asked.clear()
    assert start.main(["lab"], root) == 0
    assert "--force-reinstall" in pips(asked)[0]


def test_an_index_that_never_worked_is_forgotten(root, asked, monkeypatch):
    monkeypatch.setenv(start.TORCH_INDEX, "https://wheels.example/typo")
    asked.fails = "--index-url"
    assert start.main(["lab"], root) == 1
    monkeypatch.delenv(start.TORCH_INDEX)
    asked.clear()
    assert start.main(["lab"], root) == 0
    assert [command[2:4] for command in pips(asked)] == [["-c", "requirements.lock"]]


def test_torch_is_not_fetched_twice_when_a_later_step_failed(root, asked, monkeypatch):
    monkeypatch.setenv(start.TORCH_INDEX, "https://wheels.example/cpu")
    asked.fails = "-e"
    assert start.main(["lab"], root) == 1
    asked.fails = None
    asked.clear()
    assert start.main(["lab"], root) == 0
    assert "--force-reinstall" not in pips(asked)[0]


def test_a_folder_of_wheels_will_do(root, asked, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wheels").mkdir()
    monkeypatch.setenv(start.TORCH_INDEX, "wheels")
    start.main(["lab"], root)
    torch = pips(asked)[0]
    assert torch[torch.index("--no-index") :][:3] == ["--no-index", "--find-links", str(tmp_path / "wheels")]


def test_lint_needs_no_torch(root, asked, monkeypatch):
    monkeypatch.setenv(start.TORCH_INDEX, "https://wheels.example/cpu")
    start.main(["lint"], root)
    assert [command[-1] for command in pips(asked)] == [".[dev]"]
    asked.clear()
    start.main(["lab"], root)
    assert "--force-reinstall" in pips(asked)[0]


# --- clean -----------------------------------------------------------------------------------------------------------


def test_clean_takes_what_was_made_and_leaves_what_a_person_made(root, asked, capsys):
    start.main(["lab"], root)
    for name in (".mypy_cache", "dist", "workbench/pocket/__pycache__", "notebooks", "runs", "my lessons"):
        (root / name).mkdir(parents=True)
        (root / name / "file").touch()
    assert start.main(["clean"], root) == 0
    assert sorted(path.name for path in root.iterdir()) == sorted(
        ["pyproject.toml", "requirements.lock", "notebooks", "runs", "my lessons", "workbench"]
    )
    assert "Deleted .venv" in capsys.readouterr().out
    assert start.main(["clean"], root) == 0


@pytest.mark.skipif(os.name == "nt", reason="links need rights that a Windows user may lack")
def test_clean_deletes_a_link_and_not_what_it_leads_to(root, tmp_path):
    make_venv(tmp_path / "shared" / ".venv")
    (root / ".venv").symlink_to(tmp_path / "shared" / ".venv")
    assert start.main(["clean"], root) == 0
    assert not (root / ".venv").exists()
    assert (tmp_path / "shared" / ".venv" / "pyvenv.cfg").exists()


# --- for real --------------------------------------------------------------------------------------------------------


def test_run_shows_the_command_and_hands_back_its_status(capsys, tmp_path):
    assert start.run([sys.executable, "-c", "raise SystemExit(7)"], tmp_path) == 7
    assert start.run([str(tmp_path / "nothing here")], tmp_path) == 127
    said = capsys.readouterr().out
    assert "'raise SystemExit(7)'" in said
    assert "cannot be started" in said


def test_what_would_lead_pip_astray_is_dropped(monkeypatch):
    for name in ("PIP_USER", "PIP_TARGET", "PYTHONHOME", "PYTHONPATH"):
        monkeypatch.setenv(name, "/elsewhere")
    monkeypatch.setenv("PIP_INDEX_URL", "https://registry.example/simple")
    environment = start.environment("/project/.venv/bin/python")
    assert not {"PIP_TARGET", "PYTHONHOME", "PYTHONPATH"} & environment.keys()
    assert environment["PIP_USER"] == "0", "pip's own configuration may ask for it as well"
    assert environment["PIP_INDEX_URL"] == "https://registry.example/simple"
    assert environment["PATH"].split(os.pathsep)[0] == str(Path("/project/.venv/bin"))


BACKEND = """
import os, zipfile

def build_editable(folder, config=None, metadata=None):
    files = {
        "_editable_impl_house.pth": os.getcwd() + "\\n",
        "house_of_test.py": "import sys\\ndef main(): print('ran', sys.argv[1:], sys.prefix)\\n",
        "house-1.dist-info/METADATA": "Metadata-Version: 2.1\\nName: house\\nVersion: 1\\n"
        "Provides-Extra: lab\\nProvides-Extra: model\\n",
        "house-1.dist-info/WHEEL": "Wheel-Version: 1.0\\nGenerator: us\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        "house-1.dist-info/entry_points.txt": "[console_scripts]\\nworkbench = house_of_test:main\\n",
    }
    files["house-1.dist-info/RECORD"] = "".join(f"{name},,\\n" for name in files) + "house-1.dist-info/RECORD,,\\n"
    with zipfile.ZipFile(folder + "/house-1-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)  # in UTF-8, as any backend does
    return "house-1-py3-none-any.whl"
"""


@pytest.mark.slow
def test_a_real_environment_from_nothing_half_made_and_again(root):
    """Real venv, real pip, a project without dependencies: no network, about ten seconds.

    The way to the project is in a .pth file, which Python reads in the locale's letters, and C has no other than ASCII.
    """
    shutil.copy(HERE, root)
    (root / "workbench").mkdir()
    (root / "workbench" / "__init__.py").write_text("")
    (root / "backend.py").write_text(BACKEND)
    (root / "pyproject.toml").write_text(PROJECT)

    def lab(*arguments):
        command = [sys.executable, str(root / "start.py"), "lab", *arguments]
        environment = {**os.environ, "PIP_NO_INDEX": "1", "PYTHONIOENCODING": "utf-8", "LC_ALL": "C"}
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", check=False, cwd=root.parent, env=environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    house = start.House(root)
    first = lab("--no-browser", "größe")
    assert "Making a virtual environment" in first
    assert f"ran ['lab', '--no-browser', 'größe'] {root / '.venv'}" in first
    state = json.loads((root / ".venv" / start.STATE).read_text())
    assert state["complete"] is True
    assert state["extras"] == ["lab", "model"]
    for locale in ("C", "C.UTF-8"):
        asking = {**start.environment(str(house.python)), "LC_ALL": locale}
        asking.pop("PYTHONUTF8")
        where = [house.python, "-P", "-c", "import workbench; print(ascii(workbench.__file__))"]
        told = subprocess.run(where, capture_output=True, text=True, check=True, env=asking).stdout
        assert told.strip() == ascii(str(root / "workbench" / "__init__.py"))

    def quickest(call):
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    assert "pip" not in lab()
    bare = quickest(lambda: subprocess.run([house.scripts / "workbench", "lab"], capture_output=True, check=False))
    assert quickest(lab) - bare < 1

    # An interruption in the middle: pip half gone, no state
    (root / ".venv" / start.STATE).unlink()
    for folder in (root / ".venv").rglob("site-packages/pip*"):
        shutil.rmtree(folder)
    assert "ensurepip" in lab()
    assert house.state()["complete"] is True


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("hand_over", "expected"), [(False, "stopped"), (True, "status 3")])
def test_ctrl_c_ends_a_step_and_is_the_childs_to_answer_after_the_hand_over(tmp_path, hand_over, expected):
    child = (
        "import signal, sys, time; signal.signal(2, lambda *a: sys.exit(3)); print('up', flush=True); time.sleep(30)"
    )
    script = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(HERE.parent)!r})
        import start
        try:
            print("status", start.run([sys.executable, "-c", {child!r}], None, hand_over={hand_over}))
        except KeyboardInterrupt:
            print("stopped")
    """)
    program = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    while program.stdout.readline() != "up\n":
        assert program.poll() is None
    os.killpg(program.pid, signal.SIGINT)
    assert program.communicate(timeout=20)[0].strip() == expected


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_what_was_started_ends_with_this_program(tmp_path):
    """`timeout`, a service manager or an editor's stop button ends start.py alone."""
    child = "import time; print('up', flush=True); time.sleep(60)"
    script = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(HERE.parent)!r})
        import start
        print("status", start.run([sys.executable, "-c", {child!r}], None, hand_over=True))
    """)
    program = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    while program.stdout.readline() != "up\n":
        assert program.poll() is None
    program.terminate()
    assert program.communicate(timeout=20)[0].strip() == "status 143"


@pytest.mark.parametrize("version", [(3, 15, 0), (3, 14, 1)])
def test_a_python_without_torch_is_told_before_anything_is_made(root, asked, monkeypatch, capsys, version):
    monkeypatch.setattr(sys, "version_info", version)
    assert start.main(["lab"], root) == 1
    assert not asked
    assert not (root / ".venv").exists()
    assert "Run this with one of those" in capsys.readouterr().out
    assert start.main(["lint"], root) == 0, "which takes no torch"


def test_a_python_that_torch_has_builds_for_goes_on(root, asked, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 14, 2))
    assert start.main(["lab"], root) == 0


def test_an_installation_that_is_not_found_is_no_installation(root, asked, monkeypatch, capsys):
    monkeypatch.setattr(start, "quiet", lambda command: int("import workbench" in command))
    assert start.main(["lab"], root) == 1
    assert "does not find it" in capsys.readouterr().out
    assert start.House(root).state()["complete"] is False
