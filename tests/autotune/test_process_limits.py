"""Free memory obeys the limits around the process."""

import pytest
import torch

from autotune.environment import free_memory_bytes
from autotune.memory import lift_limit, limit_growth
from autotune.process_limits import UNLIMITED, container_headroom_bytes, oom_kills, process_headroom_bytes

MIB = 1 << 20


def test_a_limit_on_growth_is_what_is_free():
    try:
        limit_growth(100 * MIB)
        assert 90 * MIB < free_memory_bytes(torch.device("cpu")) <= 100 * MIB
        held = torch.ones(40 * MIB, dtype=torch.uint8)
        assert 50 * MIB < process_headroom_bytes() <= 60 * MIB
        del held
    finally:
        lift_limit()


@pytest.mark.parametrize(("maximum", "expected"), [("1000", 1000 - 700 + 300), ("max", UNLIMITED)])
def test_the_containers_limit_counts_file_pages_as_free(tmp_path, maximum, expected):
    (tmp_path / "memory.max").write_text(f"{maximum}\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 300\nactive_file 5\n")
    assert container_headroom_bytes(tmp_path) == expected


def test_without_a_container_there_is_no_limit(tmp_path):
    assert container_headroom_bytes(tmp_path) == UNLIMITED


def test_the_containers_count_of_kills_comes_before_the_machines(tmp_path):
    machine = tmp_path / "vmstat"
    assert oom_kills(tmp_path, machine) == 0
    machine.write_text("pgfault 9\noom_kill 7\ndrop_pagecache 0\n")
    assert oom_kills(tmp_path, machine) == 7
    (tmp_path / "memory.events").write_text("low 0\noom 5\noom_kill 3\noom_group_kill 0\n")
    assert oom_kills(tmp_path, machine) == 3
