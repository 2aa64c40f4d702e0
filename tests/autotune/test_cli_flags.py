"""The options that commands share."""

from typing import get_args

from autotune import cells, cli_flags, search
from autotune.effort import EFFORTS
from autotune.reports.formats import FORMATS
from autotune.strategies import problem
from autotune.strategies.catalog import STRATEGIES
from autotune.strategies.suites import SUITES


def test_words_of_the_command_line_are_those_that_exist():
    assert cli_flags.PATTERN_NAMES == cells.PATTERN_NAMES
    assert set(cli_flags.STRATEGY_NAMES) == set(STRATEGIES)
    assert set(cli_flags.DTYPE_NAMES) < set(problem.DTYPES)  # float64 is for checking
    assert set(cli_flags.EFFORT_NAMES) == set(EFFORTS)
    assert set(cli_flags.FORMAT_NAMES) == set(FORMATS)
    assert set(cli_flags.SAMPLER_NAMES) == set(get_args(search.Sampler))
    assert set(cli_flags.SUITE_NAMES) == set(SUITES)
