"""Models of Hugging Face transformers: ``attn_implementation="autotune"``, and patterns under names of their own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from autotune.runtime import attention
from autotune.strategies.errors import UnsupportedError
from autotune.strategies.pattern import Dense, Pattern
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated

# Only the first is the function that a checkpoint was trained with; the others are chosen knowingly, by name.
IMPLEMENTATIONS: dict[str, Callable[[int], Pattern]] = {
    "autotune": lambda length: Dense(),
    "autotune_dilated": Dilated.longnet,
    "autotune_local_window": lambda length: LocalWindow(0.9),
}
BEYOND = ("position_bias", "cache", "softcap")  # arguments that make it another function than attention
SPENT = ("position_ids", "cache_position")  # tensors whose effect is in query, key and mask already


def register_transformers() -> tuple[str, ...]:
    """Make `IMPLEMENTATIONS` known to transformers, and return their names.

    Raises:
        UnsupportedError: transformers is not installed, or too old to take other attention functions.
    """
    try:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask
    except ImportError as error:
        raise UnsupportedError(
            f"transformers cannot be used ({error}); install autotune-attention[transformers]"
        ) from error
    for name, pattern_of in IMPLEMENTATIONS.items():
        AttentionInterface.register(name, partial(model_attention, pattern_of))
        AttentionMaskInterface.register(name, sdpa_mask)  # None wherever is_causal says it all
    return tuple(IMPLEMENTATIONS)


def model_attention(
    pattern_of: Callable[[int], Pattern],
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as a layer of transformers calls it.

    Args:
        pattern_of: the function to compute, by the number of keys.
        module: the layer; whether it is causal is asked of it where ``is_causal`` is None.
        query: shape (B, Hq, Lq, D).
        key: shape (B, Hkv, Lk, D).
        value: shape (B, Hkv, Lk, D).
        attention_mask: broadcasts to (B, Hq, Lq, Lk); for the dense pattern only, as is dropout.
        dropout: probability.
        scaling: factor on the scores; 1 / sqrt(D) if None.
        is_causal: query i sees keys 0 .. i.
        options: other arguments of the model's; a tensor among them, such as the sinks of gpt-oss, would change the
            function.

    Returns:
        Shape (B, Lq, Hq, D), and no attention weights.

    Raises:
        UnsupportedError: an option that makes it another function, or a mask with a pattern that takes none.
        PatternError: the pattern is not defined for these lengths, as when decoding with a cache.
    """
    for name, option in options.items():
        if option is not None and (name in BEYOND or (isinstance(option, torch.Tensor) and name not in SPENT)):
            raise UnsupportedError(f"{name} is not part of attention as autotune computes it; use sdpa or eager")
    length = query.shape[2]
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    causal = length > 1 and attention_mask is None and causal
    if causal and key.shape[2] > length:  # a static cache: no query sees what comes after the last of them
        key, value = key[:, :, :length], value[:, :, :length]
    if attention_mask is not None:
        key, value = (_for_each_head(x, query.shape[1]) for x in (key, value))
    out = attention(
        query, key, value, attention_mask, dropout, causal, scaling, enable_gqa=query.shape[1] != key.shape[1],
        pattern=pattern_of(key.shape[2]),
    )  # fmt: skip
    return out.transpose(1, 2).contiguous(), None


def _for_each_head(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Key or value for every query head: on CUDA, torch serves grouped heads with a mask by N x N scores."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)
