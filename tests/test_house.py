"""The house: what is packed, pinned, imported and promised stays in step."""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from shutil import which

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import start

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
SOURCES = sorted(path for package in ("workbench", "widgets") for path in (ROOT / package).rglob("*.py"))
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in SOURCES]


def requirements(*extras):
    """What pyproject.toml asks for, with the extras that name other extras unfolded."""
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    wanted = [Requirement(line) for line in lines]
    inner = {extra for requirement in wanted if requirement.name == PROJECT["name"] for extra in requirement.extras}
    outer = [requirement for requirement in wanted if requirement.name != PROJECT["name"]]
    return outer + requirements(*inner - set(extras)) if inner - set(extras) else outer


def locked():
    """requirements.lock: name to (version, marker)."""
    lines = [Requirement(line) for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines() if line]
    assert len({line.name for line in lines}) == len(lines), "a package is pinned twice"
    return {canonicalize_name(line.name): line for line in lines}


def python(code, **environment):
    """Run code in a new interpreter; returns what it printed as JSON."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- style, types, layout ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("check", sorted(start.lint_commands(ROOT)))
def test_lint(check):
    commands = start.lint_commands(ROOT)
    done = subprocess.run(
        [sys.executable, *commands[check]], cwd=ROOT, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_modules_that_must_open_without_torch_are_under_that_contract():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (held,) = [contract["source_modules"] for contract in contracts if "without torch" in contract["name"]]
    light = {"errors", "media", "sampling", "trace", "tracefile", "readings", "display", "diff"}
    assert {f"workbench.{name}" for name in light} <= set(held), "add it in pyproject.toml"
    assert set(held) <= {*MODULES, *(name.rpartition(".")[0] for name in MODULES)}, "a module that is no longer there"


def test_modules_stay_of_a_size_that_can_be_read():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    long = {name: lines for name, lines in lengths.items() if lines > 450}
    assert not long, "split these (DESIGN: about 400 lines)"


def test_no_place_of_one_machine_is_written_down():
    """No address of a package registry (each user has his own) and no path of a developer's machine."""
    listing = ["git", "ls-files", "-z"]
    files = subprocess.run(listing, cwd=ROOT, capture_output=True, check=False).stdout.decode() if which("git") else ""
    if not files:
        pytest.skip("not a git checkout")
    words = ("pypi" + ".org", "pythonhosted" + ".org", "npmjs" + ".org", "deb.debian" + ".org", "/root/", "/opt/wheels")
    found = []
    for name in filter(None, files.split("\0")):
        path = ROOT / name
        if path.suffix in (".safetensors", ".png", ".jpg", ".wav", ".trace", ".parquet") or not path.is_file():
            continue
        text = path.read_text("utf-8", errors="ignore")
        found += [f"{name}: {word}" for word in words if word in text and name != "tests/test_house.py"]
    assert not found


# --- what is installed ------------------------------------------------------------------------------------------------


def test_the_lock_holds_one_release_of_everything_asked_for():
    lock = locked()
    for requirement in requirements(*PROJECT["optional-dependencies"]):
        pin = lock[canonicalize_name(requirement.name)]
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        assert requirement.specifier.contains(Version(specifier.version)), f"{requirement} against {pin}"


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_the_lock_serves_every_platform(platform):
    there = {
        name
        for name, pin in locked().items()
        if pin.marker is None or pin.marker.evaluate({"sys_platform": platform, "os_name": os_name(platform)})
    }
    assert {"torch", "torchvision", "transformers", "jupyterlab", "gradio", "pytest"} <= there
    assert ("nvidia-cudnn-cu13" in there) is (platform == "linux")
    assert ("pywinpty" in there) is (platform == "win32")
    assert ("appnope" in there) is (platform == "darwin")


def os_name(platform):
    return "nt" if platform == "win32" else "posix"


def test_everything_that_is_installed_for_this_project_is_in_the_lock_at_that_version():
    lock = locked()
    seen, todo = set(), requirements(*PROJECT["optional-dependencies"])
    wrong = []
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        key = (name, *sorted(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name} is not installed")
            continue
        pin = lock.get(name)
        own_build = name in ("torch", "torchvision") or start.TORCH_COMPANIONS.match(name)
        if pin is None and not own_build:
            wrong.append(f"{name} is not in the lock")
        elif pin is not None and not own_build and not pin.specifier.contains(found.version, prereleases=True):
            wrong.append(f"{name} {found.version} is installed; the lock says {pin.specifier}")
        for line in found.requires or []:
            inner = Requirement(line)
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in requirement.extras | {""}):
                todo.append(inner)
    assert not wrong


