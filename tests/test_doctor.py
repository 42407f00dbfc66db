"""What the doctor makes of machines that are not here."""

import re
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from workbench import doctor
from workbench.catalog import CATALOG
from workbench.doctor import Facts, Gpu
from workbench.errors import ModelError
from workbench.machine import Device, Machine, compiles
from workbench.planning import plan
from workbench.pocket.examples import EXAMPLES

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ALL = dict.fromkeys((*doctor.CORE, doctor.COMPILER, *(n for names in doctor.EXTRAS.values() for n in names)), "9.9")
LAPTOP = Facts(
    python=(3, 11, 7), executable="/home/a/.venv/bin/python", system="Linux", release="6.1", machine="x86_64",
    cpu="A processor", cores=8, memory_free=12_000_000_000, memory_total=16_000_000_000, disk_free=100_000_000_000,
    versions=ALL | {"torch": "2.14.1", "torchvision": "0.29.1", "transformers": "5.22.2"},
)  # fmt: skip
CARD = Gpu("NVIDIA A100", "cuda", 78_000_000_000, 80_000_000_000)


def about(facts, what):
    found = [one for one in doctor.findings(facts) if one.about == what]
    assert len(found) <= 1
    return found[0] if found else None


def without(*names):
    return {**LAPTOP.versions, **dict.fromkeys(names)}


def test_a_laptop_is_fine():
    found = doctor.findings(LAPTOP)
    assert not [one for one in found if one.level == "broken" or one.mend]
    assert about(LAPTOP, "Device").text == "cpu"
    assert about(LAPTOP, "NVIDIA") is None
    assert "12.0 GB of 16.0 GB memory free" in about(LAPTOP, "Machine").text


def test_products_of_packed_weights_that_could_be_quicker():
    found = about(replace(LAPTOP, compiles=True), "4-bit products")
    assert (found.level, found.mend) == ("ok", ())
    found = about(replace(LAPTOP, versions=without("llvmlite")), "4-bit products")
    assert found.level == "note"
    assert found.mend == ("/home/a/.venv/bin/python -m pip install llvmlite",)
    assert "no AVX2" in about(LAPTOP, "4-bit products").text
    assert about(replace(LAPTOP, machine="arm64"), "4-bit products") is None
    assert about(replace(LAPTOP, versions=without("torch")), "4-bit products") is None


# --- an NVIDIA driver beside a torch that cannot use it ---------------------------------------------------------------


def test_linux_with_a_driver_and_a_cpu_torch_gets_the_commands():
    facts = replace(LAPTOP, driver="580.65.06", driver_cuda="13.0", versions=LAPTOP.versions | {"torch": "2.14.1+cpu"})
    found = about(facts, "NVIDIA")
    assert found.level == "note"
    assert "580.65.06" in found.text
    assert "built for the CPU alone" in found.text
    assert "update" not in found.text
    assert found.mend == (
        "/home/a/.venv/bin/python -m pip uninstall -y torch torchvision",
        "/home/a/.venv/bin/python -m pip install torch==2.14.1 torchvision==0.29.1",
    )


def test_windows_gets_pytorchs_own_index_because_the_registrys_torch_is_for_the_cpu():
    python = "C:\\Users\\Ann Lee\\w\\.venv\\Scripts\\python.exe"
    found = about(replace(LAPTOP, system="Windows", executable=python, driver=""), "NVIDIA")
    assert "an NVIDIA driver is here" in found.text
    index = "--index-url https://download.pytorch.org/whl/cu130"
    assert found.mend == (
        f"& '{python}' -m pip uninstall -y torch torchvision",
        f"& '{python}' -m pip install torch==2.14.1 torchvision==0.29.1 {index}",
    )


def test_an_old_driver_is_to_be_updated_first():
    found = about(replace(LAPTOP, driver="550.54", driver_cuda="12.4"), "NVIDIA")
    assert "serves CUDA up to 12.4 and this torch wants 13.0: update the driver first" in found.text


def test_a_cuda_torch_that_finds_no_gpu_is_told():
    found = about(replace(LAPTOP, driver="550.54", driver_cuda="12.4", torch_build="13.0"), "NVIDIA")
    assert "finds no GPU that it can use" in found.text
    assert "update the driver first" in found.text


def test_a_driver_is_held_to_the_torch_that_is_there():
    found = about(replace(LAPTOP, driver="570.1", driver_cuda="12.8", torch_build="12.6"), "NVIDIA")
    assert "built for CUDA 12.6" in found.text
    assert "update the driver" not in found.text


