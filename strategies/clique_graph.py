"""Diameter of a graph given as overlapping cliques, without ever building the N x N graph."""

import torch


def diameter(memberships: torch.Tensor) -> int | None:
    """Longest shortest path between two tokens, where tokens that share a clique are neighbours.

    Args:
        memberships: clique numbers, shape (tokens, families); -1 where a token is in no clique of that family.
            Numbers are local to their family (column).

    Returns:
        The diameter, at least 1; None where some token cannot reach another.

    >>> diameter(torch.tensor([[0], [0], [1]])) is None
    True
    >>> diameter(torch.tensor([[0, -1], [0, 0], [1, 0]]))
    2
    """
    classes = _distinct_rows(memberships)
    member = _membership_matrix(classes)
    hardest = member[_minimal_rows(classes)]  # the tokens that are farthest from the rest
    touching = (member.T @ member > 0).float()  # two cliques touch when they share a token
    reached = hardest  # cliques within `distance` of each of those tokens
    distance = 1
    while not bool((reached @ hardest.T > 0).all()):
        wider = (reached @ touching > 0).float()
        if torch.equal(wider, reached):
            return None
        reached, distance = wider, distance + 1
    return distance


def _distinct_rows(rows: torch.Tensor) -> torch.Tensor:
    """Unique rows, by folding one column at a time into a single number (far faster than unique over rows)."""
    label = torch.zeros(len(rows), dtype=torch.int64)
    for column in rows.T:
        label = label * (int(column.max()) + 2) + column + 1
        label = torch.unique(label, return_inverse=True)[1]
    first = torch.full((int(label.max()) + 1,), len(rows))
    first.scatter_reduce_(0, label, torch.arange(len(rows)), "amin")
    return rows[first]


def _membership_matrix(classes: torch.Tensor) -> torch.Tensor:
    """0/1 matrix (classes, cliques), the cliques of all families numbered through."""
    sizes = [int(column.max()) + 1 for column in classes.T]
    matrix = torch.zeros(len(classes), sum(sizes))
    base = 0
    for column, size in zip(classes.T, sizes, strict=True):
        rows = (column >= 0).nonzero().squeeze(1)
        matrix[rows, column[rows] + base] = 1.0
        base += size
    return matrix


def _minimal_rows(classes: torch.Tensor) -> list[int]:
    """Rows whose cliques include no other row's: whoever is in more cliques is nowhere farther from anyone."""
    cliques = [frozenset((f, c) for f, c in enumerate(row) if c >= 0) for row in classes.tolist()]
    by_families: dict[frozenset[int], set[frozenset[tuple[int, int]]]] = {}
    for row in cliques:
        by_families.setdefault(frozenset(f for f, _ in row), set()).add(row)

    def dominated(row: frozenset[tuple[int, int]]) -> bool:
        families = frozenset(f for f, _ in row)
        return any(
            smaller < families and frozenset(member for member in row if member[0] in smaller) in rows
            for smaller, rows in by_families.items()
        )

    return [index for index, row in enumerate(cliques) if not dominated(row)]
