"""The self-test on the CPU; a device that is not there; and a kernel that lies."""

import pytest

torch = pytest.importorskip("torch")

import workbench  # noqa: E402
from workbench import selftest  # noqa: E402
from workbench.machine import compiles  # noqa: E402


@pytest.fixture(scope="module")
def results():
    return selftest.run(["cpu", "cuda:7"], tokens=4)


def test_every_scheme_works_on_the_cpu(results):
    cpu = results[:5]
    assert [r.scheme for r in cpu] == ["none", "int8", "int4", "int8 in 16 bits", "int4 in 16 bits"]
    assert [r.wrong for r in cpu] == [""] * 5
    assert cpu[0].largest < 1e-3
    assert all(r.same == 0 and r.step_s > 0 for r in cpu)
    assert 0 < cpu[1].largest < 0.1
    assert 0 < cpu[2].largest < 0.2  # a group of columns that is lost moves it by more than 0.6
    assert 0 < cpu[3].largest < 0.25
    assert 0 < cpu[4].largest < 0.25
    assert cpu[0].bytes > cpu[1].bytes > cpu[2].bytes > cpu[4].bytes
    assert cpu[2].kernel == "cpu"
    assert cpu[4].kernel == ("compiled" if compiles() else "cpu")


def test_a_device_that_is_not_there_is_a_line_and_no_crash(results):
    assert [r.device for r in results[5:]] == ["cuda:7"] * 5
    assert all("not there" in r.wrong for r in results[5:])
    said = selftest.table(results)
    assert len(said.splitlines()) == 2 + 10
    assert said.count("| ok |") == 5


def test_packed_models_are_unloaded_again(results):
    assert all(model.info.quantization == "none" for model in workbench.loaded().values())


def test_numbers_that_are_off_are_said(monkeypatch):
    monkeypatch.setattr(selftest, "_LIMITS", {"none": 0.02, "int8": -1.0, "int4": 0.4})
    monkeypatch.setattr(selftest, "SCHEMES", ("int8",))
    (result,) = selftest.run(["cpu"], tokens=3)
    assert "off by" in result.wrong
