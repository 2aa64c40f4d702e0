"""Patterns by name: read one back from the database, or build one from command-line words."""

import json

from autotune.strategies.errors import PatternError
from autotune.strategies.pattern import Dense, Pattern
from autotune.strategies.pattern_block_layout import BlockLayout
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.pattern_global_window_random import GlobalWindowRandom
from autotune.strategies.pattern_strided import Strided

KINDS: tuple[type[Pattern], ...] = (Dense, Dilated, LocalWindow, GlobalWindowRandom, Strided, BlockLayout)
PATTERNS = {pattern.kind: pattern for pattern in KINDS}


def pattern_from_key(key: str) -> Pattern:
    """Read back what `Pattern.key` wrote.

    >>> pattern_from_key(LocalWindow(sparsity=0.9).key)
    LocalWindow(sparsity=0.9, block_size=128)

    Raises:
        PatternError: the text is not a known pattern.
    """
    try:
        fields = json.loads(key)
        return PATTERNS[fields.pop("kind")](**fields)
    except PatternError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PatternError(f"pattern is {key[:80]!r}, but must be the JSON of one of {', '.join(PATTERNS)}") from error
