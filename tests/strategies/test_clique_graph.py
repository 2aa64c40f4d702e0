"""The diameter of overlapping cliques, against powers of the full adjacency matrix."""

import naive
import torch
from geometry import examples
from hypothesis import given
from hypothesis import strategies as st

from autotune.strategies.clique_graph import diameter


@given(st.integers(1, 3).flatmap(lambda families: st.lists(
    st.tuples(st.integers(0, 3), *[st.integers(-1, 3)] * (families - 1)), min_size=1, max_size=14)))  # fmt: skip
@examples
def test_diameter_is_the_smallest_full_power_of_the_adjacency(rows):
    memberships = torch.tensor(rows)
    shared = (memberships[:, None] == memberships[None]) & (memberships[:, None] >= 0)
    assert diameter(memberships) == naive.reach(shared.any(-1))


def test_a_chain_of_cliques_is_as_long_as_its_links():
    # Token t links clique t // 2 of one family to clique (t + 1) // 2 of the other: a path of ten.
    tokens = torch.arange(10)
    assert diameter(torch.stack([tokens // 2, (tokens + 1) // 2], dim=1)) == 9
