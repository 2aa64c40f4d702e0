"""Dense attention by ``torch.nn.functional.scaled_dot_product_attention``, each backend a candidate."""

from functools import lru_cache, partial
from typing import ClassVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from autotune.strategies.compiling import compile_choices, compiled
from autotune.strategies.config import Config
from autotune.strategies.errors import ConfigError
from autotune.strategies.flash_buffers import backward_buffers, forward_buffers
from autotune.strategies.kernels import cuda_capability
from autotune.strategies.pattern import Dense, Pattern
from autotune.strategies.problem import Problem
from autotune.strategies.space import Choice, Space
from autotune.strategies.strategy import Attention, Strategy

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


class Sdpa(Strategy):
    """Torch's own attention; ``backend=auto`` leaves the choice of kernel to torch."""

    name: ClassVar[str] = "sdpa"

    def unsupported(self, problem: Problem, pattern: Pattern) -> str | None:
        """Only the dense pattern."""
        return None if isinstance(pattern, Dense) else f"computes dense attention, not {pattern.label}"

    def space(self, problem: Problem, pattern: Pattern) -> Space:
        """Backends of the device; on the CPU torch's own choice is flash."""
        backends = ("auto", "math") if problem.device == "cpu" else ("auto", *_cuda_backends(problem))
        return Space(self.name, (Choice("backend", backends), *compile_choices(problem)))

    def memory_bytes(self, problem: Problem, pattern: Pattern, config: Config) -> int:
        """Output and log-sum-exp, the kernel's buffers; gradients when training; with ``math`` the scores."""
        if config.string("backend", "auto") == "math":
            return _math_bytes(problem)
        results = problem.output_bytes + 4 * problem.batch * problem.heads * problem.query_len
        forward = results + forward_buffers(problem, problem.query_len, problem.kv_len)
        if not problem.training:
            return forward
        # The kernel lays the gradient of the output out anew.
        gradients = 2 * problem.output_bytes + problem.kv_bytes
        return max(forward, results + gradients + backward_buffers(problem, problem.query_len, problem.kv_len))

    def build(self, problem: Problem, pattern: Pattern, config: Config) -> Attention:
        """Torch's function, under the backend asked for."""
        function = (config.string("backend", "auto"), problem.causal, problem.group_size > 1)
        if self.one_length_only(config):
            return compiled(_attention(*function), config)
        return _compiled_once(function, config, (problem.device, problem.dtype, problem.direction))


@lru_cache
def _compiled_once(function: tuple[str, bool, bool], config: Config, kind: tuple[str, ...]) -> Attention:
    """One compiled callable for all lengths, but not for all kinds of call: the graphs of each stay few."""
    return compiled(_attention(*function), config)


def _math_bytes(problem: Problem) -> int:
    """Scores and weights, wide, and which of them are -inf; the causal mask of all heads; wide copies of operands."""
    item = problem.torch_dtype.itemsize
    wide = max(4, item)
    pairs = problem.query_len * problem.kv_len
    scores = problem.batch * problem.heads * pairs
    query, keys = problem.output_bytes // item * wide, problem.kv_bytes // item * problem.group_size * wide
    operands = query + (keys if problem.group_size > 1 else 0) + (query + keys if item < wide else 0)
    forward = operands + 2 * scores * wide + scores + (pairs * wide if problem.causal else 0)
    return max(forward, 3 * scores * wide + 2 * query + keys) if problem.training else forward


def _cuda_backends(problem: Problem) -> tuple[str, ...]:
    """The backends that the device has for a dtype."""
    half = problem.dtype in ("float16", "bfloat16") and cuda_capability() >= (8, 0)
    return tuple(BACKENDS) if half else ("efficient", "math")


def _attention(backend: str, causal: bool, grouped: bool) -> Attention:
    if backend == "auto":
        return partial(_dense, causal, grouped)
    if backend not in BACKENDS:
        raise ConfigError(f"backend is {backend!r}, but must be one of {', '.join(('auto', *BACKENDS))}")
    return partial(_dense_on, BACKENDS[backend], causal, grouped)


def _dense(
    causal: bool,
    grouped: bool,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scale: float | None = None,
) -> torch.Tensor:
    if scale is not None and scale <= 0:  # kernels multiply masked scores, -inf, by the scale
        query, scale = query * scale, 1.0
    return scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scale, enable_gqa=grouped)


def _dense_on(
    backend: SDPBackend,
    causal: bool,
    grouped: bool,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scale: float | None = None,
) -> torch.Tensor:
    with sdpa_kernel(backend):
        return _dense(causal, grouped, query, key, value, scale=scale)
