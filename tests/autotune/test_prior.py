"""Where a search begins: with what was fast nearby, and in the order of what is expected."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import torch
from stand_in import RATES, StandIn

from autotune.cells import Cell
from autotune.db.records import Rate, Record, Run, Status
from autotune.device_rates import DevicePeak
from autotune.environment import environment_of
from autotune.prior import LEADERS, Prior
from autotune.replay import Notebook
from autotune.strategies.catalog import STRATEGIES
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem

from .records import failed, ok

CPU = torch.device("cpu")
HERE = environment_of(CPU)
ELSEWHERE, ALIKE = replace(HERE, device_name="another"), replace(HERE, torch_version="0")
CELL = Cell(CPU, Problem.self_attention(4096, heads=2), Dense())
START = datetime(2026, 1, 1, tzinfo=UTC)
RUN = Run(command="autotune tune", started_at=START)


def ring(chunk_size):
    return Config.of("ring", chunk_size=chunk_size, compile="off", query_block=0)


def record(time_ms, *, chunk_size=1, length=2048, environment=HERE, pattern=CELL.pattern, day=0, **changes):
    return Record(
        id=1,
        created_at=START + timedelta(days=day),
        run=RUN,
        environment=environment,
        problem=replace(CELL.problem, query_len=length, kv_len=length, **changes),
        pattern=pattern,
        config=ring(chunk_size),
        measurement=failed(Status.OOM) if time_ms is None else ok(time_ms),
    )


def prior(*records, cell=CELL, rates=()):
    peak = DevicePeak(Notebook(rates), StandIn(), 0, HERE, "cpu", "float32")
    return Prior.of(cell, STRATEGIES, peak, HERE, records)


def leaders(*records, among=None, cell=CELL):
    everything = {ring(chunk_size) for chunk_size in range(100)}
    return [config.get("chunk_size", 0) for config in prior(*records, cell=cell).leaders(among or everything)]


def test_nothing_known_leads_nowhere():
    assert leaders() == []


def test_the_fastest_few_of_a_like_cell_lead_in_order():
    records = [record(float(10 - number), chunk_size=number) for number in range(9)]
    assert leaders(*records) == [8, 7, 6, 5, 4]
    assert len(leaders(*records)) == LEADERS


@pytest.mark.parametrize("lengths", [(1024, 2048, 16384), (16384, 2048, 1024), (8192, 512)])
def test_the_nearest_length_counts_shorter_or_longer(lengths):
    nearest = min(lengths, key=lambda length: max(length / 4096, 4096 / length))
    records = [record(1.0, chunk_size=number, length=length) for number, length in enumerate(lengths)]
    assert leaders(*records) == [lengths.index(nearest)]


def test_the_latest_measurement_of_a_configuration_counts():
    assert leaders(record(1.0, chunk_size=1), record(2.0, chunk_size=2), record(3.0, chunk_size=1)) == [2, 1]


@pytest.mark.parametrize(
    "other",
    [
        record(None),
        record(1.0, heads=4, kv_heads=2),
        record(1.0, dtype="float16"),
        record(1.0, causal=True),
        record(1.0, direction="training"),
        record(1.0, pattern=Dilated((64,), (1,))),
        record(1.0, environment=ELSEWHERE),
        record(1.0, length=4096),
    ],
    ids=["failed", "heads", "dtype", "causal", "training", "pattern", "another device and length", "this very cell"],
)
def test_cells_of_another_kind_do_not_lead(other):
    assert leaders(other) == []


def test_a_schedule_that_grows_with_the_length_is_of_the_same_kind():
    cell = replace(CELL, pattern=Dilated.longnet(4096))
    assert leaders(record(1.0, pattern=Dilated.longnet(2048)), cell=cell) == [1]


def test_another_device_leads_after_the_nearest_length():
    there = [record(float(n), chunk_size=n, length=4096, environment=ELSEWHERE) for n in (3, 4)]
    assert leaders(record(1.0, chunk_size=4), record(2.0, chunk_size=7), *there) == [4, 7, 3]


def test_the_same_device_with_other_software_comes_before_another_device_and_the_newest_of_those_counts():
    alike = record(1.0, chunk_size=1, length=4096, environment=ALIKE)
    there = record(1.0, chunk_size=2, length=4096, environment=ELSEWHERE, day=1)
    newer = record(1.0, chunk_size=3, length=4096, environment=replace(ELSEWHERE, threads=99), day=2)
    assert leaders(alike, there) == [1]
    assert leaders(there, newer) == leaders(newer, there) == [3]


def test_what_is_not_in_the_space_does_not_lead():
    assert leaders(record(1.0, chunk_size=1), record(2.0, chunk_size=2), among={ring(2)}) == [2]


def test_what_is_known_of_another_length_is_expected_in_proportion_to_the_arithmetic():
    assert prior(record(3.0)).expected_ms(ring(1)) == pytest.approx(12.0)


@pytest.mark.parametrize("rates", [(), (RATES,)], ids=["unknown rates", "known rates"])
def test_of_what_is_unknown_arithmetic_and_memory_count(rates):
    known = [
        Rate(
            created_at=START,
            run=RUN,
            environment=HERE,
            dtype="float32",
            matmul_flops_per_s=each.matmul_flops_per_s,
            copy_bytes_per_s=each.copy_bytes_per_s,
        )
        for each in rates
    ]
    auto, scores = (Config.of("sdpa", backend=backend, compile="off") for backend in ("auto", "math"))
    expected = prior(rates=known).expected_ms
    assert 0 < expected(auto) < expected(scores)


def test_the_keys_of_a_union_are_expected_to_take_less():
    pattern = Dilated((512, 2048), (1, 4))
    expected = prior(cell=replace(CELL, pattern=pattern)).expected_ms
    branches, union = (Config.of("dilated", keys=keys, query_block=0) for keys in ("branches", "union"))
    flops = [STRATEGIES["dilated"].flops(CELL.problem, pattern, config) for config in (branches, union)]
    assert flops[1] < flops[0]
    assert expected(union) < expected(branches)
