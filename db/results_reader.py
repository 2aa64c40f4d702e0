"""Results from the JSON text that `autotune.db.results_writer` made; whatever is not exactly that is refused."""

import json
import re
from pathlib import Path
from typing import Any, NoReturn

from autotune.db.errors import StoreError
from autotune.db.json_fields import fact, moment, number, optional, text, whole
from autotune.db.records import Choice, Environment, Measurement, Rate, Record, Results, Run
from autotune.db.results_writer import FORMAT, SHARED, VERSION, Entry, Shared, reference
from autotune.strategies.config import Config
from autotune.strategies.patterns import pattern_from_key
from autotune.strategies.problem import Problem

COMMON = ("uid", "created_at", *SHARED)


def read_results_file(path: Path) -> Results:
    """The results in a file.

    Raises:
        StoreError: it cannot be read, is no results file, is damaged, or of a newer format.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise StoreError(f"results file {path} cannot be read: {error.strerror}; name another file") from error
    except UnicodeDecodeError as error:
        raise StoreError(f"{path} is not a results file of `autotune export`, but no text at all") from error
    return results_of(text, str(path))


def results_of(text: str, name: str) -> Results:
    """The results in a text; ids count from one. ``name`` is what messages call it.

    Raises:
        StoreError: it is none of ours, damaged, or of a newer format.
    """
    try:
        document = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"results file {name} is torn or no JSON ({error}); export it again") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise StoreError(f'{name} is not a results file of `autotune export`, which says "format": "{FORMAT}"')
    version = document.get("version")
    if isinstance(version, int) and version > VERSION:
        raise StoreError(
            f"results file {name} has format version {version}, newer than this autotune reads ({VERSION}); "
            "upgrade autotune"
        )
    try:
        return _results(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        detail = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise StoreError(f"results file {name} is damaged ({detail}); export it again") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _results(document: Entry) -> Results:
    shared = {name: _shared(name, document[f"{name}s"]) for name in SHARED}

    def common(entry: Entry, *left_out: str) -> dict[str, Any]:
        """The moment of a fact, and the parts that it refers to."""
        parts = {name: shared[name][entry[name]] for name in SHARED if name not in left_out}
        return {"created_at": moment(entry["created_at"]), **parts}

    records = [
        Record(id=position, uid=_uid(entry["uid"]), measurement=fact(Measurement, entry, *COMMON), **common(entry))
        for position, entry in enumerate(document["measurements"], start=1)
    ]
    ids = {record.uid: record.id for record in records}
    if len(ids) < len(records):
        raise ValueError("two measurements have the same uid")
    choices = [
        Choice(
            measurement_id=ids[entry["measurement"]],
            margin=optional(number)(entry.get("margin")),
            candidates=whole(entry["candidates"]),
            **common(entry, "run"),
        )
        for entry in document["decisions"]
    ]
    rates = [
        Rate(
            uid=_uid(entry["uid"]),
            dtype=text(entry["dtype"]),
            matmul_flops_per_s=number(entry["matmul_flops_per_s"]),
            copy_bytes_per_s=number(entry["copy_bytes_per_s"]),
            **common(entry, "problem", "pattern", "config"),
        )
        for entry in document["rates"]
    ]
    return Results(records=records, choices=choices, rates=rates)


def _shared(name: str, entries: dict[str, Entry]) -> dict[str, Shared]:
    """The parts of one kind by what facts call them, which their content must bear out."""
    found = {}
    for called, entry in entries.items():
        part = _part(name, entry)
        if reference(part) != called:
            raise ValueError(f"{name} {called} is not what its name says, but {reference(part)}")
        found[called] = part
    return found


def _part(name: str, entry: Entry) -> Shared:
    match name:
        case "environment":
            return fact(Environment, entry)
        case "run":
            return fact(Run, entry)
        case "problem":
            return fact(Problem, entry)
        case "pattern":
            return pattern_from_key(json.dumps(entry))
        case _:
            params = entry["params"]
            if not all(isinstance(value, str | int) for value in params.values()):
                raise ValueError(f"config has parameters {params}, but they must be text, numbers or true and false")
            return Config.of(text(entry["strategy"]), **params)


def _uid(value: Any) -> str:
    if not re.fullmatch("[0-9a-f]{32}", text(value)):
        raise ValueError(f"uid is {value!r}, but must be 32 hexadecimal digits")
    return str(value)
