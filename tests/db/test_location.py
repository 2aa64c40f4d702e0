import subprocess
import sys

from autotune.db.location import default_database


def test_the_environment_variable_wins(monkeypatch):
    monkeypatch.setenv("AUTOTUNE_DB", "postgresql+psycopg://host/tunes")
    assert default_database() == "postgresql+psycopg://host/tunes"


def test_the_default_is_one_file_in_the_users_data_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("AUTOTUNE_DB", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    path = default_database()
    assert path.parts[-2:] == ("autotune", "autotune.db")


def test_an_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("AUTOTUNE_DB", "")
    assert default_database().name == "autotune.db"


def test_finding_it_needs_no_torch():
    program = "import sys, autotune.db.location; sys.exit('torch' in sys.modules or 'sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
