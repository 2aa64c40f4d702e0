"""What the default database knows of a device, read once; nothing that is wrong with it stops a call."""

import inspect
import warnings
from collections.abc import Sequence
from types import FrameType

import torch

from autotune.db.errors import StoreError, StoreNotFoundError
from autotune.db.location import default_database
from autotune.db.records import Environment, Record
from autotune.db.shipped import shipped_records
from autotune.db.store import Store
from autotune.environment import environment_of
from autotune.selector import Selector

# What can be wrong with the content of a database whose tables are as they should be.
DAMAGE = (ValueError, TypeError, LookupError, AttributeError)


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
        selector = Selector(here, records, choices, shipped)
    except StoreNotFoundError:
        _warn(f"no database at {database}: nothing is tuned, {instead}; run `autotune tune`")
        return Selector(here, (), shipped=shipped)
    except (StoreError, *DAMAGE) as error:
        _warn(f"{_damage(error)}; until then {instead}, and what is tuned is not used")
        return Selector(here, (), shipped=shipped)
    if not any(record.environment == here for record in records):
        if any(record.environment.is_same_device(here) for record in records):
            instead = "those of other software are used, unverified; run `autotune tune --reverify`"
        _warn(f"{database} has no measurement of this device and software{_nearest(records, here)}: {instead}")
    return selector


def stored_selector(store: Store, device: torch.device) -> Selector:
    """The table of what a database and the package know of a device.

    Raises:
        StoreError: either cannot be read.
    """
    here = environment_of(device)
    records, choices = store.records(device=device.type), store.choices(device=device.type)
    return Selector(here, records, choices, shipped_records(here.device_name))


def untuned_selector(device: torch.device) -> Selector:
    """The table of what the package alone knows of a device.

    Raises:
        StoreError: it cannot be read.
    """
    here = environment_of(device)
    return Selector(here, (), shipped=shipped_records(here.device_name))


def _shipped(here: Environment) -> list[Record]:
    """What comes with the package for a device; nothing, with a warning, if it is damaged."""
    try:
        return shipped_records(here.device_name)
    except StoreError as error:
        _warn(str(error))
        return []


def _damage(error: Exception) -> str:
    """What is wrong with a database, in one line."""
    if isinstance(error, StoreError):
        return str(error)
    what = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return f"the database holds a row that makes no sense ({what}); restore a copy, or name another one by AUTOTUNE_DB"


def _nearest(records: Sequence[Record], here: Environment) -> str:
    """What differs in the environment that is most like this one."""
    differences = [record.environment.differences(here) for record in records]
    return f" (the nearest has {min(differences, key=lambda text: text.count(';'))})" if differences else ""


def _warn(message: str) -> None:
    """Warn in the name of the line that calls autotune, however deep in it or in torch this is."""
    frame: FrameType | None = inspect.currentframe()
    level = 0
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("autotune", "torch"):
        frame, level = frame.f_back, level + 1
    warnings.warn(f"autotune: {message}", AutotuneWarning, stacklevel=level + 1)
