"""A search: proposals of Optuna, trained as runs, until there are as many trials as the spec asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from rich.console import Console

from bench.common.console import print_json, print_line
from bench.common.errors import ConfigError, UserError
from bench.common.exit_codes import DONE, SOME_FAILED, STOPPED
from bench.execution.launcher import needs_work
from bench.execution.options import RunOptions
from bench.execution.session import Session, resolve_device, task_of
from bench.runs.folder import run_folder
from bench.runs.states import State

if TYPE_CHECKING:
    from bench.config import Run
    from bench.config.search_section import Search
    from bench.execution.progress import SweepProgress
    from bench.search.pareto_front import ParetoRow
    from bench.search.study import Proposal, Study

JOURNAL = "optuna_journal.log"
MAX_DUPLICATES = 200  # proposals in a row that repeat a run or break a rule, after which the search ends


class SearchController:
    """One call of the command. `session`: the steps of training and reporting, bench.execution.session by default."""

    def __init__(
        self, search: Search, options: RunOptions, console: Console, session: Callable[..., Session] = Session
    ) -> None:
        self.search, self.options, self.console, self.new_session = search, options, console, session
        self.results = options.results
        self.folder = self.results / (options.name or search.sweep.folder)
        self.runs: dict[int, Run | ConfigError] = {}  # by number of the proposal
        self.values: dict[str, dict[str, float]] = {}  # of finished runs, by id
        self.finished: set[str] = set()  # ids of runs that this call has trained
        self.stopped = self.exhausted = False

    def run(self) -> int:
        """Train the spec's own runs and the trials, then write tables, figures and specs; an exit code."""
        from bench.execution.progress import SweepProgress
        from bench.search.study import Study

        device = resolve_device(self.options.device)
        if reasons := list(filter(None, (o.unavailable_reason(device) for o in self.search.objectives))):
            raise UserError("\n".join(reasons))
        study = Study(self.folder / JOURNAL, self.search, self.options.jobs)
        with SweepProgress(self.console, self._print_header(study)) as progress:
            self._train(self.search.sweep.runs, progress)
            self._retry_trials(study, progress)
            self._run_trials(study, progress)
        session = self._session(self._distinct_runs(study))
        session.record()
        rows = self.rows(study)
        if self.stopped:
            self._print("stopped; re-run the same command to resume")
            return STOPPED
        self._report(session, rows)
        if self.options.json:
            print_json([asdict(row) for row in rows])
        done = all(row.values for row in rows if row.kind in ("reference", "trial"))
        return DONE if done else SOME_FAILED

    def rows(self, study: Study) -> list[ParetoRow]:
        """The spec's own runs, then every proposal, each with its present state and values."""
        from bench.search.pareto_front import Kind, ParetoRow

        rows = [
            ParetoRow(None, run.label, "reference", run.id, self._state(run), settings=run.settings,
                      values=self._values(run))
            for run in self.search.sweep.runs
        ]  # fmt: skip
        ids, history = {row.id for row in rows}, study.history()
        for proposal, settings in zip(history, self.search.labels([p.values for p in history]), strict=True):
            run, label = self._resolve(proposal), f"trial {proposal.number}: {settings}"
            if isinstance(run, ConfigError):
                rows.append(
                    ParetoRow(proposal.number, label, "invalid", "", "invalid", str(run), proposed=proposal.values)
                )
                continue
            state, values = self._state(run), self._values(run)
            incomplete = "done, but without all objectives" if state is State.DONE and not values else ""
            message = incomplete or run_folder(self.results, run.id).status().message
            kind: Kind = "repeat" if run.id in ids else "trial"
            ids.add(run.id)
            rows.append(
                ParetoRow(proposal.number, label, kind, run.id, state, message, run.settings, values, proposal.values)
            )
        return rows

    def _run_trials(self, study: Study, progress: SweepProgress) -> None:
        """Pending proposals first, then new ones, until there are enough trials."""
        from bench.search import pareto_front

        while not self.stopped and (batch := self._next_batch(study)):
            self._train(list({run.id: run for _, run in batch}.values()), progress)
            for proposal, run in batch:
                if not self.stopped or self._values(run):
                    self._report_result(study, proposal, run)
            pareto_front.write_rows(self.folder, self.rows(study))

    def _next_batch(self, study: Study) -> list[tuple[Proposal, Run]]:
        """Proposals to train, at most --jobs; those that need no training are reported to the study at once."""
        batch: list[tuple[Proposal, Run]] = []
        while len(batch) < self.options.jobs:
            proposals = [proposal for proposal, _ in batch]
            pending = [p for p in study.history() if p.state == "pending" and p not in proposals]
            proposal = pending[0] if pending else self._new_proposal(study)
            if proposal is None:
                break
            run = self._resolve(proposal)
            if isinstance(run, ConfigError):
                self._print(f"proposal {proposal.number} is invalid: {run.problems[0]}", "yellow")
                study.tell(proposal, None)
            elif run.id in self.finished or not needs_work(task_of(run, self.results), self.options.retry):
                self._report_result(study, proposal, run)
            else:
                batch.append((proposal, run))
        return batch

    def _new_proposal(self, study: Study) -> Proposal | None:
        """None when there are enough trials, or when nothing new is to be expected."""
        rows = self.rows(study)
        trials = [row for row in rows if row.kind == "trial"]
        proposals = [row for row in rows if row.number is not None]
        duplicates = next((i for i, row in enumerate(reversed(proposals)) if row.kind == "trial"), len(proposals))
        distinct = {tuple(row.proposed.items()) for row in proposals}
        if len(trials) >= self.search.trials:
            return None
        if len(distinct) == self.search.combinations or duplicates >= MAX_DUPLICATES:
            reason = f"all {len(distinct)} combinations were proposed"
            if duplicates >= MAX_DUPLICATES:
                reason = f"nothing new in {duplicates} proposals"
            if not self.exhausted:
                self._print(f"ends after {len(trials)} of {self.search.trials} trials: {reason}", "yellow")
            self.exhausted = True
            return None
        return study.ask(at_random=duplicates > 0)

    def _retry_trials(self, study: Study, progress: SweepProgress) -> None:
        """Train trials again that were interrupted or match --retry, and update the study with new values."""
        resolved = [(p, self._resolve(p)) for p in study.history() if p.state != "pending"]
        valid = [(proposal, run) for proposal, run in resolved if not isinstance(run, ConfigError)]
        pending = {run.id: run for _, run in valid if needs_work(task_of(run, self.results), self.options.retry)}
        self._train(list(pending.values()), progress)
        completed = {run.id for proposal, run in valid if proposal.state == "completed"}
        for proposal, run in valid:
            if (values := self._values(run)) and run.id not in completed:
                completed.add(run.id)
                study.update_values(proposal, list(values.values()))

    def _train(self, runs: Sequence[Run], progress: SweepProgress) -> None:
        """As the runs of any sweep: a failed one is trained again only with --retry."""
        if self.stopped or not runs:
            return
        session = self._session(runs)
        pending = session.pending()
        session.verify_files()
        session.verify_data_unchanged()
        session.prepare([run for run, task in zip(runs, session.tasks, strict=True) if task in pending])
        _, self.stopped = session.launch(progress)
        self.finished |= set() if self.stopped else {run.id for run in runs}

    def _report_result(self, study: Study, proposal: Proposal, run: Run) -> None:
        """Report the values of a run, or its failure, to the study and on the terminal."""
        from bench.search.pareto_front import formatted

        values = self._values(run)
        study.tell(proposal, list(values.values()) or None)
        text = ", ".join(f"{o.heading} {formatted(o, values[o.name])}" for o in self.search.objectives if values)
        self._print(f"proposal {proposal.number} ({run.id}): {text or f'{self._state(run)}, no values'}")

    def _values(self, run: Run) -> dict[str, float]:
        """Objective → value; empty unless the run is done and has all of them."""
        if run.id not in self.values and self._state(run) is State.DONE:
            folder = run_folder(self.results, run.id)
            values = {o.name: o.value(folder, self.search.protocol) for o in self.search.objectives}
            complete = {name: value for name, value in values.items() if value is not None}
            if len(complete) == len(values):
                self.values[run.id] = complete
        return self.values.get(run.id, {})

    def _state(self, run: Run) -> State:
        return run_folder(self.results, run.id).status().state

    def _resolve(self, proposal: Proposal) -> Run | ConfigError:
        """The run of a proposal, labeled by its number; the error if its settings break a rule."""
        if proposal.number not in self.runs:
            try:
                run = self.search.resolve(proposal.values)
                self.runs[proposal.number] = replace(run, label=f"trial {proposal.number}")
            except ConfigError as error:
                self.runs[proposal.number] = error
        return self.runs[proposal.number]

    def _distinct_runs(self, study: Study) -> list[Run]:
        """The spec's own runs and the trials, labeled as in `rows`."""
        proposed = {p.number: run for p in study.history() if not isinstance(run := self._resolve(p), ConfigError)}
        trials = [row for row in self.rows(study) if row.kind == "trial"]
        labeled = [replace(proposed[row.number], label=row.label) for row in trials if row.number is not None]
        return [*self.search.sweep.runs, *labeled]

    def _session(self, runs: Sequence[Run]) -> Session:
        sweep = replace(self.search.sweep, runs=list(runs))
        return self.new_session(sweep, runs, self.options, self.folder.name, self.console)

    def _print_header(self, study: Study) -> int:
        """Print how far the search is; the number of pending runs."""
        done = [row.kind for row in self.rows(study) if row.state == State.DONE]
        sweep, search = self.search.sweep, self.search
        trials = f"{done.count('trial')} of {search.trials} trials done, sampler {search.sampler}"
        self._print(f"{sweep.name}, scale {sweep.scale}: {trials}; {len(sweep.runs)} runs of the spec itself")
        return len(sweep.runs) - done.count("reference") + search.trials - done.count("trial")

    def _report(self, session: Session, rows: Sequence[ParetoRow]) -> None:
        from bench.search import pareto_front
        from bench.search.front_figure import write_front_figure

        report = session.report()
        for path in pareto_front.write(self.folder, self.search, rows, self.results):
            if path.name == "front.md":
                self._print(path.read_text(encoding="utf-8"))
        write_front_figure(self.folder, self.search, rows)
        self._print(f"report: {report.resolve()}")

    def _print(self, text: str, style: str | None = None) -> None:
        print_line(self.console, text, style)
