"""Results that come with the package: found by the device's whole name, and all of them readable."""

import json
from dataclasses import replace
from importlib.resources import files

import pytest

from autotune.db import shipped
from autotune.db.errors import StoreError
from autotune.db.results_reader import results_of
from autotune.db.results_writer import results_text
from autotune.db.shipped import shipped_file_name, shipped_records

NAME = "NVIDIA Planted GPU, 8GB"


@pytest.fixture
def folder(tmp_path, monkeypatch, store, add, environment):
    """A folder with results of one device in place of the package's."""
    add(store, environment=replace(environment, device="cuda", device_name=NAME))
    path = tmp_path / "nvidia-planted-gpu-8gb.json"
    path.write_text(results_text(store.results(device_name=NAME)))
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    return tmp_path


def test_results_are_found_by_the_devices_whole_name(folder, store):
    assert [record.uid for record in shipped_records(NAME)] == [store.records()[0].uid]
    assert shipped_records("NVIDIA Planted GPU") == []
    assert shipped_records("NVIDIA Planted GPU 8GB") == []  # the same file, another device


def test_a_damaged_file_says_so(folder):
    (folder / shipped_file_name(NAME)).write_text("{")
    with pytest.raises(StoreError, match=r"planted-gpu-8gb\.json is torn"):
        shipped_records(NAME)


def test_what_is_shipped_is_readable_and_under_its_name():
    folder = files("autotune.db") / "shipped"
    assert folder == shipped.FOLDER
    for file in folder.iterdir():
        if file.name.endswith(".json"):
            text = file.read_text(encoding="utf-8")
            results = results_of(text, file.name)
            assert results_text(results) == text
            assert {shipped_file_name(record.environment.device_name) for record in results.records} == {file.name}
            assert json.loads(text)["measurements"]


def test_a_device_of_which_nothing_is_shipped():
    assert shipped_records("Nobody's GPU") == shipped_records("../../secret") == []
