"""The Optuna search over one cell's configurations."""

import hashlib
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from autotune.db.records import Measurement, Status
from autotune.strategies.config import Config, Value
from autotune.strategies.space import Space
from autotune.surrogate import Surrogate

Sampler = Literal["model", "random"]

STARTUP = 8  # configurations that are tried before the model is asked
METRIC = "log ms"  # what a study minimises
FAILED = math.log(2)  # what failed counts as so much slower than the slowest, that the model keeps away from its like
LIKE = 1.25  # expected times within this factor are alike


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
        """What failed is pruned and infeasible: trials fail that were never answered."""
        time_ms, status = measurement.time_ms, measurement.status
        if status is Status.OK and time_ms is not None:
            violation = ((measurement.peak_memory_bytes or 0) - memory_limit_bytes) / max(1, memory_limit_bytes)
            return cls(TrialState.COMPLETE, math.log(max(time_ms, 1e-6)), violation, {})
        return cls(TrialState.PRUNED, None, 1.0, {"reason": f"{status}: {measurement.reason}"})


class _Chosen(BaseSampler):
    """Optuna's side of it: a trial's parameters are those of a configuration that is chosen as a whole."""

    def __init__(self, distributions: Mapping[str, CategoricalDistribution], choose: Callable[[], Config]) -> None:
        self._distributions = distributions
        self._choose = choose

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters, for they are chosen together."""
        return dict(self._distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The configuration's, which has some of them."""
        return dict(_params(self._choose()))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Never called, for no parameter stands alone."""
        raise NotImplementedError


class Search:
    """Proposes configurations, each once.

    First come the default, what is known to be fast in like cells and the default of every other strategy, filled up
    with what is expected to be fast; from then on those that promise most by what has been measured (`Surrogate`).

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
        seed: of the random order.
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
        sampler: Sampler = "model",
        seed: int = 0,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._spaces = spaces
        self._limit = memory_limit_bytes
        self._order = [config for space in spaces.values() for config in space]
        self._known = {config: known[config] for config in self._order if config in known}
        random.Random(seed).shuffle(self._order)
        self._model: Surrogate | None = None
        self._plan: list[Config] = []
        if sampler == "model":
            self._order.sort(key=lambda config: round(math.log(max(expected_ms(config), 1e-6), LIKE)))
            self._model = Surrogate(self._order)
            self._plan = self._opening(first)
        choices = {f"{name}.{each.name}": each.values for name, space in spaces.items() for each in space.choices}
        choices["strategy"] = tuple(spaces)
        self._distributions = {name: CategoricalDistribution(values) for name, values in choices.items()}
        shape = hashlib.sha256(repr([(n, s.choices) for n, s in spaces.items()]).encode()).hexdigest()[:8]
        self._study = optuna.create_study(
            storage=storage,
            sampler=_Chosen(self._distributions, self._choose),
            study_name=f"{name[:480]} [{shape}]",
            load_if_exists=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # names of metrics have been stable for years
            self._study.set_metric_names([METRIC])
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
        """Configurations not measured yet, until there are none; answer each with `tell` before the next."""
        while self.answered < self.size:
            trial = self._study.ask()
            config = self._suggest(trial)
            trial.set_user_attr("config", config.text)
            yield Ask(trial, config)

    def tell(self, ask: Ask, measurement: Measurement) -> None:
        """Report what came of a configuration."""
        self._known[ask.config] = measurement
        self._answer(ask.trial, measurement)

    def _opening(self, first: Sequence[Config]) -> list[Config]:
        """What is tried before the model is asked, as far as it is not known."""
        defaults, able = [space.default for space in self._spaces.values()], set(self._order)
        certain = dict.fromkeys(config for config in (*defaults[:1], *first, *defaults) if config in able)
        plan = list(dict.fromkeys([*certain, *self._order]))
        return [config for config in plan[: max(STARTUP, len(certain))] if config not in self._known]

    def _answer(self, trial: Trial, measurement: Measurement) -> None:
        answer = _Answer.of(measurement, self._limit)
        with suppress(UpdateFinishedTrialError):  # without claims, another search has closed it
            trial.set_constraint("memory", answer.violation)
            for name, value in answer.attributes.items():
                trial.set_user_attr(name, value)
            self._study.tell(trial, answer.value, state=answer.state)

    def _choose(self) -> Config:
        """What is to be measured next."""
        if self._plan:
            return self._plan.pop(0)
        remaining = [config for config in self._order if config not in self._known]
        log_ms = self._log_ms()
        return self._model.most_promising(remaining, log_ms) if self._model and log_ms else remaining[0]

    def _log_ms(self) -> dict[Config, float]:
        """What the model is to learn from; nothing as long as nothing ran."""
        answers = {config: _Answer.of(measurement, self._limit) for config, measurement in self._known.items()}
        ran = {config: a.value for config, a in answers.items() if a.value is not None and a.violation <= 0}
        slowest = max(ran.values(), default=0.0)
        return ran and {config: ran.get(config, slowest + FAILED) for config in answers}

    def _suggest(self, trial: Trial) -> Config:
        """The configuration that was chosen for a trial, as Optuna has it."""
        name = str(trial.suggest_categorical("strategy", list(self._spaces)))

        def pick(choice: str, values: tuple[Value, ...]) -> Value:
            value: Value = trial.suggest_categorical(f"{name}.{choice}", values)  # type: ignore[assignment]
            return value

        config = self._spaces[name].choose(pick)
        assert config is not None
        return config

    def _close_open_trials(self, storage: BaseStorage) -> None:
        """A search that was ended leaves the trial it was at, which would seem to run for ever."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
            storage.set_trial_user_attr(trial._trial_id, "reason", "the search that asked for it was ended")
            storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def _tell_what_is_known(self) -> None:
        """Measurements that this study has not seen: imported, or taken just before a kill."""
        finished = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        seen = {trial.user_attrs.get("config") for trial in finished}
        for config in (config for config in self._known if config.text not in seen):
            answer, params = _Answer.of(self._known[config], self._limit), _params(config)
            self._study.add_trial(
                create_trial(
                    state=answer.state,
                    value=answer.value,
                    params=params,
                    distributions={name: self._distributions[name] for name in params},
                    user_attrs={"config": config.text, **answer.attributes},
                    constraints={"memory": answer.violation},
                )
            )


def _params(config: Config) -> dict[str, Value]:
    """A configuration in a study's terms."""
    return {"strategy": config.strategy, **{f"{config.strategy}.{name}": value for name, value in config.params}}
