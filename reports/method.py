"""How the figures of a report came about, and what they mean."""

from collections.abc import Sequence

from autotune.reports.sections import Section
from autotune.strategies.suite import Reference

COMPARABLE = {
    "Comparable rows": ("Figures compare only within one section: one device with one set of versions, one setting."),
    "Time": (
        "Median of the repeats; min - max are the shortest and the longest repeat, spread is "
        "their distance relative to the median. The raw repeats are in the database."
    ),
}
OTHERS = {
    "Memory": (
        "Peak memory above the inputs, output included; allocator statistics on CUDA; resident high-water mark of "
        "the worker on the CPU. Predicted is what was expected beforehand: the strategy's estimate, corrected by what "
        "had been measured by then."
    ),
    "Correctness": (
        "Every candidate is compared with a float64 oracle before it is timed; at full length, on sampled query rows "
        "where the sequence is long. rel error is the worst row of |out - oracle| / |oracle|, both L2 over head_dim. "
        "Only `ok` rows passed; no other row is ranked, nor is one that is flagged."
    ),
    "Flagged": (
        "A row is flagged, and not believed, where its output was wrong (all zeros and NaN among that), where an "
        "`ok` row has no valid time or error, and where it claims more operations a second than the fastest matrix "
        "product ever measured on the device. It is never a best, a winner or the base of a speed-up."
    ),
    "TFLOP/s": (
        "Operations of the function itself, divided by the median time, whatever computes it. The share of the "
        "matmul rate is relative to the fastest large matrix product measured in the same environment and dtype."
    ),
    "Density": "Share of the full query x key square that the function computes, with multiplicity.",
    "Repeated measurements": (
        "Where a configuration was measured more than once, the latest stands; one that was skipped never replaces "
        "one that ran."
    ),
}


def terms(sections: Sequence[Section]) -> dict[str, str]:
    """By term what it means, and how many rows rest on a single repeat; words of the database in backticks."""
    repeats = [entry.row.repeats for section in sections for entry in section.entries if entry.row.repeats]
    once = (
        "A call is warmed up before it is repeated, but for one that takes longer than all the time it has for "
        "repeats: its first call counts, for time and for memory, and what a first call adds is small beside it. It "
        "is repeated less, the slowest not at all, and neither is one that lost the search by its first repeat. "
        f"{repeats.count(1):,} of the {len(repeats):,} timed rows rest on a single repeat, and have no spread; the "
        "repeats column says so."
    )
    references = [section.suite.reference for section in sections if section.suite and section.suite.reference]
    against = _against_exact(references[0]) if references else {}
    return {**COMPARABLE, **against, **({"Repeats": once} if 1 in repeats else {}), **OTHERS}


def _against_exact(reference: Reference) -> dict[str, str]:
    """What is said of rows that are held against exact attention."""
    return {
        "Share of dense's rate": (
            "The rows of one length are timed in turn, round by round, and in every round exact attention too, at the "
            "longest length (4,096 times a power of two) at which a call of it stays within "
            f"{reference.call_s:g} s and the time limit. A rate is the operations of the function, multiplicities "
            "counted, divided by the median time over the rounds; the share is the rate of the row over that of exact "
            "attention, both of the same rounds, so that what disturbs the machine disturbs both. Single rounds: the "
            "least and the most of the ratio in any one round. A row that has no share was never in such a race: two "
            "rounds with it would have taken too long."
        ),
        "Times faster": (
            "Exact attention at the row's own length, divided by the row. `same race`: both medians are of the same "
            "rounds. `another time`: exact attention was too slow for the race, and was measured by itself in the same "
            "environment. `predicted`: it was not run at this length, and its time is extrapolated by operations from "
            "the exact attention in the row's own race."
        ),
    }
