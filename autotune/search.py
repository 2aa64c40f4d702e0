"""The Optuna search over one cell's configurations."""

import hashlib
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Literal, NamedTuple

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import Trial, TrialState, create_trial

from autotune.db.errors import StoreError
from autotune.db.failures import damaged_row, one_line_errors
from autotune.db.records import Measurement, Status
from autotune.db.store import Store
from autotune.strategies.config import Config, Value
from autotune.strategies.space import Space

Sampler = Literal["tpe", "random"]

STARTUP = 8  # configurations that TPE is not asked for, but told of
METRIC = "log ms"  # what a study minimises
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


class _Answer(NamedTuple):
    """A measurement in a study's terms."""

    state: TrialState
    value: float | None
    violation: float  # of the memory limit, as a share of it
    attributes: Mapping[str, str]

    @classmethod
    def of(cls, measurement: Measurement, memory_limit_bytes: int) -> "_Answer":
        """What failed is pruned and infeasible: a failed trial would teach the sampler nothing."""
        time_ms, status = measurement.time_ms, measurement.status
        if status is Status.OK and time_ms is not None:
            violation = (measurement.peak_memory_bytes or 0) / memory_limit_bytes - 1.0
            return cls(TrialState.COMPLETE, math.log(max(time_ms, 1e-6)), violation, {})
        return cls(TrialState.PRUNED, None, 1.0, {"reason": f"{status}: {measurement.reason}"})


class Search:
    """Proposes configurations, each once.

    First come the default, what is known to be fast in like cells and the default of every other strategy, filled up
    with what is expected to be fast; from then on a tree-structured Parzen estimator is asked (multivariate, so that
    it learns which values go together).

    A study has one search at a time; what an earlier one left open is over when the next begins.

    Args:
        storage: where the study lives.
        name: of the study; the space's shape is added, for a study cannot change it.
        spaces: the strategies' spaces, in order of preference.
        known: measurements of configurations that need not be asked for again; those outside the spaces do not count.
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
        self._limit = memory_limit_bytes
        self._repeats = REPEATS if sampler == "tpe" else 0
        self._order = [config for space in spaces.values() for config in space]
        self._known = {config: known[config] for config in self._order if config in known}
        random.Random(seed).shuffle(self._order)
        if sampler == "tpe":
            self._order.sort(key=lambda config: round(math.log(max(expected_ms(config), 1e-6), LIKE)))
        shape = hashlib.sha256(repr([(n, s.choices) for n, s in spaces.items()]).encode()).hexdigest()[:8]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # multivariate, group, names: stable for years
            tpe = TPESampler(multivariate=True, group=True, n_startup_trials=STARTUP, seed=seed)
            self._study = optuna.create_study(
                storage=storage, sampler=tpe, study_name=f"{name[:480]} [{shape}]", load_if_exists=True
            )
            self._study.set_metric_names([METRIC])
        self._plan = self._opening(first) if sampler == "tpe" else []
        self._close_open_trials(storage)
        self._tell_what_is_known()

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
            if self._plan:
                self._enqueue(self._plan.pop(0))
            elif repeats >= self._repeats:
                self._enqueue(remaining[0])
            trial = self._study.ask()
            config = self._suggest(trial)
            if config is None:
                trial.set_user_attr("reason", "no such configuration")
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
        answer = _Answer.of(measurement, self._limit)
        with suppress(UpdateFinishedTrialError):  # without claims, another search has closed it
            trial.set_constraint("memory", answer.violation)
            for name, value in answer.attributes.items():
                trial.set_user_attr(name, value)
            self._study.tell(trial, answer.value, state=answer.state)

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
        self._study.enqueue_trial(_params(config), skip_if_exists=False)

    def _remaining(self) -> list[Config]:
        return [config for config in self._order if config not in self._known]

    def _close_open_trials(self, storage: BaseStorage) -> None:
        """A search that was ended leaves the trial it was at, which would seem to run for ever."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
            storage.set_trial_user_attr(trial._trial_id, "reason", "the search that asked for it was ended")
            storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def _tell_what_is_known(self) -> None:
        """Measurements that this study has not seen: imported, or taken just before a kill."""
        finished = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        seen = {trial.user_attrs.get("config") for trial in finished}
        choices = {f"{name}.{each.name}": each.values for name, space in self._spaces.items() for each in space.choices}
        choices["strategy"] = tuple(self._spaces)
        for config in (config for config in self._known if config.text not in seen):
            answer, params = _Answer.of(self._known[config], self._limit), _params(config)
            self._study.add_trial(
                create_trial(
                    state=answer.state,
                    value=answer.value,
                    params=params,
                    distributions={name: CategoricalDistribution(choices[name]) for name in params},
                    user_attrs={"config": config.text, **answer.attributes},
                    constraints={"memory": answer.violation},
                )
            )


def _params(config: Config) -> dict[str, Value]:
    """A configuration in a study's terms."""
    return {"strategy": config.strategy, **{f"{config.strategy}.{name}": value for name, value in config.params}}
