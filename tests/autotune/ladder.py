"""Configurations of which the faster needs the more memory, and ways to make them fail."""

import torch

from autotune import Config, Dense, Problem, binding
from autotune.strategies.catalog import supported

from .records import fill, ok

DENSE = Dense()
MATH = Config.of("sdpa", backend="math", compile="off")
RING = Config.of("ring", chunk_size=20, compile="off", query_block=0)
AUTO = Config.of("sdpa", backend="auto", compile="off")
PROBLEM = Problem.self_attention(64, heads=2, head_dim=8)
OOM = "[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"


def ladder(path, unit_mib=10):
    """The faster the larger."""
    measured = [(MATH, 1.0, 3), (RING, 2.0, 2), (AUTO, 3.0, 1)]
    fill(path, [(PROBLEM, DENSE, config, ok(ms, units * unit_mib)) for config, ms, units in measured])


def uncompiled():
    """Everything that may run where all else has failed."""
    spaces = [strategy.space(PROBLEM, DENSE) for strategy in supported(PROBLEM, DENSE).values()]
    return [config for space in spaces for config in space if config.string("compile", "off") == "off"]


def tensors():
    """A call of the problem."""
    return [torch.randn(1, 2, 64, 8, generator=torch.Generator().manual_seed(0)) for _ in range(3)]


def plant(monkeypatch):
    """Configurations that fail, with what; and the order in which configurations were called."""
    errors, called = {}, []
    build = binding.build

    def planted(problem, pattern, config):
        attend = build(problem, pattern, config)

        def call(*operands, **options):
            called.append(config)
            if config in errors:
                raise errors[config]
            return attend(*operands, **options)

        return call

    monkeypatch.setattr(binding, "build", planted)
    return errors, called
