"""binder/: in step with pyproject.toml and the lock, and what its scripts do, with pip and the registry left out."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

import start

ROOT = Path(__file__).resolve().parents[1]
BINDER = ROOT / "binder"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LOCK = {line.name: line for line in map(Requirement, (ROOT / start.LOCK).read_text("utf-8").splitlines())}
DOC = (ROOT / "docs" / "binder-and-colab.md").read_text("utf-8")


def lines(name):
    text = (BINDER / name).read_text("utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def installed(**versions):
    good = {name: next(iter(LOCK[name].specifier)).version for name in ("torch", "torchvision")}
    return {**good, "transformers": "5.18.0", **versions}


@pytest.fixture
def colab(monkeypatch):
    """binder/colab.py as a module; `ran` holds the commands it would have run, `constraints` what it gave pip."""
    spec = importlib.util.spec_from_file_location("colab", BINDER / "colab.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ran, module.fails = [], None

    def run(command, **how):
        module.ran.append((command, how.get("cwd")))
        if "pip" in command:
            module.constraints_given = Path(command[command.index("-c") + 1]).read_text("utf-8").splitlines()
        return SimpleNamespace(returncode=int(module.fails in command))

    monkeypatch.setattr(module.subprocess, "run", run)
    return module


def test_binder_installs_what_the_lessons_need_at_the_locks_versions():
    constraint, index, torch, vision, project = lines("requirements.txt")
    assert constraint == f"-c ../{start.LOCK}"
    assert (BINDER / constraint.split()[1]).resolve() == ROOT / start.LOCK
    assert index == "--extra-index-url https://download.pytorch.org/whl/cpu"
    for line in (torch, vision):
        name, version = line.split("==")
        assert version.endswith("+cpu")
        assert version.removesuffix("+cpu") in LOCK[name].specifier
        assert LOCK[name].specifier.contains(version), "pip would find the lock and this line at odds"
    (extras,) = re.fullmatch(r"-e \.\[([a-z,]+)\]", project).groups()
    assert set(extras.split(",")) == {*start.EXTRAS["lab"], "demo"}


def test_binder_has_a_python_that_the_project_takes():
    (runtime,) = lines("runtime.txt")
    assert re.fullmatch(r"python-3\.\d+", runtime)
    assert runtime.removeprefix("python-") in Requirement(f"python{PROJECT['requires-python']}").specifier


@pytest.mark.skipif(sys.platform == "win32", reason="Binder is Linux; there is no such bit here")
def test_binders_scripts_can_be_run():
    for name in ("postBuild", "start"):
        assert os.access(BINDER / name, os.X_OK), f"git update-index --chmod=+x binder/{name}"
        assert (BINDER / name).read_bytes().startswith(b"#!/bin/bash\n")
    done = subprocess.run(
        [str(BINDER / "start"), "sh", "-c", "echo $OMP_NUM_THREADS $0 one"], capture_output=True, text=True, check=True,
        env={name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"},
    )  # fmt: skip
    assert done.stdout == "2 sh one\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Binder is Linux; a shell script")
@pytest.mark.parametrize("broken", [False, True])
def test_the_build_ends_with_pockets_answer_or_fails(tmp_path, broken):
    program = tmp_path / "workbench"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m workbench.cli "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [str(BINDER / "postBuild")], cwd=tmp_path if broken else ROOT, capture_output=True, text=True, check=False,
        env=environment,
    )  # fmt: skip
    assert (done.returncode != 0) is broken, done.stderr
    assert bool(done.stdout.strip()) is not broken


def test_colabs_torch_is_kept_and_transformers_is_the_locks(colab, monkeypatch, capsys):
    monkeypatch.setattr(colab, "there", lambda: installed(torch="2.9.0+cu126", torchvision="0.24.0+cu126"))
    colab.main()
    (pip, _), (ask, folder) = colab.ran
    assert pip[-1] == f"{ROOT}[demo,model]"
    assert "--upgrade" not in pip
    assert colab.constraints_given == ["torch==2.9.0+cu126", "torchvision==0.24.0+cu126", str(LOCK["transformers"])]
    assert ask[1:4] == ["-m", "workbench.cli", "ask"]
    assert Path(ask[-1]).exists()
    assert Path(folder) != ROOT
    assert capsys.readouterr().out == "Ready: import workbench\n"


@pytest.mark.parametrize("torch", ["2.8.0+cu126", "3.0.0", ""])
def test_a_torch_that_will_not_do_is_told_and_nothing_is_changed(colab, monkeypatch, torch):
    monkeypatch.setattr(colab, "there", lambda: installed(torch=torch))
    with pytest.raises(SystemExit, match=r"needs torch.*2\.9.*; here is (2\.8|3\.0|none).*Nothing was changed"):
        colab.main()
    assert not colab.ran


def test_what_fails_in_colab_is_told(colab, monkeypatch):
    monkeypatch.setattr(colab, "there", installed)
    colab.fails = "pip"
    with pytest.raises(SystemExit, match="could not be installed"):
        colab.main()
    colab.fails = "ask"
    with pytest.raises(SystemExit, match="pocket does not answer"):
        colab.main()


def test_a_package_that_another_one_replaced_asks_for_a_new_session(colab, monkeypatch, capsys):
    states = [installed(), installed(transformers="5.22.2", gradio="6.31.0")]
    monkeypatch.setattr(colab, "there", lambda: states.pop(0))
    colab.main()
    assert "Changed: transformers. Choose Runtime > Restart session" in capsys.readouterr().out


def test_the_page_names_what_is_here_and_hides_no_address_of_ours():
    for path in re.findall(r"`(binder/[\w.]*)`", DOC) + re.findall(r"gemma-workbench/(binder/\S+)", DOC):
        assert (ROOT / path).exists(), path
    for notebook in re.findall(r"notebooks(?:%2F|/)(\w+\.ipynb)", DOC):
        assert (ROOT / "notebooks" / notebook).exists(), notebook
    assert set(re.findall(r"(?:/v2/gh|github\.com|/github)/(\w+/\w+)", DOC)) == {"USER/REPO"}
    assert "Neither was run by us" in DOC
