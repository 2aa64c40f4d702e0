"""Every benchmark there is, by name."""

from autotune.strategies.suite_efficiency import EFFICIENCY
from autotune.strategies.suite_extreme import EXTREME

SUITES = {suite.name: suite for suite in (EXTREME, EFFICIENCY)}
