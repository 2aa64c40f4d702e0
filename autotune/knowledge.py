"""What the default database knows of a device, read once; nothing that is wrong with it stops a call."""

import warnings
from collections.abc import Sequence

import torch

from autotune.db.errors import StoreError, StoreNotFoundError
from autotune.db.location import default_database
from autotune.db.records import Environment, Record
from autotune.db.shipped import shipped_records
from autotune.db.store import Store
from autotune.environment import environment_of
from autotune.selector import Selector


class AutotuneWarning(UserWarning):
    """Attention runs and is right, but not by measurements of this device."""


def read_selector(device: torch.device) -> Selector:
    """The table of what is known of a device; with a warning where the default database cannot serve."""
    here, database = environment_of(device), default_database()
    shipped = _shipped(here)
    instead = "what was shipped for this device is used" if shipped else "defaults run"
    try:
        with Store.open(database, read_only=True) as store:
            records, choices = store.records(device=device.type), store.choices(device=device.type)
    except StoreNotFoundError:
        _warn(f"no database at {database}: nothing is tuned, {instead}; run `autotune tune`")
        return Selector(here, (), shipped=shipped)
    except StoreError as error:
        _warn(f"{error}; until then {instead}, and what is tuned is not used")
        return Selector(here, (), shipped=shipped)
    if not any(record.environment == here for record in records):
        if any(record.environment.is_same_device(here) for record in records):
            instead = "those of other software are used, unverified; run `autotune tune --reverify`"
        _warn(f"{database} has no measurement of this device and software{_nearest(records, here)}: {instead}")
    return Selector(here, records, choices, shipped)


def stored_selector(store: Store, device: torch.device) -> Selector:
    """The table of what a database and the package know of a device.

    Raises:
        StoreError: either cannot be read.
    """
    here = environment_of(device)
    records, choices = store.records(device=device.type), store.choices(device=device.type)
    return Selector(here, records, choices, shipped_records(here.device_name))


def _shipped(here: Environment) -> list[Record]:
    """What comes with the package for a device; nothing, with a warning, if it is damaged."""
    try:
        return shipped_records(here.device_name)
    except StoreError as error:
        _warn(str(error))
        return []


def _nearest(records: Sequence[Record], here: Environment) -> str:
    """What differs in the environment that is most like this one."""
    differences = [record.environment.differences(here) for record in records]
    return f" (the nearest has {min(differences, key=lambda text: text.count(';'))})" if differences else ""


def _warn(message: str) -> None:
    warnings.warn(f"autotune: {message}", AutotuneWarning, stacklevel=2)
