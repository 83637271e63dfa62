"""The Optuna study of a search: proposals and their values, in a journal of JSON lines beside the search's results.

A new sampler is built for each proposal, from the seed and the number of earlier proposals: a resumed search proposes
the same as an uninterrupted one. A proposal without a reported value is pending. One process at a time writes the
journal (bench/search/__main__.py holds the folder's lease), so a lock or an incomplete line of a killed process is
removed.
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

ProposalState = Literal["pending", "completed", "failed"]
STATES: dict[str, ProposalState] = {"COMPLETE": "completed", "FAIL": "failed", "RUNNING": "pending"}
UPDATED_VALUES = "corrects"  # user attribute of an Optuna trial that replaces a failed one: the number of the latter


@dataclass(frozen=True)
class Proposal:
    """Values that the sampler proposes. `values`: field name → index of a choice, or a number."""

    number: int
    values: dict[str, Any]
    state: ProposalState = "pending"


class Study:
    """One search. Its definition is part of the study's name: a changed spec starts a new study in the same journal."""

    def __init__(self, journal: Path, search: Search, jobs: int = 1) -> None:
        """Create or load the study. The caller holds the lease of the journal's folder."""
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
        """Every complete proposal, in order: a killed process may leave one without all its values."""
        trials = self.study.get_trials(deepcopy=False)
        updated = {trial.user_attrs[UPDATED_VALUES] for trial in trials if UPDATED_VALUES in trial.user_attrs}
        proposals = []
        for trial in trials:
            complete = trial.params.keys() == self.distributions.keys() and UPDATED_VALUES not in trial.user_attrs
            if complete and (state := STATES.get(trial.state.name)):
                values = {field.name: self._value(field, trial.params[field.name]) for field in self.search.fields}
                proposals.append(Proposal(trial.number, values, "completed" if trial.number in updated else state))
        return proposals

    def ask(self, at_random: bool = False) -> Proposal | None:
        """A new proposal; None at the end of a grid. `at_random`: a random one instead of the sampler's."""
        earlier = self.history()
        if self.search.sampler == "grid" and not self._enqueue(earlier):
            return None
        self.study.sampler = self._sampler(len(earlier), at_random)
        number = self.study.ask(self.distributions).number
        return next(proposal for proposal in self.history() if proposal.number == number)

    def tell(self, proposal: Proposal, values: Sequence[float] | None) -> None:
        """Report the values in the order of the objectives; None for a failure."""
        state = None if values else self.optuna.trial.TrialState.FAIL
        self.study.tell(proposal.number, values, state=state, skip_if_finished=True)

    def update_values(self, proposal: Proposal, values: Sequence[float]) -> None:
        """Add the values of a failed proposal that was retried with success, as one more trial."""
        params = next(trial.params for trial in self.study.trials if trial.number == proposal.number)
        trial = self.optuna.trial.create_trial(
            params=params,
            distributions=self.distributions,
            values=list(values),
            user_attrs={UPDATED_VALUES: proposal.number},
        )
        self.study.add_trial(trial)

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
        samplers, quarter = self.optuna.samplers, max(4, self.search.trials // 4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            if self.search.sampler == "tpe" and not at_random:
                return samplers.TPESampler(seed=seed, n_startup_trials=min(10, quarter), constant_liar=self.jobs > 1)
            if self.search.sampler == "nsga2" and not at_random:
                return samplers.NSGAIISampler(seed=seed, population_size=min(50, quarter))
            return samplers.RandomSampler(seed=seed)

    def _enqueue(self, earlier: Sequence[Proposal]) -> bool:
        """Enqueue the next combination, in an order drawn from the seed; False after the last. Optuna's GridSampler
        calls study.stop(), which raises outside of study.optimize()."""
        fields = [field for field in self.search.fields if isinstance(field, Choices)]
        points = list(itertools.product(*(range(len(field.options)) for field in fields)))
        random.Random(self.search.seed).shuffle(points)
        proposed = {tuple(proposal.values[field.name] for field in fields) for proposal in earlier}
        point = next((point for point in points if point not in proposed), None)
        if point is None:
            return False
        pairs = zip(fields, point, strict=True)
        params = {field.name: index if is_ordinal(field) else _names(field)[index] for field, index in pairs}
        self.study.enqueue_trial(params, skip_if_exists=True)
        return True


def repair_journal(journal: Path) -> None:
    """Remove the lock and the incomplete last line that a process leaves when it is killed while writing."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    content = journal.read_bytes() if journal.is_file() else b""
    if content and not content.endswith(b"\n"):
        with journal.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def is_ordinal(field: Proposed) -> bool:
    """Whether the options are increasing numbers, so that neighboring options are similar."""
    values = [next(iter(option.values())).plain() for option in field.options if len(option) == 1]
    numbers = len(values) == len(field.options) and all(type(value) in (int, float) for value in values)
    return numbers and all(a < b for a, b in itertools.pairwise(values))


def digest(definition: Any) -> str:
    return hashlib.sha256(json.dumps(definition, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _names(field: Choices) -> list[str]:
    """The options as texts, as the journal stores them."""
    return [json.dumps({key: node.plain() for key, node in option.items()}) for option in field.options]
