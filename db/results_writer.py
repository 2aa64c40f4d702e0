"""Results as JSON text: versioned, one fact a line, in an order that every copy of a database shares.

What many facts have in common is written once and referred to: an environment by its fingerprint, a problem by its
key, a run, a pattern and a configuration by the hash of their content. Who changes what is written raises `VERSION`.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from autotune.db.records import Choice, Environment, Rate, Record, Results, Run
from autotune.db.rows import rate_values
from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem

FORMAT = "autotune results"
VERSION = 1

# A part of a fact that others share; each kind has a section of its own, named after the field that refers to it.
Shared = Environment | Run | Problem | Pattern | Config
SHARED = ("environment", "run", "problem", "pattern", "config")

Fact = Record | Choice | Rate
Entry = dict[str, Any]


def results_text(results: Results) -> str:
    """Everything in the results but the ids of one database."""
    uids = {record.id: record.uid for record in results.records}
    facts: list[Fact] = [*results.records, *results.choices, *results.rates]
    sections: dict[str, Mapping[str, Entry] | list[Entry]] = {
        f"{name}s": {reference(shared): _shared_entry(shared) for shared in _distinct(facts, name)} for name in SHARED
    }
    sections["measurements"] = [
        {**_references(record), "uid": record.uid, **asdict(record.measurement)}
        for record in sorted(results.records, key=lambda record: (record.created_at, record.uid))
    ]
    sections["decisions"] = [
        {
            **_references(choice),
            "measurement": uids[choice.measurement_id],
            "margin": choice.margin,
            "candidates": choice.candidates,
        }
        for choice in sorted(results.choices, key=lambda choice: (choice.created_at, uids[choice.measurement_id]))
    ]
    sections["rates"] = [
        {**_references(rate), **rate_values(rate)}
        for rate in sorted(results.rates, key=lambda rate: (rate.created_at, rate.uid))
    ]
    head = f'{{\n  "format": {json.dumps(FORMAT)},\n  "version": {VERSION}'
    return ",\n".join([head, *(_section(name, entries) for name, entries in sections.items())]) + "\n}\n"


def reference(shared: Shared) -> str:
    """What facts call the part that they share with others."""
    match shared:
        case Environment():
            return shared.fingerprint
        case Problem():
            return shared.key
        case Config():
            return shared.id
        case Pattern():
            return _digest(shared.key)
        case Run():
            return _digest(f"{shared.started_at.isoformat()} {shared.command}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _shared_entry(shared: Shared) -> Entry:
    match shared:
        case Pattern():
            return dict(json.loads(shared.key))
        case Config():
            return {"strategy": shared.strategy, "params": dict(shared.params)}
        case Problem(kv_home="device"):  # as it was written before there was another home
            return {name: value for name, value in asdict(shared).items() if name != "kv_home"}
        case _:
            return asdict(shared)


def _distinct(facts: Iterable[Fact], name: str) -> set[Shared]:
    return {getattr(fact, name) for fact in facts if hasattr(fact, name)}


def _references(fact: Fact) -> Entry:
    """When it was stored, and the names of what it shares."""
    shared = {name: reference(getattr(fact, name)) for name in SHARED if hasattr(fact, name)}
    return {"created_at": fact.created_at, **shared}


def _section(name: str, entries: Mapping[str, Entry] | list[Entry]) -> str:
    if isinstance(entries, list):
        lines, ends = [_line(entry) for entry in entries], "[]"
    else:
        lines, ends = [f"{json.dumps(key)}: {_line(entry)}" for key, entry in sorted(entries.items())], "{}"
    body = ",\n    ".join(lines)
    return f'  "{name}": {ends[0]}\n    {body}\n  {ends[1]}' if lines else f'  "{name}": {ends}'


def _line(entry: Entry) -> str:
    known = {name: _plain(value) for name, value in entry.items() if value is not None}
    return json.dumps(known, allow_nan=False)


def _plain(value: Any) -> Any:
    """The value as JSON has it: moments as text, and infinity too, for which JSON has no number."""
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
