"""A search: proposals of Optuna, trained as runs, until there are as many trials as the spec asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bench.common.console import print_json, print_line
from bench.common.errors import ConfigError, UserError
from bench.common.exit_codes import DONE, SOME_FAILED, STOPPED
from bench.execution.launcher import needs_work
from bench.execution.options import RunOptions
from bench.execution.session import Session, resolve_device, task_of
from bench.runs.folder import run_folder

if TYPE_CHECKING:
    from bench.config import Run
    from bench.config.search_section import Search
    from bench.execution.progress import SweepProgress
    from bench.search.pareto_front import ParetoRow
    from bench.search.study import Proposal, Study


JOURNAL = "optuna_journal.log"


MAX_DUPLICATES = 200  # proposals in a row that repeat a run or break a rule, after which nothing new is expected


class SearchController:
    """One call of the command."""

    def __init__(self, search: Search, options: RunOptions, console: Console) -> None:
        self.search, self.options, self.console = search, options, console
        self.results = options.results
        self.folder = self.results / search.sweep.folder
        self.runs: dict[int, Run | ConfigError] = {}  # by number of the proposal
        self.values: dict[str, dict[str, float]] = {}  # of finished runs, by id
        self.worked: set[str] = set()  # ids that this call brought to an end
        self.stopped = self.exhausted = False

    def run(self) -> int:
        from bench.execution.progress import SweepProgress
        from bench.search.study import Study

        device = resolve_device(self.options.device)
        if obstacles := list(filter(None, (o.unavailable_reason(device) for o in self.search.objectives))):
            raise UserError("\n".join(obstacles))
        study = Study(self.folder / JOURNAL, self.search, self.options.jobs)
        with SweepProgress(self.console, self._announce(study)) as progress:
            self._train(self.search.sweep.runs, progress)
            self._again(study, progress)
            self._search(study, progress)
        session = self._session(self._all(study))
        session.record()
        rows = self.rows(study)
        if self.stopped:
            self._say("stopped; run the same command again to go on")
            return STOPPED
        self._report(session, rows)
        if self.options.json:
            print_json([asdict(row) for row in rows])
        done = all(row.values for row in rows if row.kind in ("reference", "trial"))
        return DONE if done else SOME_FAILED

    def rows(self, study: Study) -> list[ParetoRow]:
        """The spec's own runs, then every proposal, with what is known of it now."""
        from bench.search.pareto_front import ParetoRow

        rows = [
            ParetoRow(
                None, run.label, "reference", run.id, self._state(run), settings=run.settings, values=self._values(run)
            )
            for run in self.search.sweep.runs
        ]
        seen, history = {row.id for row in rows}, study.history()
        for proposal, text in zip(history, self.search.labels([p.values for p in history]), strict=True):
            run, label = self._resolved(proposal), f"trial {proposal.number}: {text}"
            if isinstance(run, ConfigError):
                rows.append(
                    ParetoRow(proposal.number, label, "invalid", "", "invalid", str(run), proposed=proposal.values)
                )
                continue
            lacks = "done, but without all objectives" if self._state(run) == "done" and not self._values(run) else ""
            message = lacks or run_folder(self.results, run.id).status().message
            kind: Any = "repeat" if run.id in seen else "trial"
            seen.add(run.id)
            rows.append(ParetoRow(proposal.number, label, kind, run.id, self._state(run), message, run.settings,
                            self._values(run), proposal.values))  # fmt: skip
        return rows

    def _search(self, study: Study, progress: SweepProgress) -> None:
        """What is pending first, then new proposals, until there are as many trials as wanted."""
        from bench.search import pareto_front

        while not self.stopped and (batch := self._batch(study)):
            self._train(list({run.id: run for _, run in batch}.values()), progress)
            for proposal, run in batch:
                if not self.stopped or self._values(run):
                    self._tell(study, proposal, run)
            pareto_front.write_rows(self.folder, self.rows(study))

    def _batch(self, study: Study) -> list[tuple[Proposal, Run]]:
        """As many proposals as runs may be at work; what needs no run is answered at once."""
        batch: list[tuple[Proposal, Run]] = []
        while len(batch) < self.options.jobs:
            waiting = [p for p in study.history() if p.state == "pending" and p not in [taken for taken, _ in batch]]
            proposal = waiting[0] if waiting else self._ask(study)
            if proposal is None:
                break
            run = self._resolved(proposal)
            if isinstance(run, ConfigError):
                self._say(f"proposal {proposal.number} is not run: {run.problems[0]}", "yellow")
                study.tell(proposal, None)
            elif run.id in self.worked or not needs_work(task_of(run, self.results), self.options.retry):
                self._tell(study, proposal, run)
            else:
                batch.append((proposal, run))
        return batch

    def _ask(self, study: Study) -> Proposal | None:
        """None when there are trials enough, or nothing new is to be expected."""
        rows = self.rows(study)
        trials = [row for row in rows if row.kind == "trial"]
        proposals = [row for row in rows if row.number is not None]
        useless = next((i for i, row in enumerate(reversed(proposals)) if row.kind == "trial"), len(proposals))
        tried = {tuple(row.proposed.items()) for row in proposals}
        if len(trials) >= self.search.trials:
            return None
        if len(tried) == self.search.combinations or useless >= MAX_DUPLICATES:
            why = (
                f"all {len(tried)} combinations" if useless < MAX_DUPLICATES else f"nothing new in {useless} proposals"
            )
            if not self.exhausted:
                self._say(f"ends after {len(trials)} of {self.search.trials} trials: {why}", "yellow")
            self.exhausted = True
            return None
        return study.ask(at_random=useless > 0)

    def _again(self, study: Study, progress: SweepProgress) -> None:
        """Trials that ended without a result by accident, or are to be retried; then the sampler hears the better."""
        resolved = [(p, self._resolved(p)) for p in study.history() if p.state != "pending"]
        told = [(p, run) for p, run in resolved if not isinstance(run, ConfigError)]
        left = {run.id: run for _, run in told if needs_work(task_of(run, self.results), self.options.retry)}
        self._train(list(left.values()), progress)
        answered = {run.id for proposal, run in told if proposal.state == "answered"}
        for proposal, run in told:
            if (values := self._values(run)) and run.id not in answered:
                answered.add(run.id)
                study.update_values(proposal, list(values.values()))

    def _train(self, runs: Sequence[Run], progress: SweepProgress) -> None:
        """To their ends, like any sweep's runs; one that ended badly stays so unless it is to be retried."""
        if self.stopped or not runs:
            return
        session = self._session(runs)
        pending = session.pending()
        session.verify_files()
        session.verify_data_unchanged()
        session.prepare([run for run, task in zip(runs, session.tasks, strict=True) if task in pending])
        _, self.stopped = session.launch(progress)
        self.worked |= set() if self.stopped else {run.id for run in runs}

    def _tell(self, study: Study, proposal: Proposal, run: Run) -> None:
        values = self._values(run)
        study.tell(proposal, list(values.values()) or None)
        from bench.search.pareto_front import formatted

        told = [f"{o.heading} {formatted(o, values[o.name])}" for o in self.search.objectives if values]
        self._say(f"proposal {proposal.number} ({run.id}): {', '.join(told) or f'{self._state(run)}, no values'}")

    def _values(self, run: Run) -> dict[str, float]:
        """Objective by objective; empty unless the run is done and has them all."""
        if run.id not in self.values and self._state(run) == "done":
            folder = run_folder(self.results, run.id)
            found = {o.name: o.value(folder, self.search.protocol) for o in self.search.objectives}
            if all(value is not None for value in found.values()):
                self.values[run.id] = found  # type: ignore[assignment]
        return self.values.get(run.id, {})

    def _state(self, run: Run) -> str:
        return run_folder(self.results, run.id).status().state

    def _resolved(self, proposal: Proposal) -> Run | ConfigError:
        """With its number in its name, or why it is none."""
        if proposal.number not in self.runs:
            try:
                run = self.search.resolve(proposal.values)
                self.runs[proposal.number] = replace(run, label=f"trial {proposal.number}")
            except ConfigError as error:
                self.runs[proposal.number] = error
        return self.runs[proposal.number]

    def _all(self, study: Study) -> list[Run]:
        """Distinct runs, named as in the rows."""
        proposed = {p.number: run for p in study.history() if not isinstance(run := self._resolved(p), ConfigError)}
        trials = [row for row in self.rows(study) if row.kind == "trial"]
        named = [replace(proposed[row.number], label=row.label) for row in trials if row.number is not None]
        return [*self.search.sweep.runs, *named]

    def _session(self, runs: Sequence[Run]) -> Session:
        sweep = replace(self.search.sweep, runs=list(runs))
        return Session(sweep, runs, self.options, self.folder.name, self.console)

    def _announce(self, study: Study) -> int:
        """How many runs are left to do."""
        done = [row.kind for row in self.rows(study) if row.state == "done"]
        told = done.count("trial")
        sweep, search = self.search.sweep, self.search
        text = f"{sweep.name}, scale {sweep.scale}: {told} of {search.trials} trials done, sampler {search.sampler}"
        self._say(f"{text}; beside {len(sweep.runs)} runs of the spec's own")
        return len(sweep.runs) - done.count("reference") + search.trials - told

    def _report(self, session: Session, rows: Sequence[ParetoRow]) -> None:
        from bench.search import pareto_front

        report = session.report()
        for path in (*pareto_front.write(self.folder, self.search, rows, self.results), *self.figure(rows)):
            if path.name == "front.md":
                self._say(path.read_text(encoding="utf-8"))
        self._say(f"report: {report.resolve()}")

    def figure(self, rows: Sequence[ParetoRow]) -> list[Path]:
        """figures/front.{png,svg}."""
        from bench.common.files import atomic_write
        from bench.figures import pareto as scatter
        from bench.figures import style
        from bench.search.pareto_front import nondominated_rows

        best = nondominated_rows(rows, self.search.objectives)
        points = [
            scatter.Point(row.values, row in best, str(row.number) if row in best and row.number is not None else "",
                         row.label if row.kind == "reference" else "")
            for row in rows if row.values and row.kind in ("reference", "trial")
        ]  # fmt: skip
        if not points:
            return []
        axes = [scatter.Axis(o.name, o.title, o.better, o.source == "count") for o in self.search.objectives]
        steps = self.search.sweep.runs[0].spec.train.steps
        caption = f"{self.search.sweep.name}, scale {self.search.sweep.scale}, {steps} steps"
        written = [self.folder / "figures" / f"front.{suffix}" for suffix in ("png", "svg")]
        for path in written:
            with style.style():
                figure = scatter.draw(points, axes, caption)
                atomic_write(path, lambda made, figure=figure: _save(figure, made))  # type: ignore[misc]
        return written

    def _say(self, text: str, style: str | None = None) -> None:
        print_line(self.console, text, style)


def _save(figure: Any, path: Path) -> None:
    from bench.figures import style

    style.save(figure, path)