def test_the_lock_names_no_place_and_no_build():
    for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines():
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*(\[[a-z,]+\])?==[0-9][a-z0-9.]*( ; [^#@]+)?", line), line


def test_broken_releases_of_transformers_are_refused():
    (ours,) = [one for one in requirements("model") if one.name == "transformers"]
    for broken in ("5.18.0", "5.18.1", "5.19.0", "5.23.0", "6.0.0"):
        assert broken not in ours.specifier
    for good in ("5.20.2", "5.21.1", "5.22.0", "5.22.2", "5.23.1"):
        assert good in ours.specifier


def test_the_core_has_no_torch_and_the_extras_are_those_that_start_needs():
    heavy = {"torch", "torchvision", "transformers", "accelerate", "librosa", "scipy", "gradio", "jupyterlab"}
    assert not heavy & {one.name for one in requirements()}
    assert {extra for extras in start.EXTRAS.values() for extra in extras} == set(PROJECT["optional-dependencies"])


def test_environment_yml_is_in_step():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    python_line, pip_line, pip = environment["dependencies"]
    too_new, left_out = (".".join(map(str, one)) for one in (start.TOO_NEW, start.LEFT_OUT))
    assert python_line == f"python {PROJECT['requires-python']},<{too_new},!={left_out}"
    assert pip_line == "pip"
    assert pip["pip"][0] == f"-c {start.LOCK}"
    (extras,) = re.fullmatch(r"-e \.\[([a-z,]+)\]", pip["pip"][1]).groups()
    assert set(extras.split(",")) == {*start.EXTRAS["lab"], "demo"}
    assert environment["name"] == PROJECT["name"]


def test_start_asks_for_the_python_that_pyproject_asks_for():
    asked = re.search(r"version_info < \((\d+), (\d+)\)", (ROOT / "start.py").read_text("utf-8")).groups()
    assert PROJECT["requires-python"] == f">={'.'.join(asked)}"


# --- what importing costs, and what is public -------------------------------------------------------------------------


def test_importing_the_workbench_loads_nothing_heavy():
    heavy = ("torch", "torchvision", "transformers", "librosa", "scipy", "gradio", "plotly", "anywidget", "IPython")
    code = f"import json, sys; import workbench; print(json.dumps([n for n in {heavy} if n in sys.modules]))"
    assert python(code) == []


def test_importing_the_views_loads_no_torch():
    heavy = ("torch", "torchvision", "transformers", "accelerate")
    code = f"import json, sys; import widgets; print(json.dumps([n for n in {heavy} if n in sys.modules]))"
    assert python(code) == []


def declared_in(path):
    """A module's __all__, read without importing it; None when it has none."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets):
            return ast.literal_eval(node.value)
    return None


def test_all_names_what_is_there():
    declared = {name: declared_in(path) for name, path in zip(MODULES, SOURCES, strict=True)}
    declared = {name: names for name, names in declared.items() if names is not None}
    assert len(declared) > 100
    assert [name for name, names in declared.items() if len(set(names)) != len(names)] == []
    code = f"""if True:
        import importlib, json
        lacking = {{}}
        for name, names in {declared!r}.items():
            module = importlib.import_module(name)
            lacking[name] = [n for n in names if not hasattr(module, n)]
        print(json.dumps({{name: names for name, names in lacking.items() if names}}))
    """
    assert python(code) == {}


def test_the_package_exports_exactly_what_all_says():
    code = """if True:
        import json, workbench
        public = {n for n in dir(workbench) if not n.startswith("_")}
        modules = {n for n in public if type(getattr(workbench, n)).__name__ == "module"}
        print(json.dumps([sorted(public - modules), sorted(set(workbench.__all__) - {"__version__"})]))
    """
    there, declared = python(code)
    assert there == declared


# --- notebooks --------------------------------------------------------------------------------------------------------


def test_notebooks_are_kept_without_outputs_and_for_any_kernel():
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        notebook = json.loads(path.read_text("utf-8"))
        assert notebook["metadata"].get("kernelspec", {}).get("name", "python3") == "python3", path.name
        for cell in notebook["cells"]:
            assert not cell.get("outputs"), f"{path.name}: run nbstripout"
            assert cell.get("execution_count") is None, f"{path.name}: run nbstripout"
