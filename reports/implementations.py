"""What an implementation is called: as its suite publishes it, or by its function and its strategy."""

from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.suite import Implementation


def family(pattern: Pattern, seq_len: int) -> str:
    """The name under which a function is followed over the lengths.

    LongNet's schedule is a different pattern at every length, but one family; any other choice of segments is a
    family of its own.

    >>> family(Dilated.longnet(16384), 16384), family(LocalWindow(sparsity=0.9), 4096)
    ('dilated', 'local_window 0.9')
    >>> family(Dilated((1024, 2048), (1, 2)), 4096)
    'dilated w=[1024, 2048] r=[1, 2]'
    """
    match pattern:
        case Dilated(offsets=offsets) if pattern == Dilated.longnet(seq_len, offsets=offsets):
            return "dilated" if offsets == "modulo" else f"dilated {offsets}"
        case LocalWindow(sparsity=sparsity, block_size=size):
            usual = size == LocalWindow(sparsity=sparsity).block_size
            return f"local_window {sparsity}" if usual else f"local_window {sparsity} block={size}"
    return pattern.label


def implementation(pattern: Pattern, seq_len: int, config: Config) -> str:
    """Family and strategy.

    >>> implementation(Dilated.longnet(16384), 16384, Config.of("ring", chunk_size=1024))
    'dilated/ring'
    """
    return f"{family(pattern, seq_len)}/{config.strategy}"


def published_name(row: Implementation, pattern: Pattern, seq_len: int) -> str:
    """The name in a suite, and what tells the function from others that have it.

    >>> from autotune.strategies.suites import SUITES
    >>> row = SUITES["extreme"].implementations[1]
    >>> published_name(row, Dilated.longnet(4096), 4096)
    'DilatedAttention'
    >>> published_name(row, Dilated((1024, 2048), (1, 2)), 4096)
    'DilatedAttention w=[1024, 2048] r=[1, 2]'
    >>> published_name(SUITES["efficiency"].implementations[3], LocalWindow(sparsity=0.9), 4096)
    'local_window 0.9/block_sparse'
    """
    if not row.names_function:
        return f"{family(pattern, seq_len)}/{row.name}"
    return row.name + family(pattern, seq_len).removeprefix("dilated") if isinstance(pattern, Dilated) else row.name
