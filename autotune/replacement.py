"""Routing every call of torch's attention through ours."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_depth = 0
_original: Callable[..., torch.Tensor] = torch.nn.functional.scaled_dot_product_attention  # or what a context found


@contextmanager
def replace_sdpa() -> Iterator[None]:
    """Within the context, ``torch.nn.functional.scaled_dot_product_attention`` is `autotune.attention`.

    So it is for the whole process, not only for this thread: backward passes, and the forward passes that activation
    checkpointing repeats in them, run in threads of their own. Contexts nest and overlap; the last one to end puts
    back what the first one found there. Code that has imported the function by name before keeps torch's.

    >>> import torch
    >>> with replace_sdpa():
    ...     torch.nn.functional.scaled_dot_product_attention.__module__
    'autotune.runtime'
    """
    global _depth, _original
    from autotune.runtime import attention

    functional = torch.nn.functional
    with _lock:
        if _depth == 0:
            _original = functional.scaled_dot_product_attention
            functional.scaled_dot_product_attention = attention
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                functional.scaled_dot_product_attention = _original
