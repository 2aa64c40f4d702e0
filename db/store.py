"""The store: every measurement, decision and rate, each committed before the next begins."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from autotune.db import writing
from autotune.db.address import Address
from autotune.db.claims import StillHeld, claim, remove_abandoned
from autotune.db.engine import connect
from autotune.db.errors import StoreError
from autotune.db.failures import one_line_errors, readable_rows
from autotune.db.merging import Merged, merge
from autotune.db.queries import EnvironmentFilter, Filter, read_choices, read_rates, read_records, read_results
from autotune.db.records import Choice, Environment, Measurement, Rate, Record, Results
from autotune.db.schema import require_current, upgrade
from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem

LOCK_TIMEOUT_S = 30.0


class Store:
    """An open database. Every method may raise `StoreError`, in one line that says what to do.

    Several stores, in several processes, may have the same database open; nothing is cached between calls.
    """

    def __init__(self, address: Address, engine: Engine) -> None:
        self._address = address
        self._engine = engine
        self._claims: list[StillHeld] = []

    @classmethod
    def open(
        cls, url_or_path: str | Path, *, read_only: bool = False, lock_timeout_s: float = LOCK_TIMEOUT_S
    ) -> "Store":
        """Open a database and bring its schema up to date; a new file is created, with its folders.

        An up-to-date database is not written to by opening it.

        Args:
            url_or_path: a path, or a SQLAlchemy URL.
            read_only: open what exists, and leave it as it is; a file that cannot be written will do.
            lock_timeout_s: how long to wait for another process that has a SQLite file locked.

        Raises:
            StoreNotFoundError: ``read_only``, and there is no database, or an empty one.
            StoreError: it cannot be opened, is foreign or damaged, or has a newer schema.
        """
        address = Address.parse(url_or_path)
        engine = connect(address, read_only=read_only, lock_timeout_s=lock_timeout_s)
        with ExitStack() as on_failure, one_line_errors(address.name):
            on_failure.callback(engine.dispose)
            if read_only:
                require_current(engine, address)
            else:
                upgrade(engine, address, lock_timeout_s)
                remove_abandoned(address)
            on_failure.pop_all()
        return cls(address, engine)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The database as messages call it: its path, or its URL with the password hidden."""
        return self._address.name

    @property
    def connection_url(self) -> str:
        """The SQLAlchemy URL with its password, for another library to connect to; not for printing."""
        return self._address.url.render_as_string(hide_password=False)

    @contextmanager
    def claim(self, name: str, *, wait: bool = False) -> Iterator[bool]:
        """Whether the caller has ``name`` to itself while the block lasts, among all who have this database open.

        A claim ends with the process that holds it, too. With ``wait`` the block begins when it is the caller's.
        """
        with ExitStack() as held:
            with one_line_errors(self.name):
                still_held = held.enter_context(claim(self._engine, self._address, name, wait=wait))
            if still_held is not None:
                self._claims.append(still_held)
                held.callback(self._claims.remove, still_held)
            yield still_held is not None

    def begin_run(self, command: str) -> int:
        """Note that an invocation begins; the id goes with its measurements."""
        with self._session() as session:
            return writing.insert_run(session, command)

    def add(
        self,
        run_id: int,
        environment: Environment,
        problem: Problem,
        pattern: Pattern,
        config: Config,
        measurement: Measurement,
    ) -> int:
        """Store a measurement, committed on return, and return its id."""
        with self._session() as session:
            cell = writing.identify_cell(session, environment, problem, pattern, config)
            return writing.insert_measurement(session, run_id, cell, measurement)

    def decide(
        self,
        environment: Environment,
        problem: Problem,
        pattern: Pattern,
        config: Config,
        measurement_id: int,
        margin: float | None,
        candidates: int,
    ) -> None:
        """Store what a search settled on for a cell; earlier decisions stay, and the latest counts.

        Raises:
            StoreError: a claim was lost meanwhile, so that another process may have searched the cell, too.
        """
        self._require_claims()
        with self._session() as session:
            cell = writing.identify_cell(session, environment, problem, pattern, config)
            writing.insert_decision(session, cell, measurement_id, margin, candidates)

    def add_race(
        self,
        run_id: int,
        environment: Environment,
        problem: Problem,
        pattern: Pattern,
        raced: Mapping[Config, Measurement],
        winner: Config | None,
        margin: float | None,
        candidates: int,
    ) -> dict[Config, int]:
        """Store the measurements of a race and what it decided, all or nothing, and return the ids of the former.

        Raises:
            StoreError: a claim was lost meanwhile, so that another process may have searched the cell, too.
        """
        self._require_claims()
        with self._session() as session:
            cells = {config: writing.identify_cell(session, environment, problem, pattern, config) for config in raced}
            return writing.insert_race(session, run_id, cells, raced, winner, margin, candidates)

    def add_rate(
        self,
        run_id: int,
        environment: Environment,
        dtype: str,
        matmul_flops_per_s: float,
        copy_bytes_per_s: float,
    ) -> int:
        """Store what a device reached in plain operations, committed on return, and return its id."""
        with self._session() as session:
            identified = writing.identify_environment(session, environment)
            return writing.insert_rate(session, run_id, identified, dtype, matmul_flops_per_s, copy_bytes_per_s)

    def records(
        self,
        *,
        environment_fingerprint: str | None = None,
        device: str | None = None,
        problem: Problem | None = None,
        pattern: Pattern | None = None,
    ) -> list[Record]:
        """Stored measurements, oldest first; each argument narrows them."""
        wanted = Filter(
            environment_fingerprint=environment_fingerprint, device=device, problem=problem, pattern=pattern
        )
        with self._reading() as session:
            return read_records(session, wanted)

    def choices(
        self,
        *,
        environment_fingerprint: str | None = None,
        device: str | None = None,
        problem: Problem | None = None,
        pattern: Pattern | None = None,
    ) -> list[Choice]:
        """The latest decision for each cell, oldest first; each argument narrows them."""
        wanted = Filter(
            environment_fingerprint=environment_fingerprint, device=device, problem=problem, pattern=pattern
        )
        with self._reading() as session:
            return read_choices(session, wanted)

    def rates(self, *, environment_fingerprint: str | None = None, device: str | None = None) -> list[Rate]:
        """Stored rates, oldest first; each argument narrows them."""
        wanted = EnvironmentFilter(environment_fingerprint=environment_fingerprint, device=device)
        with self._reading() as session:
            return read_rates(session, wanted)

    def results(self, *, device: str | None = None, device_name: str | None = None) -> Results:
        """Everything that is stored, or what was taken on one type of device or one device by name."""
        with self._reading() as session:
            return read_results(session, Filter(device=device, device_name=device_name))

    def merge(self, results: Results) -> Merged:
        """Add what is not here yet, all of it or nothing.

        Raises:
            StoreError: a measurement or rate is here under the same uid with another content.
        """
        with self._session() as session, readable_rows(self.name):
            merged = merge(session, results)
            session.commit()
            return merged

    def _require_claims(self) -> None:
        if not all(still_held() for still_held in self._claims):
            raise StoreError(
                f"database {self.name} was out of reach for a moment, so that another process may search the same; "
                "all measurements are stored, run the same command again"
            )

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        with self._session() as session, readable_rows(self.name):
            yield session

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with one_line_errors(self.name), Session(self._engine, expire_on_commit=False) as session:
            yield session
