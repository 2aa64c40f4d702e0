"""How near each strategy comes to the rate of dense attention, and what that gains over exact attention."""

from functools import partial

from autotune.strategies.amx import AMX
from autotune.strategies.config import Config, Value
from autotune.strategies.kernel_choice import FOLDING
from autotune.strategies.lanes import LANES
from autotune.strategies.pattern import Dense, Pattern
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem
from autotune.strategies.suite import TUNED, Implementation, Reference, Series, Suite, configured

LONG = Dilated((2048, 4096, 8192), (1, 2, 4))
SHORT = Dilated((1024, 2048, 4096), (1, 2, 4))
WINDOWS = (LocalWindow(0.9), LocalWindow(0.95))


def _strategy(name: str, definition: str, patterns: tuple[Pattern, ...]) -> Implementation:
    return Implementation(
        name=name,
        definition=f"{definition} The strategy's default configuration.",
        serves=lambda pattern: pattern in patterns,
        config=partial(configured, name),
        names_function=False,
    )


def _on_own(kernel: str, strategy: str, patterns: tuple[Pattern, ...], **params: Value) -> Implementation:
    def config(problem: Problem, pattern: Pattern) -> Config | None:
        takes = problem.device == "cpu" and problem.dtype in FOLDING[kernel].dtypes  # on whatever machine
        return configured(strategy, problem, pattern, kernel=kernel, **params) if takes else None

    given = "".join(f", {name}={value}" for name, value in params.items())
    return Implementation(
        name=f"{strategy}_{kernel}",
        definition=f"As {strategy}{given}, but on autotune's own kernel {kernel} for CPUs, compiled on the machine.",
        serves=lambda pattern: pattern in patterns,
        config=config,
        names_function=False,
    )


EXACT = Implementation(
    name="exact",
    definition="Exact attention by torch's scaled_dot_product_attention, which also is the reference.",
    serves=lambda pattern: pattern == Dense(),
    config=partial(configured, "sdpa"),
)

EFFICIENCY = Suite(
    name="efficiency",
    title="Efficiency of sparse attention",
    implementations=(
        EXACT,
        _strategy("dilated", "Dilated attention branch by branch, as dense tiles on strided views.", (LONG, SHORT)),
        _strategy("ring", "The same, keys and values visited in chunks.", (LONG, SHORT)),
        _strategy("block_sparse", "Block-sparse attention as dense tiles, a run of key blocks at a time.", WINDOWS),
        _on_own(LANES, "dilated", (LONG, SHORT)),
        _on_own(LANES, "block_sparse", WINDOWS, query_tile=0, query_block=0),
        _on_own(AMX, "dilated", (LONG, SHORT)),
        _on_own(AMX, "block_sparse", WINDOWS, query_tile=0, query_block=0),
        # Not for dilated patterns, in whose masks a CPU spends a hundred times as long.
        _strategy("flex", "FlexAttention, compiled, with a block mask that is built directly.", WINDOWS),
        Implementation(
            name=TUNED,
            definition=(
                "What a search in this database settled on for the function and length, by whatever strategy; no row "
                "of its own where that is one of the defaults above."
            ),
            serves=lambda pattern: pattern in (LONG, SHORT, *WINDOWS),
            config=lambda problem, pattern: None,
            names_function=False,
        ),
    ),
    series=(
        Series(lengths=(8192, 32768, 131072), patterns=(Dense(), LONG, *WINDOWS)),
        Series(lengths=(65536,), patterns=(Dense(), SHORT)),
    ),
    directions=("forward", "training"),
    reference=Reference(implementation=EXACT, call_s=20.0),
    race_s=300.0,
)
