"""Results that come with the package, for devices whose user has none of their own."""

import re
from importlib.resources import files
from importlib.resources.abc import Traversable

from autotune.db.records import Record
from autotune.db.results_reader import results_of

FOLDER: Traversable = files("autotune.db") / "shipped"


def shipped_records(device_name: str) -> list[Record]:
    """What was measured on a device of exactly this name, oldest first; nothing if none is shipped.

    Raises:
        StoreError: the file is damaged, or of a newer format.
    """
    file = FOLDER / shipped_file_name(device_name)
    if not file.is_file():
        return []
    results = results_of(file.read_text(encoding="utf-8"), str(file))
    return [record for record in results.records if record.environment.device_name == device_name]


def shipped_file_name(device_name: str) -> str:
    """The file that results of a device are in.

    >>> shipped_file_name("NVIDIA H100 80GB HBM3")
    'nvidia-h100-80gb-hbm3.json'
    """
    return re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-") + ".json"
