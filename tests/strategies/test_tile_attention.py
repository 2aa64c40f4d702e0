"""What is held while tiles run: no more at a time than is needed."""

import weakref

import torch
from contract import draw

from autotune.strategies.catalog import build
from autotune.strategies.config import Config
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem


def test_half_precision_holds_the_sums_of_one_block_at_a_time(monkeypatch):
    problem = Problem.self_attention(96, heads=2, head_dim=8, dtype="bfloat16")
    attention = build(problem, Dilated((32,), (1,)), Config.of("dilated", query_block=32, compile="off"))
    allocate, sums, alive = torch.empty_like, [], []

    def watched(like, **options):
        alive.append(sum(ref() is not None for ref in sums))
        tensor = allocate(like, **options)
        sums.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(torch, "empty_like", watched)
    attention(*draw(problem))
    assert alive == [0, 0, 0]
