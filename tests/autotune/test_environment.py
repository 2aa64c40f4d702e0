from types import SimpleNamespace

import psutil
import pytest
import torch

from autotune.environment import DeviceError, distinct_devices, environment_of, free_memory_bytes, resolve_device

CPU = torch.device("cpu")


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("name", [None, "cpu", "cpu:0"])
def test_without_a_gpu_the_cpu_is_the_best_device(no_gpu, name):
    assert resolve_device(name) == CPU
    assert distinct_devices() == [CPU]


@pytest.mark.parametrize(("name", "index"), [(None, 0), ("cuda", 0), ("cuda:1", 1)])
def test_a_gpu_is_preferred_and_gets_its_index(two_gpus, name, index):
    assert resolve_device(name) == torch.device("cuda", index)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "cpu:one", "CPU", "all"])
def test_malformed_names_are_refused(name):
    with pytest.raises(DeviceError, match=rf"^device is '{name}', but must be cpu, cuda, cuda:INDEX or all$"):
        resolve_device(name)


def test_a_gpu_that_is_not_there_is_refused(two_gpus):
    with pytest.raises(
        DeviceError, match=r"^device is 'cuda:2', but this machine has 2 CUDA devices; use --device cpu$"
    ):
        resolve_device("cuda:2")


def test_equal_machines_whose_kernels_keep_other_amounts_for_themselves_have_one_fingerprint(monkeypatch):
    gib = 1 << 30
    found = []
    for total in (31 * gib + 5, 31 * gib + 300_000_000, 32 * gib, 32 * gib + 1):
        monkeypatch.setattr(psutil, "virtual_memory", lambda total=total: SimpleNamespace(total=total))
        found.append(environment_of(CPU))
    assert [environment.device_memory_bytes for environment in found] == [32 * gib] * 3 + [33 * gib]
    assert len({environment.fingerprint for environment in found}) == 2
    assert found[0] == found[1] == found[2]


def test_the_environment_describes_this_machine():
    environment = environment_of(CPU)
    assert environment.device == "cpu"
    assert environment.torch_version == torch.__version__
    assert environment.device_name == environment.cpu_name != ""
    assert 0 < free_memory_bytes(CPU) < environment.device_memory_bytes
