"""The self-test on the CPU; a device that is not there; and a kernel that lies."""

import pytest

torch = pytest.importorskip("torch")

import workbench  # noqa: E402
from workbench import selftest  # noqa: E402


@pytest.fixture(scope="module")
def results():
    return selftest.run(["cpu", "cuda:7"], tokens=4)


def test_every_scheme_works_on_the_cpu(results):
    cpu = results[:3]
    assert [r.scheme for r in cpu] == ["none", "int8", "int4"]
    assert [r.wrong for r in cpu] == ["", "", ""]
    assert cpu[0].largest < 1e-3
    assert all(r.same == 0 and r.step_s > 0 for r in cpu)
    assert 0 < cpu[1].largest < 0.1
    assert 0 < cpu[2].largest < 0.2  # a group of columns that is lost moves it by more than 0.6
    assert cpu[0].bytes > cpu[1].bytes > cpu[2].bytes
    assert cpu[2].kernel == "cpu"


def test_a_device_that_is_not_there_is_a_line_and_no_crash(results):
    assert [r.device for r in results[3:]] == ["cuda:7"] * 3
    assert all("not there" in r.wrong for r in results[3:])
    said = selftest.table(results)
    assert len(said.splitlines()) == 2 + 6
    assert said.count("| ok |") == 3


def test_packed_models_are_unloaded_again(results):
    assert all(model.info.quantization == "none" for model in workbench.loaded().values())


def test_numbers_that_are_off_are_said(monkeypatch):
    monkeypatch.setattr(selftest, "_LIMITS", {"none": 0.02, "int8": -1.0, "int4": 0.4})
    monkeypatch.setattr(selftest, "SCHEMES", ("int8",))
    (result,) = selftest.run(["cpu"], tokens=3)
    assert "off by" in result.wrong
