"""Which database is meant when the caller names none."""

import os
from pathlib import Path

import platformdirs


def default_database() -> Path | str:
    """The value of ``AUTOTUNE_DB`` (a path or a URL) where it is set, else one file in the user's data folder."""
    return os.environ.get("AUTOTUNE_DB") or platformdirs.user_data_path("autotune", appauthor=False) / "autotune.db"
