"""The analysis of the Markdown report: statements computed from the rows, and nothing else."""

from autotune.reports.figures import layers, mebibytes, milliseconds, percent, times
from autotune.reports.implementations import family
from autotune.reports.markdown_text import bullets, code, table
from autotune.reports.rows import Entry
from autotune.reports.sections import Cell, Section, fastest

FUNCTIONS = [">seq_len", "function", "family", ">density", ">reach in layers", "fastest implementation", ">median ms"]


def analysis(section: Section) -> str:
    """Who is fastest at each length, what it gains over exact attention, and what each function can see."""
    note = (
        "Different patterns are different functions; speed-ups compare a function with the fastest exact attention at "
        "the same length and setting. Reach is the number of layers until every token can influence every other "
        "(causal cut left aside)."
    )
    functions = table([*FUNCTIONS, ">speed-up over fastest dense"], [_function(section, c) for c in section.cells])
    return "\n\n".join([bullets(_length(section, n) for n in section.lengths), note, functions])


def _length(section: Section, seq_len: int) -> str:
    ranked = [entry for entry in section.entries if entry.row.seq_len == seq_len and entry.ranked_ms is not None]
    best = fastest(ranked)
    if best is None:
        return f"{seq_len:,} tokens: no result can be ranked."
    text = f"{seq_len:,} tokens: fastest is {code(best.row.implementation)}, {milliseconds(best.row.time_ms)} ms"
    return f"{text}; {_against_dense(section, best)}{_least_memory(ranked)}."


def _against_dense(section: Section, best: Entry) -> str:
    dense = section.fastest_dense.get(best.row.seq_len)
    if dense is None:
        return "no exact attention is ok at this length"
    if dense is best:
        return "it is exact"
    name, time = code(dense.row.implementation), milliseconds(dense.row.time_ms)
    return f"{times(section.speed_up(best))} the speed of the fastest exact attention, {name}, {time} ms"


def _least_memory(ranked: list[Entry]) -> str:
    known = [(entry.row.peak_memory_mib, entry) for entry in ranked if entry.row.peak_memory_mib is not None]
    if not known:
        return ""
    memory, least = min(known, key=lambda pair: pair[0])
    return f"; least peak memory {mebibytes(memory)} MiB, {code(least.row.implementation)}"


def _function(section: Section, cell: Cell) -> list[str]:
    best = fastest(cell.entries)
    return [
        f"{cell.seq_len:,}",
        code(cell.pattern.label),
        code(family(cell.pattern, cell.seq_len)),
        percent(cell.pattern.density(cell.problem)),
        layers(cell.pattern.reach(cell.problem)),
        code(best.row.implementation) if best else "none",
        milliseconds(best.row.time_ms if best else None),
        times(section.speed_up(best)),
    ]
