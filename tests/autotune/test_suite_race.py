"""How far a search by powers of two comes; the races themselves are in the tests of a benchmark run."""

import pytest

from autotune.suite_race import longest_power


@pytest.mark.parametrize("limit", [1, 2, 3, 100, 4095, 4096, 4097, 8191, 8192, 100_000])
def test_the_longest_that_fits_is_found_and_nothing_beyond_the_next_is_tried(limit):
    tried = []

    def fits(length):
        tried.append(length)
        return length <= limit

    found = longest_power(fits)
    assert found <= limit < 2 * found
    assert max(tried) <= max(4096, 2 * found)
    assert len(tried) == len(set(tried))


def test_nothing_fits():
    assert longest_power(lambda length: False) is None
