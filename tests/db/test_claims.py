"""Claims on a file: nothing of them stays, whatever becomes of their holders."""

import os
import signal

from autotune.db.store import Store


def files(path):
    return sorted(entry.name for entry in path.parent.iterdir())


def test_the_file_of_a_killed_holder_goes_when_the_database_is_opened_again(path, in_processes):
    Store.open(path).close()
    stranger = path.with_name(f"other-{path.name}-claim-0")
    stranger.touch()

    def claim_and_die(_):
        with Store.open(path) as store, store.claim("cell"):
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_processes(claim_and_die) == [-signal.SIGKILL]
    assert len(files(path)) > 2
    with Store.open(path, read_only=True):
        assert len(files(path)) > 2  # who only reads changes nothing
    with Store.open(path):
        assert sorted({*files(path)} - {f"{path.name}-wal", f"{path.name}-shm"}) == [path.name, stranger.name]


def test_the_file_of_a_living_holder_stays(path):
    with Store.open(path) as store, store.claim("cell") as ours:
        assert ours
        with Store.open(path) as other, other.claim("cell") as theirs:
            assert not theirs


def test_a_file_that_cannot_be_removed_is_no_claim(shared_folder, request):
    path = shared_folder / "t.db"
    with Store.open(path) as store:
        with store.claim("cell") as ours:
            assert ours
            request.getfixturevalue("unprivileged")
        assert any("-claim-" in name for name in files(path))