def test_a_mac_s_memory_is_looked_at():
    mac = replace(
        LAPTOP, system="Darwin", machine="arm64", cpu="", gpus=(Gpu("Apple GPU", "mps", 4 * 10**9, 8 * 10**9),)
    )
    assert about(mac, "Device").text == "mps: Apple GPU, 4.0 GB of 8.0 GB free"
    assert "does not say" not in about(mac, "Model gemma-4-31b").text
    assert not about(mac, "Model gemma-4-31b").text.startswith("fits")


def test_a_working_gpu_needs_no_mending():
    facts = replace(LAPTOP, driver="580", driver_cuda="13.0", torch_build="13.0", gpus=(CARD,))
    assert about(facts, "NVIDIA") is None
    assert about(facts, "Device").text == "cuda: NVIDIA A100, 78.0 GB of 80.0 GB free"
    assert about(facts, "Model gemma-4-12b").text == (
        "fits: in 16 bit it needs 26.3 GB on cuda, 78.0 GB free; 24.8 GB to fetch"
    )


def test_a_mac_uses_its_gpu():
    facts = replace(LAPTOP, system="Darwin", machine="arm64", cpu="", gpus=(Gpu("Apple GPU", "mps"),))
    assert about(facts, "Device").text == "mps: Apple GPU"
    assert "arm64" in about(facts, "Machine").text
    assert not [one for one in doctor.findings(facts) if one.level == "broken"]


# --- packages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", "5.18.0 5.19.0 5.20.1 5.20.2 5.21.0 5.22.2 5.23.0 5.23.1 6.0.0".split())
def test_refused_releases_are_those_of_pyproject(version):
    (ours,) = [r for r in map(Requirement, PROJECT["optional-dependencies"]["model"]) if r.name == "transformers"]
    assert (doctor.refused(version) is None) == ours.specifier.contains(version)


def test_a_refused_transformers_is_broken_and_mended():
    found = about(replace(LAPTOP, versions=LAPTOP.versions | {"transformers": "5.23.0"}), "Extra [model]")
    assert found.level == "broken"
    assert "5.23.0 cannot build the drafter" in found.text
    assert found.mend == ('/home/a/.venv/bin/python -m pip install "transformers>=5.20.2,!=5.23.0,<6"',)


def test_a_missing_extra_is_a_note_with_its_command():
    facts = replace(LAPTOP, versions=without("torch", "torchvision", "jupyterlab"))
    assert about(facts, "Extra [lab]").level == about(facts, "Extra [model]").level == "note"
    assert about(facts, "Extra [model]").mend == ('/home/a/.venv/bin/python -m pip install "gemma-workbench[model]"',)
    assert "not installed: torch, torchvision; needed to ask a model" in about(facts, "Extra [model]").text
    assert about(facts, "Device") is None
    assert about(facts, "Model pocket") is None


def test_a_missing_part_of_the_core_is_broken():
    found = about(replace(LAPTOP, versions=without("pyarrow")), "Core")
    assert (found.level, found.text) == ("broken", "not installed: pyarrow")


def test_a_torch_that_cannot_be_imported_is_broken():
    facts = replace(LAPTOP, system="Windows", torch_error="DLL load failed while importing _C")
    found = about(facts, "Device")
    assert found.level == "broken"
    assert "Visual C++" in found.text
    assert found.mend
    assert about(facts, "Model pocket") is None


def test_the_lists_of_packages_and_pins_are_those_of_the_project():
    def named(lines):
        return {canonicalize_name(Requirement(line).name) for line in lines}

    assert set(doctor.CORE) == named(PROJECT["dependencies"])
    for extra, names in doctor.EXTRAS.items():
        besides = {doctor.COMPILER} if extra == "model" else set()
        assert set(names) | besides == named(PROJECT["optional-dependencies"][extra])
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    assert f"\ntorch=={doctor.TORCH}\n" in lock
    assert f"\ntorchvision=={doctor.TORCHVISION}\n" in lock
    assert f"\nnvidia-cuda-runtime=={doctor.CUDA}." in lock


# --- the machine ------------------------------------------------------------------------------------------------------


