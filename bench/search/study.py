"""Optuna behind a search: proposals and what came of them, in a journal of plain lines beside the search's results.

The sampler is made anew for each proposal, from the seed and the proposals before: a search that was stopped goes on as
if it had not been. A proposal that nobody answered is still pending the next time. One process at a time writes here
(bench/search.py holds the folder's lease), so a lock or half a line that a killed one left can be taken away.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.config.search_space import Choices, Proposed

if TYPE_CHECKING:
    import optuna

    from bench.config.search_section import Search

ProposalState = Literal["pending", "answered", "failed"]
STATES: dict[str, ProposalState] = {"COMPLETE": "answered", "FAIL": "failed", "RUNNING": "pending"}
UPDATED_VALUES = "corrects"  # of a trial of Optuna's: the number of the proposal whose failure it takes back


@dataclass(frozen=True)
class Proposal:
    """What the sampler wants tried. `values`: a field's name → the index of a choice, or a number."""

    number: int
    values: dict[str, Any]
    state: ProposalState = "pending"


class Study:
    """The journal of one search, told apart from earlier ones of the same file by its definition."""

    def __init__(self, journal: Path, search: Search, jobs: int = 1) -> None:
        """Begins or goes on. Only for who holds the folder's lease."""
        import optuna

        self.search, self.jobs = search, jobs
        self.optuna: Any = optuna
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.distributions = {field.name: self._distribution(field) for field in search.fields}
        journal.parent.mkdir(parents=True, exist_ok=True)
        repair_journal(journal)
        backend = self.optuna.storages.journal.JournalFileBackend(str(journal.absolute()))
        self.study: optuna.Study = self.optuna.create_study(
            storage=self.optuna.storages.JournalStorage(backend),
            study_name=f"{search.sweep.name}-{digest(search.definition)}",
            directions=["maximize" if objective.better == "higher" else "minimize" for objective in search.objectives],
            load_if_exists=True,
        )

    def history(self) -> list[Proposal]:
        """Every proposal so far, in order; one that a killed process did not finish making is none."""
        trials = self.study.get_trials(deepcopy=False)
        corrected = {trial.user_attrs[UPDATED_VALUES] for trial in trials if UPDATED_VALUES in trial.user_attrs}
        found = []
        for trial in trials:
            whole = trial.params.keys() == self.distributions.keys() and UPDATED_VALUES not in trial.user_attrs
            if whole and (state := STATES.get(trial.state.name)):
                values = {field.name: self._value(field, trial.params[field.name]) for field in self.search.fields}
                found.append(Proposal(trial.number, values, "answered" if trial.number in corrected else state))
        return found

    def ask(self, at_random: bool = False) -> Proposal | None:
        """A new proposal, or None when a grid is at its end; `at_random` leaves the sampler's habits."""
        before = self.history()
        if self.search.sampler == "grid" and not self._enqueue(before):
            return None
        self.study.sampler = self._sampler(len(before), at_random)
        number = self.study.ask(self.distributions).number
        return next(proposal for proposal in self.history() if proposal.number == number)

    def tell(self, proposal: Proposal, values: Sequence[float] | None) -> None:
        """What came of it, objective by objective; None for a failure."""
        state = None if values else self.optuna.trial.TrialState.FAIL
        self.study.tell(proposal.number, values, state=state, skip_if_finished=True)

    def update_values(self, proposal: Proposal, values: Sequence[float]) -> None:
        """A proposal that had failed and was tried again with success: the sampler learns it as one more."""
        params = next(trial.params for trial in self.study.trials if trial.number == proposal.number)
        made = self.optuna.trial.create_trial(
            params=params,
            distributions=self.distributions,
            values=list(values),
            user_attrs={UPDATED_VALUES: proposal.number},
        )
        self.study.add_trial(made)

    def _distribution(self, field: Proposed) -> Any:
        kinds = self.optuna.distributions
        if isinstance(field, Choices):
            if is_ordinal(field):
                return kinds.IntDistribution(0, len(field.options) - 1)
            return kinds.CategoricalDistribution(_names(field))
        if field.whole:
            return kinds.IntDistribution(int(field.low), int(field.high), log=field.log)
        return kinds.FloatDistribution(field.low, field.high, log=field.log)

    def _value(self, field: Proposed, param: Any) -> Any:
        if isinstance(field, Choices):
            return param if is_ordinal(field) else _names(field).index(param)
        return field.rounded(param)

    def _sampler(self, proposals: int, at_random: bool) -> Any:
        seed = random.Random(f"{self.search.seed} {proposals}").randrange(2**31)
        samplers, some = self.optuna.samplers, max(4, self.search.trials // 4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            if self.search.sampler == "tpe" and not at_random:
                return samplers.TPESampler(seed=seed, n_startup_trials=min(10, some), constant_liar=self.jobs > 1)
            if self.search.sampler == "nsga2" and not at_random:
                return samplers.NSGAIISampler(seed=seed, population_size=min(50, some))
            return samplers.RandomSampler(seed=seed)

    def _enqueue(self, before: Sequence[Proposal]) -> bool:
        """The next of all combinations, in an order drawn from the seed. Optuna's own grid sampler ends a study from
        within, which asking and telling cannot survive."""
        fields = [field for field in self.search.fields if isinstance(field, Choices)]
        left = list(itertools.product(*(range(len(field.options)) for field in fields)))
        random.Random(self.search.seed).shuffle(left)
        seen = {tuple(proposal.values[field.name] for field in fields) for proposal in before}
        point = next((point for point in left if point not in seen), None)
        if point is None:
            return False
        pairs = zip(fields, point, strict=True)
        params = {field.name: index if is_ordinal(field) else _names(field)[index] for field, index in pairs}
        self.study.enqueue_trial(params, skip_if_exists=True)
        return True


def repair_journal(journal: Path) -> None:
    """Take away what a process left that was killed while it wrote: its lock, and half of a last line."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    content = journal.read_bytes() if journal.is_file() else b""
    if content and not content.endswith(b"\n"):
        with journal.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def is_ordinal(field: Proposed) -> bool:
    """Whether a choice is among growing numbers, so that neighbors are alike."""
    values = [next(iter(option.values())).plain() for option in field.options if len(option) == 1]
    numbers = len(values) == len(field.options) and all(type(value) in (int, float) for value in values)
    return numbers and all(a < b for a, b in itertools.pairwise(values))


def digest(definition: Any) -> str:
    return hashlib.sha256(json.dumps(definition, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _names(field: Choices) -> list[str]:
    """One text a choice, as the journal holds it."""
    return [json.dumps({key: node.plain() for key, node in option.items()}) for option in field.options]
