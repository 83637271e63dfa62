"""`python -m bench.search SPEC`: Optuna proposes what the spec's `search` section names; each proposal is a run.

Run it again and it goes on where it stopped, with no more trials than the spec says; what has a result is never trained
twice. Exit code 0: all trials done; 1: some failed; 2: a bad spec or input; 130: stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from bench import run as running
from bench.console import command_console
from bench.errors import BadInput, BadSpec, run_command
from bench.launch import Launcher, due
from bench.lease import Held, Lease
from bench.options import RunOptions, add_shared, parse_options
from bench.record import run_folder

if TYPE_CHECKING:
    from bench.pareto import Row
    from bench.progress import SweepProgress
    from bench.spec import Run
    from bench.spec.search import Search
    from bench.study import Proposal, Study

JOURNAL = "optuna_journal.log"
USELESS = 200  # proposals in a row that repeat a run or break a rule, after which nothing new is expected


def parse(argv: Sequence[str] | None = None) -> RunOptions:
    parser = argparse.ArgumentParser(prog="python -m bench.search", description=__doc__)
    add = parser.add_argument
    add("spec", type=Path, metavar="SPEC", help="a YAML file with a `search` section, such as ablations/search.yaml")
    add("overrides", nargs="*", metavar="key=value", help="any field of the spec; a searched one is searched no more")
    add("--dry-run", action="store_true", help="print what would be searched and how far it is; train nothing")
    add("--json", action="store_true", help="print the rows as a JSON list; all else goes to stderr")
    add_shared(parser)
    return parse_options(parser, argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    from bench.spec.search import load_search

    search = load_search(options.spec, options.overrides, options.scale)
    console = command_console(to_stderr=options.json)
    controller = Controller(search, options, console)
    if options.dry_run:
        from bench.search_plan import show

        return show(search, controller.folder, options, console)
    try:
        with Lease(controller.folder):
            return controller.run()
    except Held as held:
        raise BadInput(f"{held} works on this search ({controller.folder}): wait for it, or stop it") from held


class Controller:
    """One call of the command."""

    def __init__(self, search: Search, options: RunOptions, console: Console) -> None:
        self.search, self.options, self.console = search, options, console
        self.results = options.results
        self.folder = self.results / search.sweep.folder
        self.runs: dict[int, Run | BadSpec] = {}  # by number of the proposal
        self.values: dict[str, dict[str, float]] = {}  # of finished runs, by id
        self.worked: set[str] = set()  # ids that this call brought to an end
        self.stopped = self.exhausted = False

    def run(self) -> int:
        from bench.progress import SweepProgress
        from bench.study import Study

        device = running.device_named(self.options.device)
        if obstacles := list(filter(None, (o.obstacle(device) for o in self.search.objectives))):
            raise BadInput("\n".join(obstacles))
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
            return running.STOPPED
        self._report(session, rows)
        if self.options.json:
            print(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False))
        done = all(row.values for row in rows if row.kind in ("reference", "trial"))
        return running.DONE if done else running.SOME_FAILED

    def rows(self, study: Study) -> list[Row]:
        """The spec's own runs, then every proposal, with what is known of it now."""
        from bench.pareto import Row

        rows = [
            Row(None, run.label, "reference", run.id, self._state(run), settings=run.settings, values=self._values(run))
            for run in self.search.sweep.runs
        ]
        seen, history = {row.id for row in rows}, study.history()
        for proposal, text in zip(history, self.search.labels([p.values for p in history]), strict=True):
            run, label = self._resolved(proposal), f"trial {proposal.number}: {text}"
            if isinstance(run, BadSpec):
                rows.append(Row(proposal.number, label, "invalid", "", "invalid", str(run), proposed=proposal.values))
                continue
            lacks = "done, but without all objectives" if self._state(run) == "done" and not self._values(run) else ""
            message = lacks or run_folder(self.results, run.id).status().message
            kind: Any = "repeat" if run.id in seen else "trial"
            seen.add(run.id)
            rows.append(Row(proposal.number, label, kind, run.id, self._state(run), message, run.settings,
                            self._values(run), proposal.values))  # fmt: skip
        return rows

    def _search(self, study: Study, progress: SweepProgress) -> None:
        """What is pending first, then new proposals, until there are as many trials as wanted."""
        from bench import pareto

        while not self.stopped and (batch := self._batch(study)):
            self._train(list({run.id: run for _, run in batch}.values()), progress)
            for proposal, run in batch:
                if not self.stopped or self._values(run):
                    self._tell(study, proposal, run)
            pareto.write_rows(self.folder, self.rows(study))

    def _batch(self, study: Study) -> list[tuple[Proposal, Run]]:
        """As many proposals as runs may be at work; what needs no run is answered at once."""
        batch: list[tuple[Proposal, Run]] = []
        while len(batch) < self.options.jobs:
            waiting = [p for p in study.history() if p.state == "pending" and p not in [taken for taken, _ in batch]]
            proposal = waiting[0] if waiting else self._ask(study)
            if proposal is None:
                break
            run = self._resolved(proposal)
            if isinstance(run, BadSpec):
                self._say(f"proposal {proposal.number} is not run: {run.problems[0]}", "yellow")
                study.tell(proposal, None)
            elif run.id in self.worked or not due(running.task_of(run, self.results), self.options.retry):
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
        if len(tried) == self.search.combinations or useless >= USELESS:
            why = f"all {len(tried)} combinations" if useless < USELESS else f"nothing new in {useless} proposals"
            if not self.exhausted:
                self._say(f"ends after {len(trials)} of {self.search.trials} trials: {why}", "yellow")
            self.exhausted = True
            return None
        return study.ask(at_random=useless > 0)

    def _again(self, study: Study, progress: SweepProgress) -> None:
        """Trials that ended without a result by accident, or are to be retried; then the sampler hears the better."""
        resolved = [(p, self._resolved(p)) for p in study.history() if p.state != "pending"]
        told = [(p, run) for p, run in resolved if not isinstance(run, BadSpec)]
        left = {run.id: run for _, run in told if due(running.task_of(run, self.results), self.options.retry)}
        self._train(list(left.values()), progress)
        answered = {run.id for proposal, run in told if proposal.state == "answered"}
        for proposal, run in told:
            if (values := self._values(run)) and run.id not in answered:
                answered.add(run.id)
                study.correct(proposal, list(values.values()))

    def _train(self, runs: Sequence[Run], progress: SweepProgress) -> None:
        """To their ends, like any sweep's runs; one that ended badly stays so unless it is to be retried."""
        if self.stopped or not runs:
            return
        session, tasks = self._session(runs), [running.task_of(run, self.results) for run in runs]
        session.same_data(tasks)
        session.prepare([run for run, task in zip(runs, tasks, strict=True) if due(task, self.options.retry)])
        launcher = Launcher(tasks, progress, self.options.jobs, session.threads, session.device, self.options.retry)
        launcher.run()
        self.stopped = bool(launcher.asked)
        self.worked |= set() if self.stopped else {run.id for run in runs}

    def _tell(self, study: Study, proposal: Proposal, run: Run) -> None:
        values = self._values(run)
        study.tell(proposal, list(values.values()) or None)
        from bench.pareto import formatted

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

    def _resolved(self, proposal: Proposal) -> Run | BadSpec:
        """With its number in its name, or why it is none."""
        if proposal.number not in self.runs:
            try:
                run = self.search.resolve(proposal.values)
                self.runs[proposal.number] = replace(run, label=f"trial {proposal.number}")
            except BadSpec as error:
                self.runs[proposal.number] = error
        return self.runs[proposal.number]

    def _all(self, study: Study) -> list[Run]:
        """Distinct runs, named as in the rows."""
        proposed = {p.number: run for p in study.history() if not isinstance(run := self._resolved(p), BadSpec)}
        trials = [row for row in self.rows(study) if row.kind == "trial"]
        named = [replace(proposed[row.number], label=row.label) for row in trials if row.number is not None]
        return [*self.search.sweep.runs, *named]

    def _session(self, runs: Sequence[Run]) -> running.Session:
        sweep = replace(self.search.sweep, runs=list(runs))
        return running.Session(sweep, runs, self.options, self.folder.name, self.console)

    def _announce(self, study: Study) -> int:
        """How many runs are left to do."""
        done = [row.kind for row in self.rows(study) if row.state == "done"]
        told = done.count("trial")
        sweep, search = self.search.sweep, self.search
        text = f"{sweep.name}, scale {sweep.scale}: {told} of {search.trials} trials done, sampler {search.sampler}"
        self._say(f"{text}; beside {len(sweep.runs)} runs of the spec's own")
        return len(sweep.runs) - done.count("reference") + search.trials - told

    def _report(self, session: running.Session, rows: Sequence[Row]) -> None:
        from bench import pareto

        session.report()
        for path in (*pareto.write(self.folder, self.search, rows, self.results), *self.figure(rows)):
            if path.name == "front.md":
                self._say(path.read_text(encoding="utf-8"))
            self._say(str(path))

    def figure(self, rows: Sequence[Row]) -> list[Path]:
        """figures/front.{png,svg}."""
        from bench.atomic import atomic_write
        from bench.figures import pareto, style
        from bench.pareto import front

        best = front(rows, self.search.objectives)
        points = [
            pareto.Point(row.values, row in best, str(row.number) if row in best and row.number is not None else "",
                         row.label if row.kind == "reference" else "")
            for row in rows if row.values and row.kind in ("reference", "trial")
        ]  # fmt: skip
        if not points:
            return []
        axes = [pareto.Axis(o.name, o.title, o.better, o.source == "count") for o in self.search.objectives]
        steps = self.search.sweep.runs[0].spec.train.steps
        caption = f"{self.search.sweep.name}, scale {self.search.sweep.scale}, {steps} steps"
        written = [self.folder / "figures" / f"front.{suffix}" for suffix in ("png", "svg")]
        for path in written:
            with style.style():
                figure = pareto.draw(points, axes, caption)
                atomic_write(path, lambda made, figure=figure: _save(figure, made))  # type: ignore[misc]
        return written

    def _say(self, text: str, style: str | None = None) -> None:
        self.console.print(escape(text), style=style, highlight=False, soft_wrap=True)


def _save(figure: Any, path: Path) -> None:
    from bench.figures import style

    style.save(figure, path)


if __name__ == "__main__":
    run_command(main)
