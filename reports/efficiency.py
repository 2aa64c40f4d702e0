"""Rows held against exact attention: the share of its rate that they reach, and how many times faster they are."""

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from autotune.db.records import Record, Status
from autotune.reports.rows import Entry, Row, entries, rows
from autotune.reports.sections import Section, sections
from autotune.reports.source import Source
from autotune.strategies.pattern import Dense
from autotune.strategies.suite import TUNED, Suite

Basis = Literal["", "same race", "another time", "predicted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """What a row is beside exact attention; figures that are missing are None."""

    raced_ms: float | None = None  # median over the rounds of a race with exact attention
    raced_tflops: float | None = None  # of the function itself, by that
    rounds: int = 0
    dense_len: int | None = None  # of the exact attention in that race whose rate is the reference
    dense_tflops: float | None = None  # that rate
    dense_share: float | None = None  # what the row reaches of it: a ratio of medians of one race
    dense_share_min: float | None = None  # the least and the most of any single round
    dense_share_max: float | None = None
    exact_ms: float | None = None  # exact attention at the row's own length
    exact_basis: Basis = ""  # where that is from
    times_faster: float | None = None  # than that
    chosen: bool = False  # whether a search settled on this configuration


@dataclass(frozen=True, slots=True)
class _Race:
    """Rows of one length that were timed in turn, with exact attention among them."""

    seq_len: int
    reference: Record  # of another length if there is one
    exact: Record | None  # of the same length


def held(section: Section, records: Iterable[Record]) -> list[tuple[Entry, Efficiency]]:
    """The rows that are ranked, at the lengths where any were in a race with exact attention.

    Args:
        section: the rows; they are held against nothing unless their suite has a reference.
        records: every measurement, for a race may not be the last that happened to a row.
    """
    if section.suite is None or section.suite.reference is None:
        return []
    timed: dict[str, list[Record]] = {}
    for record in records:
        measurement = record.measurement
        if measurement.race and measurement.status == Status.OK and record.environment == section.environment:
            timed.setdefault(measurement.race, []).append(record)
    races = {name: race for name, members in timed.items() if (race := _race(members))}
    raced: dict[tuple[object, ...], list[tuple[Record, _Race]]] = {}
    for name, race in races.items():
        for record in timed[name]:
            if record.problem.kv_len == race.seq_len:
                raced.setdefault(_row(record), []).append((record, race))
    found, lengths = [], {race.seq_len for race in races.values()}
    for entry in section.entries:
        if entry.ranked_ms is not None and entry.row.seq_len in lengths:
            beside = _efficiency(section, entry, raced.get(_row(entry.record), []))
            found.append((entry, replace(beside, chosen=_chosen(section.suite, entry))))
    return found


def flat_rows(source: Source) -> tuple[list[str], list[dict[str, Any]]]:
    """The names and values that formats without sections show of every row."""
    names = [field.name for field in fields(Row)]
    if source.suite is None or source.suite.reference is None:
        return names, [asdict(row) for row in rows(source)]
    known = {entry.record.id: found for section in sections(source) for entry, found in held(section, source.records)}
    names += [field.name for field in fields(Efficiency)]
    return names, [asdict(each.row) | asdict(known.get(each.record.id, Efficiency())) for each in entries(source)]


def _race(members: list[Record]) -> _Race | None:
    """What was raced; None unless sparse rows of one length were, beside exact attention."""
    lengths = {record.problem.kv_len for record in members if not isinstance(record.pattern, Dense)}
    dense = [record for record in members if isinstance(record.pattern, Dense)]
    if len(lengths) != 1 or not dense:
        return None
    (seq_len,) = lengths
    exact = next((record for record in dense if record.problem.kv_len == seq_len), None)
    return _Race(seq_len, next((record for record in dense if record is not exact), dense[0]), exact)


def _row(record: Record) -> tuple[object, ...]:
    return record.problem, record.pattern, record.config


def _efficiency(section: Section, entry: Entry, raced: list[tuple[Record, _Race]]) -> Efficiency:
    """Of the latest race; one whose reference is of another length goes before one in which there is none."""
    if not raced:
        exact = section.fastest_dense.get(entry.row.seq_len)
        if exact is None or exact is entry:
            return Efficiency()
        faster = section.speed_up(entry)
        return Efficiency(exact_ms=exact.ranked_ms, exact_basis="another time", times_faster=faster)
    record, race = max(raced, key=lambda pair: (pair[1].reference is not pair[1].exact, pair[0].created_at, pair[0].id))
    shares = [
        _rate(record, ms) / _rate(race.reference, dense_ms)
        for ms, dense_ms in zip(record.measurement.times_ms, race.reference.measurement.times_ms, strict=False)
    ]
    exact_ms, basis = _exact(section, race, record)
    raced_ms, dense_rate = _median(record), _rate(race.reference, _median(race.reference))
    return Efficiency(
        raced_ms=raced_ms,
        raced_tflops=_rate(record, raced_ms) / 1e9,
        rounds=len(shares),
        dense_len=race.reference.problem.kv_len,
        dense_tflops=dense_rate / 1e9,
        dense_share=_rate(record, raced_ms) / dense_rate,
        dense_share_min=min(shares),
        dense_share_max=max(shares),
        exact_ms=exact_ms,
        exact_basis=basis,
        times_faster=exact_ms / raced_ms,
    )


def _exact(section: Section, race: _Race, record: Record) -> tuple[float, Basis]:
    """Milliseconds of exact attention at the length of a race: of the race itself, as measured apart, or by FLOPs."""
    if race.exact is not None:
        return _median(race.exact), "same race"
    apart = section.fastest_dense.get(race.seq_len)
    if apart is not None and apart.ranked_ms is not None:
        return apart.ranked_ms, "another time"
    return Dense().flops(record.problem) / _rate(race.reference, _median(race.reference)), "predicted"


def _median(record: Record) -> float:
    return statistics.median(record.measurement.times_ms)


def _rate(record: Record, time_ms: float) -> float:
    """Operations of the function in a millisecond."""
    return record.pattern.flops(record.problem) / time_ms


def _chosen(suite: Suite, entry: Entry) -> bool:
    problem, pattern = entry.record.problem, entry.record.pattern
    return any(
        each.config(problem, pattern) == entry.record.config for each in suite.implementations if each.name == TUNED
    )
