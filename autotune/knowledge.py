"""What the default database knows of a device, read once; nothing that is wrong with it stops a call."""

import warnings
from collections.abc import Sequence
from dataclasses import fields

import torch

from autotune.db.errors import StoreError, StoreNotFoundError
from autotune.db.location import default_database
from autotune.db.records import Environment, Record
from autotune.db.store import Store
from autotune.environment import environment_of
from autotune.selector import Selector


class AutotuneWarning(UserWarning):
    """Attention runs and is right, but not by measurements of this device."""


def read_selector(device: torch.device) -> Selector:
    """The table of what is known of a device; empty, with a warning, where the database cannot serve."""
    here, database = environment_of(device), default_database()
    try:
        with Store.open(database, read_only=True) as store:
            records, choices = store.records(device=device.type), store.choices(device=device.type)
    except StoreNotFoundError:
        _warn(f"no database at {database}: nothing is tuned, defaults run; run `autotune tune`")
        return Selector(here, ())
    except StoreError as error:
        _warn(f"{error}; until then defaults run, and what is tuned is not used")
        return Selector(here, ())
    if not any(record.environment.fingerprint == here.fingerprint for record in records):
        _warn(f"{database} has no measurement of this device and software{_nearest(records, here)}: defaults run")
    return Selector(here, records, choices)


def _nearest(records: Sequence[Record], here: Environment) -> str:
    """What differs in the environment that is most like this one."""
    differences = [
        [
            f"{field.name} {getattr(record.environment, field.name)!r}, here {getattr(here, field.name)!r}"
            for field in fields(Environment)
            if getattr(record.environment, field.name) != getattr(here, field.name)
        ]
        for record in records
    ]
    return f" (the nearest has {'; '.join(min(differences, key=len))})" if differences else ""


def _warn(message: str) -> None:
    warnings.warn(f"autotune: {message}", AutotuneWarning, stacklevel=2)
