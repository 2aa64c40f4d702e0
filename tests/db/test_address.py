from pathlib import Path

import pytest

from autotune.db.address import Address
from autotune.db.errors import StoreError


@pytest.mark.parametrize("given", ["t.db", Path("t.db"), "sqlite:///t.db"])
def test_files_are_absolute_so_that_chdir_does_not_move_them(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    address = Address.parse(given)
    assert address.file == tmp_path / "t.db"
    assert address.url.database == str(tmp_path / "t.db")


def test_the_home_folder_is_understood(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Address.parse("~/t.db").file == tmp_path / "t.db"


def test_an_unknown_home_folder_is_refused():
    with pytest.raises(StoreError, match=r"database ~no-such-user/t\.db names no home folder"):
        Address.parse("~no-such-user/t.db")


@pytest.mark.parametrize("given", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:t.db?mode=ro&uri=true"])
def test_memory_and_explicit_uris_have_no_file_of_their_own(given):
    assert Address.parse(given).file is None


def test_a_password_is_not_shown():
    address = Address.parse("postgresql+psycopg://tuner:secret@host/tunes")
    assert address.name == "postgresql+psycopg://tuner:***@host/tunes"


def test_a_malformed_url_is_refused_without_repeating_its_password():
    with pytest.raises(StoreError, match=r"database URL postgresql://\.\.\. is malformed, but must read") as caught:
        Address.parse("postgresql://tuner:secret@host:port/tunes")
    assert "secret" not in str(caught.value)
