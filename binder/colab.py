"""Install this clone in Google Colab, beside the torch that is there, and see that pocket answers.

    !git clone --depth 1 YOUR-REPOSITORY-URL gemma-workbench && python gemma-workbench/binder/colab.py

Colab's torch is built for Colab's driver, so it is kept: when it is not one that the workbench can use, this says so
and changes nothing. All else comes as pyproject.toml asks for it; Transformers in the release of requirements.lock.
"""
# ruff: noqa: INP001, T201 (a script of its own, which talks to the cell that runs it)

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("demo", "model")  # JupyterLab is Colab's own
KEPT = ("torch", "torchvision")
PINNED = ("transformers",)  # the one whose releases differ in what they do to this model
QUESTION = "How many shapes are there?"


def asked(extras: tuple[str, ...] = EXTRAS) -> dict[str, Requirement]:
    """What pyproject.toml asks for, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {one.name: one for one in map(Requirement, lines)}


def there() -> dict[str, str]:
    """Every installed package and its version."""
    return {one.name.lower(): one.version for one in importlib.metadata.distributions() if one.name}


def constraints(installed: dict[str, str]) -> list[str]:
    """Lines for pip: Colab's torch as it is, Transformers as in the lock.

    Raises:
        SystemExit: The torch that is there cannot be used; the message says what can be done.
    """
    wanted, lines = asked(), []
    for name in KEPT:
        version = installed.get(name, "")
        if not version or not wanted[name].specifier.contains(version.partition("+")[0]):
            sys.exit(
                f"The workbench needs {wanted[name]}; here is {version or 'none'}. Nothing was changed. Choose a newer "
                "runtime (Runtime > Change runtime type > Runtime version), or run the workbench on your own machine."
            )
        lines.append(f"{name}=={version}")
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    return lines + [re.search(rf"^{name}==\S+", lock, re.MULTILINE)[0] for name in PINNED]  # type: ignore[index]


def main() -> None:
    """Install, ask pocket one question, and say whether the session has to be restarted."""
    before = there()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "constraints.txt"
        file.write_text("\n".join(constraints(before)) + "\n", "utf-8")
        pip = [sys.executable, "-m", "pip", "install", "-q", "-c", str(file), f"{ROOT}[{','.join(EXTRAS)}]"]
        if subprocess.run(pip, check=False).returncode:
            sys.exit("The packages could not be installed: pip says why above.")
        scene = ROOT / "workbench" / "pocket" / "examples" / "scene.png"
        # in another folder, so that what was installed is tried and not the clone
        ask = [sys.executable, "-m", "workbench.cli", "ask", QUESTION, "--image", str(scene)]
        if subprocess.run(ask, cwd=folder, check=False).returncode:
            sys.exit("Everything is installed, but pocket does not answer: see above.")
    changed = sorted(name for name, version in there().items() if name in before and before[name] != version)
    if changed:
        print(f"Changed: {', '.join(changed)}. Choose Runtime > Restart session before the first `import workbench`.")
    print("Ready: import workbench")


if __name__ == "__main__":
    main()
