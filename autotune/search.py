"""The Optuna search over one cell's configurations."""

import hashlib
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Literal

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import Trial, TrialState

from autotune.db.errors import StoreError
from autotune.db.failures import damaged_row, one_line_errors
from autotune.db.records import Measurement, Status
from autotune.db.store import Store
from autotune.strategies.config import Config, Value
from autotune.strategies.space import Space

Sampler = Literal["tpe", "random"]

STARTUP = 8  # configurations that TPE is not asked for, but told of
REPEATS = 5  # a sampler that asks for the same configurations so often again has nothing new to say
LIKE = 1.25  # expected times within this factor are alike


def open_storage(store: Store) -> BaseStorage:
    """Optuna's tables, in the same database as the measurements.

    Raises:
        StoreError: they were made by an Optuna whose tables look different.
    """
    sqlite = store.connection_url.startswith("sqlite")
    options = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
    with store.claim("the tables of studies", wait=True):  # two processes that create them fail
        try:
            return RDBStorage(store.connection_url, engine_kwargs=options)
        except RuntimeError as error:  # says which versions, and how to bring one of them up to date
            raise StoreError(f"database {store.name} holds studies that cannot be used: {error}") from error


@contextmanager
def storage_errors(store: Store) -> Iterator[None]:
    """Optuna wraps what the database's driver says; the user gets the one line that the store would give.

    Raises:
        StoreError: the database failed.
    """
    with one_line_errors(store.name):
        try:
            yield
        except StorageInternalError as error:
            raise error.__cause__ or error from None
        except JSONDecodeError as error:  # of a study: the store reads its own rows
            raise damaged_row(store.name, error) from error


@dataclass(frozen=True, slots=True)
class Ask:
    """A configuration the search wants measured."""

    trial: Trial
    config: Config


class Search:
    """Proposes configurations, each once.

    First come the default, what is known to be fast in like cells and the default of every other strategy, filled up
    with what is expected to be fast; from then on a tree-structured Parzen estimator is asked (multivariate, so that
    it learns which values go together).

    Args:
        storage: where the study lives.
        name: of the study; the space's shape is added, for a study cannot change it.
        spaces: the strategies' spaces, in order of preference.
        known: measurements of configurations that need not be asked for again.
        memory_limit_bytes: a peak above this is infeasible.
        first: configurations to try right after the default.
        expected_ms: of a configuration; what is alike comes in random order.
        sampler: ``random`` is blind chance, to compare with.
        seed: of the sampler.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        spaces: Mapping[str, Space],
        known: Mapping[Config, Measurement],
        memory_limit_bytes: int,
        *,
        first: Sequence[Config] = (),
        expected_ms: Callable[[Config], float] = lambda config: 1.0,
        sampler: Sampler = "tpe",
        seed: int = 0,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._spaces = spaces
        self._known = dict(known)
        self._limit = memory_limit_bytes
        self._repeats = REPEATS if sampler == "tpe" else 0
        self._order = [config for space in spaces.values() for config in space]
        random.Random(seed).shuffle(self._order)
        if sampler == "tpe":
            self._order.sort(key=lambda config: round(math.log(max(expected_ms(config), 1e-6), LIKE)))
        shape = hashlib.sha256(repr([(n, s.choices) for n, s in spaces.items()]).encode()).hexdigest()[:8]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # multivariate, group: stable since 2020
            tpe = TPESampler(multivariate=True, group=True, n_startup_trials=STARTUP, seed=seed)
        self._study = optuna.create_study(
            storage=storage, sampler=tpe, study_name=f"{name[:480]} [{shape}]", load_if_exists=True
        )
        for config in (*(self._opening(first) if sampler == "tpe" else ()), *self._not_in_study()):
            self._enqueue(config)

    @property
    def size(self) -> int:
        """Configurations there are."""
        return len(self._order)

    @property
    def answered(self) -> int:
        """How many of them need not be asked for any more."""
        return len(self._known)

    def asks(self) -> Iterator[Ask]:
        """Configurations not measured yet, until there are none; answer each with `tell`."""
        repeats = 0
        while remaining := self._remaining():
            if repeats >= self._repeats:
                self._enqueue(remaining[0])
            trial = self._study.ask()
            config = self._suggest(trial)
            if config is None:
                self._study.tell(trial, state=TrialState.FAIL)
                repeats += 1
            elif config in self._known:
                self._answer(trial, self._known[config])
                repeats += 1
            else:
                repeats = 0
                yield Ask(trial, config)

    def tell(self, ask: Ask, measurement: Measurement) -> None:
        """Report what came of a configuration."""
        self._known[ask.config] = measurement
        self._answer(ask.trial, measurement)

    def _opening(self, first: Sequence[Config]) -> list[Config]:
        """What is tried before the sampler is asked, as far as it is not known."""
        defaults = [space.default for space in self._spaces.values()]
        plan = list(dict.fromkeys([*defaults[:1], *first, *defaults, *self._order]))
        certain = len({*first, *defaults})
        return [config for config in plan[: max(STARTUP, certain)] if config not in self._known]

    def _answer(self, trial: Trial, measurement: Measurement) -> None:
        time_ms = measurement.time_ms
        if measurement.status is Status.OK and time_ms is not None:
            trial.set_constraint("memory", (measurement.peak_memory_bytes or 0) / self._limit - 1.0)
            self._study.tell(trial, math.log(max(time_ms, 1e-6)))
        else:
            # Pruned and infeasible: a failed trial would teach the sampler nothing.
            trial.set_constraint("memory", 1.0)
            self._study.tell(trial, state=TrialState.PRUNED)

    def _suggest(self, trial: Trial) -> Config | None:
        name = str(trial.suggest_categorical("strategy", list(self._spaces)))

        def pick(choice: str, values: tuple[Value, ...]) -> Value:
            value: Value = trial.suggest_categorical(f"{name}.{choice}", values)  # type: ignore[assignment]
            return value

        config = self._spaces[name].choose(pick)
        if config is not None:
            trial.set_user_attr("config", config.text)
        return config

    def _enqueue(self, config: Config) -> None:
        params = {f"{config.strategy}.{name}": value for name, value in config.params}
        self._study.enqueue_trial({"strategy": config.strategy, **params}, skip_if_exists=False)

    def _remaining(self) -> list[Config]:
        return [config for config in self._order if config not in self._known]

    def _not_in_study(self) -> list[Config]:
        """Known configurations that this study has not seen: imported, or measured just before a kill."""
        finished = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        seen = {trial.user_attrs.get("config") for trial in finished}
        return [config for config in self._known if config.text not in seen and config.strategy in self._spaces]
