"""How a sparsity becomes the parameters of a block-sparse pattern: as dense as it permits, and no denser."""

from collections.abc import Callable

from autotune.strategies.errors import PatternError


def require_sparsity(sparsity: float) -> None:
    """Refuse what is no share of pairs to leave out.

    Raises:
        PatternError: it is not.
    """
    if not 0.0 <= sparsity < 1.0:
        raise PatternError(f"sparsity is {sparsity}, but must be at least 0 and below 1")


def densest(pairs: Callable[[int], int], most: int, sparsity: float, seq_len: int) -> int:
    """The largest number up to ``most`` whose token pairs are at most 1 - sparsity of all; at least 0.

    Args:
        pairs: token pairs of each number, growing with it.
        most: where to end.
        sparsity: share of the full square to leave out.
        seq_len: side of the square.

    >>> densest(lambda number: 100 * number, 8, 0.75, 40)
    4
    """
    permitted = (1.0 - sparsity) * seq_len * seq_len * (1 + 1e-12)  # 1 - 0.9 is a little below 0.1
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if pairs(middle) <= permitted:
            low = middle
        else:
            high = middle - 1
    return low
