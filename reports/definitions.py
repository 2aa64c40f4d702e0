"""What the implementations of a suite compute, exactly."""

from collections.abc import Sequence
from dataclasses import dataclass

from autotune.reports.implementations import family
from autotune.reports.sections import Section
from autotune.strategies.suite import Suite

CAUSAL = "If causal, a query counts no key behind its own position."
FORMULAS = {
    "dense": "softmax(q kT * scale) v: every query counts every key once.",
    "dilated": (
        "Branches of segment length w and dilation rate r. Head h has the offset s = h mod r (blocked: s = h // "
        "ceil(H / r), of H heads). Position i is on a branch's grid when (i mod w) mod r == s; a query on the grid "
        "counts the keys on the grid of its own segment, floor(i / w). One softmax over all branches: a key that is "
        "seen in m of them counts m times."
    ),
    "local_window": (
        "Blocks of consecutive tokens. Queries of block i count the keys of every block j with |i - j| <= k, each "
        "once; k is the largest with which at most 1 - sparsity of all pairs are computed, and at least 0."
    ),
    "global_window_random": (
        "Blocks of consecutive tokens. Queries of block i count the keys of block j, once, if i or j is below the "
        "number of global blocks, if |i - j| <= (window - 1) / 2, or if j is one of the blocks drawn for i."
    ),
    "strided": (
        "Blocks of consecutive tokens. Queries of block i count the keys of every block j with |i - j| < local or "
        "(i - j) mod stride == 0, each once."
    ),
    "block_layout": "Blocks of consecutive tokens. Queries of block i count the keys of the blocks listed for i, once.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One implementation, and the families of functions it was measured on."""

    name: str
    text: str
    families: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One family of functions: the formula, and its parameters at each length."""

    family: str
    formula: str
    labels: dict[str, list[int]]  # by parameters, the lengths

    @property
    def text(self) -> str:
        """The parameters, at which lengths if they depend on the length.

        >>> Function(family="dense", formula="", labels={"dense": [4096, 8192]}).text
        'dense'
        """
        if len(self.labels) == 1:
            return next(iter(self.labels))
        return "; ".join(f"{label} at {', '.join(f'{n:,}' for n in at)}" for label, at in self.labels.items())


def definitions(suite: Suite, sections: Sequence[Section]) -> list[Definition]:
    """Every implementation of the suite, in its order."""
    entries = [entry for section in sections for entry in section.entries]
    return [
        Definition(
            name=each.name,
            text=each.definition,
            families=tuple(sorted({family(e.record.pattern, e.row.seq_len) for e in entries if e.place == place})),
        )
        for place, each in enumerate(suite.implementations)
    ]


def functions(sections: Sequence[Section]) -> list[Function]:
    """Every family of functions that was measured, by name."""
    cells = {(cell.pattern, cell.seq_len) for section in sections for cell in section.cells}
    found: dict[str, Function] = {}
    for pattern, seq_len in sorted(cells, key=lambda cell: (family(*cell), cell[1])):
        formula = FORMULAS.get(pattern.kind, pattern.label)
        function = Function(family=family(pattern, seq_len), formula=formula, labels={})
        found.setdefault(function.family, function).labels.setdefault(pattern.label, []).append(seq_len)
    return list(found.values())
