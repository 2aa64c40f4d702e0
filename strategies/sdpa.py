"""Dense attention by ``torch.nn.functional.scaled_dot_product_attention``, each backend a candidate."""

from collections.abc import Callable
from functools import lru_cache, partial
from threading import Lock
from typing import Any, ClassVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from autotune.strategies.compiling import compile_choices, compiled
from autotune.strategies.config import Config
from autotune.strategies.errors import ConfigError
from autotune.strategies.flash_buffers import backward_buffers, forward_buffers
from autotune.strategies.kernel_choice import cuda_capability
from autotune.strategies.one_device import require_one_device
from autotune.strategies.pattern import Dense, Pattern
from autotune.strategies.problem import Problem
from autotune.strategies.space import Choice, Space
from autotune.strategies.strategy import Attention, Strategy

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
MATH = "math"

# `sdpa_kernel` sets flags of the whole process and puts back what it found: by turns, or they would stay set.
_FLAGS = Lock()


class Sdpa(Strategy):
    """Torch's own attention; ``backend=auto`` leaves the choice of kernel to torch."""

    name: ClassVar[str] = "sdpa"

    def unsupported(self, problem: Problem, pattern: Pattern) -> str | None:
        """Only the dense pattern."""
        return None if isinstance(pattern, Dense) else f"computes dense attention, not {pattern.label}"

    def space(self, problem: Problem, pattern: Pattern) -> Space:
        """Backends of the device; on the CPU torch's own choice is flash."""
        backends = ("auto", MATH) if problem.device == "cpu" else ("auto", *_cuda_backends(problem))
        return Space(self.name, (Choice("backend", backends), *compile_choices(problem)))

    def memory_bytes(self, problem: Problem, pattern: Pattern, config: Config) -> int:
        """Output and log-sum-exp, the kernel's buffers; gradients when training; with ``math`` the scores."""
        if config.string("backend", "auto") == MATH:
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
        grouped = problem.group_size > 1
        return partial(_bound(config), causal=problem.causal, grouped=grouped)


@lru_cache
def _bound(config: Config) -> Callable[..., torch.Tensor]:
    """One callable for every problem: torch then counts, and bounds, all graphs of a configuration together."""
    backend = config.string("backend", "auto")
    attention = compiled(_attention(backend), config)
    return partial(_by_turns, attention) if backend in BACKENDS else attention


def _by_turns(attention: Callable[..., torch.Tensor], *tensors: torch.Tensor, **options: Any) -> torch.Tensor:
    """One thread at a time; not in what is compiled, which knows no locks."""
    with _FLAGS:
        return attention(*tensors, **options)


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
    return (*BACKENDS, MATH) if half else ("efficient", MATH)


def _attention(backend: str) -> Callable[..., torch.Tensor]:
    """Torch's function on a backend; a function of its own, not a partial, as `compiled` wants it."""
    if backend == "auto":
        return _dense
    if backend == MATH:
        return _math
    if backend not in BACKENDS:
        raise ConfigError(f"backend is {backend!r}, but must be one of {', '.join(('auto', *BACKENDS, MATH))}")

    def dense_on_backend(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        causal: bool,
        grouped: bool,
        scale: float | None = None,
    ) -> torch.Tensor:
        with sdpa_kernel(BACKENDS[backend]):
            return _dense(query, key, value, causal=causal, grouped=grouped, scale=scale)

    return dense_on_backend


def _dense(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    causal: bool,
    grouped: bool,
    scale: float | None = None,
) -> torch.Tensor:
    query, scale = _scaled(query, scale)
    return scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scale, enable_gqa=grouped)


def _math(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    causal: bool,
    grouped: bool,
    scale: float | None = None,
) -> torch.Tensor:
    """The one backend with an operator that takes whatever torch's function takes: no flags are needed."""
    require_one_device(query, key, value)
    query, scale = _scaled(query, scale)
    out: torch.Tensor = torch.ops.aten._scaled_dot_product_attention_math(
        query, key, value, None, 0.0, causal, None, scale=scale, enable_gqa=grouped
    )[0]
    return out


def _scaled(query: torch.Tensor, scale: float | None) -> tuple[torch.Tensor, float | None]:
    """The query and a scale above 0: kernels multiply masked scores, -inf, by it."""
    return (query, scale) if scale is None or scale > 0 else (query * scale, 1.0)