def test_too_old_a_python_little_memory_and_a_full_disk():
    facts = replace(LAPTOP, python=(3, 10, 1), memory_free=900_000_000, disk_free=300_000_000)
    assert about(facts, "Python").level == "broken"
    assert about(facts, "Machine").level == "note"
    assert "close something" in about(facts, "Machine").text
    assert about(facts, "Disk").level == "note"


def test_what_the_system_does_not_say_is_not_guessed():
    facts = replace(LAPTOP, memory_free=None, memory_total=None, disk_free=None)
    assert "does not say" in about(facts, "Machine").text
    assert "does not say" in about(facts, "Disk").text
    assert about(facts, "Model gemma-4-12b").level == "note"


def test_which_models_would_fit():
    assert about(LAPTOP, "Model pocket").level == "ok"
    ours = about(LAPTOP, "Model gemma-4-12b")
    assert ours.text == "fits: as int4 it needs 10.3 GB on cpu, 12.0 GB free; 9.1 GB to fetch"
    assert ours.level == "ok"
    assert about(LAPTOP, "Model gemma-4-31b").text == "does not fit: as int4 it needs 24.3 GB on cpu, 12.0 GB free"
    here = replace(LAPTOP, fetched=("google/gemma-4-12B-it-qat-w4a16-ct",))
    assert "0.8 GB to fetch" in about(here, "Model gemma-4-12b").text  # the drafter
    full = about(replace(LAPTOP, disk_free=5_000_000_000), "Model gemma-4-12b")
    assert full.level == "note"
    assert "9.1 GB have to be fetched, and the disk has 5.0 GB free" in full.text


def test_the_doctor_and_the_plan_say_the_same_of_this_machine():
    """Of one machine, one looked at the 16-bit weights alone and sent people away."""
    facts = doctor.probe()
    here = Machine((Device("cpu", facts.memory_free),), facts.disk_free, facts.fetched.__contains__, compiles())
    for name in CATALOG:
        found = about(replace(facts, gpus=()), f"Model {name}")
        assert (found.level == "ok") == plan(name, measure=False, here=here).fits, name


# --- asking pocket, and the real machine ------------------------------------------------------------------------------


class Fake:
    def __init__(self, text):
        self.text = text

    def ask(self, question, *, images, temperature):
        assert images[0].exists()
        return self


def test_pockets_answer_is_checked_and_timed():
    found = doctor.ask_pocket(lambda name, progress: Fake(EXAMPLES[0].answer))
    assert found.level == "ok"
    assert found.numbers["load_s"] >= 0


def test_a_wrong_answer_or_an_error_is_broken():
    found = doctor.ask_pocket(lambda name, progress: Fake("Nine."))
    assert (found.level, "'Nine.' instead of 'Three.'" in found.text) == ("broken", True)

    def fail(name, progress):
        raise ModelError("weights are missing")

    found = doctor.ask_pocket(fail)
    assert (found.level, "ModelError: weights are missing" in found.text) == ("broken", True)


def test_the_report_lines_up_and_shows_the_commands():
    facts = replace(LAPTOP, driver="580", versions=without("gradio"))
    lines = doctor.table(doctor.findings(facts)).splitlines()
    assert all(re.match(r"(ok|note|BROKEN| {6})", line) for line in lines)
    assert sum("to mend it:" in line for line in lines) == 2
    assert any(line.strip().endswith("torchvision==0.29.1") for line in lines)


def test_nvidia_smi_is_understood(monkeypatch, tmp_path):
    said = "| NVIDIA-SMI 580.65.06    Driver Version: 580.65.06    CUDA Version: 13.0     |\n"
    (tmp_path / "said").write_text(said)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name)
    result = type("Done", (), {"stdout": said, "returncode": 0})
    monkeypatch.setattr(doctor.subprocess, "run", lambda *a, **k: result)
    assert doctor._nvidia() == ("580.65.06", "13.0")


def test_nvcuda_dll_alone_is_a_driver_too(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setenv("SYSTEMROOT", str(tmp_path))
    before = doctor._nvidia()
    (tmp_path / "System32").mkdir()
    (tmp_path / "System32" / "nvcuda.dll").touch()
    assert doctor._nvidia() in (("", None), before)
    assert doctor._nvidia()[0] is not None


def test_this_machine_can_be_looked_at():
    facts = doctor.probe()
    assert facts.python == sys.version_info[:3]
    assert facts.cores >= 1
    assert facts.memory_total is None or facts.memory_total >= facts.memory_free > 0
    assert set(facts.versions) == set(ALL)
    assert doctor.table(doctor.findings(facts))
