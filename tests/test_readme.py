"""What README.md and CONTRIBUTING.md tell people to type is run, or at least understood by what they type it to."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import start

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md")


def blocks(page, language):
    text = (ROOT / page).read_text("utf-8")
    return [block.strip() for block in re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)]


def commands(*pages):
    """Every command line of the pages: those in console blocks and those in the running text."""
    found = []
    for page in pages:
        found += [line for block in blocks(page, "console") for line in block.splitlines()]
        text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        found += re.findall(r"`((?:python3?|py) start\.py [^`]*|workbench [a-z][^`]*|conda [^`]*)`", text)
    return list(dict.fromkeys(found))


def starting(word):
    return [line for line in commands(*PAGES) if word in line]


def test_the_two_commands_stand_first():
    assert [block.splitlines()[0] for block in blocks("README.md", "console")][:2] == [
        "python start.py lab",
        "python start.py test",
    ]


def test_the_readme_fits_on_a_few_screens():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) < 150


@pytest.mark.parametrize("line", starting("start.py"))
def test_start_understands_it(line, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(start, "run", lambda command, cwd, **how: asked.append(command) or 0)
    monkeypatch.setattr(start.House, "ensure", lambda house, command: None)
    program, script, *arguments = shlex.split(line)
    assert (program, script) in (("python", "start.py"), ("py", "start.py"))
    assert start.main(arguments, tmp_path) == 0
    if arguments[0] in ("lab", "test"):
        assert asked[0][-len(arguments[1:]) :] == arguments[1:] or not arguments[1:]


def test_tests_that_are_named_exist():
    for line in starting("start.py test "):
        for word in shlex.split(line)[3:]:
            assert not word.endswith(".py") or (ROOT / word).exists()


def test_the_lock_command_is_of_the_lock_that_is_here():
    (line,) = starting("uv pip compile")
    words = shlex.split(line)
    assert words[3] == "pyproject.toml"
    assert words[-1] == start.LOCK
    assert "--universal" in words
    assert not {"--generate-hashes", "--emit-index-url"} & set(words)


def test_files_that_are_named_or_linked_exist():
    for page in PAGES:
        text = (ROOT / page).read_text("utf-8")
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / link).exists(), f"{page} links {link}"
    assert (ROOT / "environment.yml").exists()


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in commands("README.md") if line.startswith("workbench ")])
def test_the_workbench_command_runs(line, tmp_path):
    scene(tmp_path)
    arguments = shlex.split(line)[1:]
    if arguments[0] in ("lab", "demo"):
        arguments = [arguments[0], "--help"]
    code = "import sys; sys.argv[0] = 'workbench'; from workbench.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


@pytest.mark.slow
def test_the_python_of_the_readme_runs_from_top_to_bottom(tmp_path):
    scene(tmp_path)
    code = "\n\n".join(blocks("README.md", "python")) + "\n\nassert trace.text\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def scene(folder):
    """The files that the README's examples speak of, where they lie in the project's folder."""
    shutil.copytree(ROOT / "workbench/pocket/examples", folder / "workbench/pocket/examples")
