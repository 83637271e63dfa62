"""`python tests/campaigns/fault_campaign.py DIR`: faults injected into a tiny sweep on a real SLURM.

At least 50 faults, each with a record of its victim, phase and step: workers killed in a training step, while a
checkpoint or a record is written, in an evaluation (tests/campaigns/faulty.py); the command killed while it submits;
slurmctld killed; a node cut off whose run continues. Then every run must be done, every step recorded as in an
undisturbed sweep, no write under a lease that was taken over, and the table that of the undisturbed sweep, but for
measured time and memory.

`--break rename` and `--break fencing` switch a protection off: then the campaign must fail, and exits with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from support.paths import ROOT
from support.slurm_cluster import Cluster, alive, kill, missing, wait

from bench.common.json_files import read_lines
from bench.runs.folder import RunFolder
from bench.runs.lease import current_claim

STEPS, EVERY = 60, 10
SPEC = f"""# Does anything come of a fault?
base: freesplatter
seeds: [0, 1, 2, 3]
set:
  model: {{encoder.width: 48, aggregator: {{blocks: 1, heads: 2}}}}
  train: {{steps: {STEPS}, batch: 4, warmup_steps: 2, checkpoint_every: {EVERY}}}
  data: {{name: procedural, training_scenes: 16, validation_scenes: 16, evaluation_scenes: 16}}
  evaluation.scenes: 2
  losses.lpips: null
"""
CLUSTER = """partition: a100
time: 20
cpus: 1
memory: 2G
max_crash_requeues: 1000
sbatch: {{exclusive: true}}
python: {python} {faulty}
environment: ["export EAD_FAULTS={faults} EAD_BREAK={broken}"]
collect: {{time: 10, memory: 2G}}
"""
RECORDS = ("weights.safetensors", "train.json", "per_image_white@1.json", "cpu-1.json")


def fault_plan(runs: list[str], broken: str) -> dict[str, list[dict[str, Any]]]:
    """Of each run: three in a step, three in checkpoints, three in evaluations, three in records."""
    plan = {}
    for i, run in enumerate(runs):
        whens = ("half", "whole", "after")
        faults = [{"kind": "train", "at": at + i} for at in (4, 23, 41)]
        faults += [{"kind": "checkpoint write", "at": at, "when": whens[k]} for k, at in enumerate((10, 30, 50))]
        faults += [{"kind": "evaluate"}] * 3
        faults += [{"kind": "record write", "name": RECORDS[(i + k) % 4], "when": whens[k]} for k in range(3)]
        if broken == "rename":
            faults = [fault for fault in faults if fault["kind"] == "checkpoint write"]
        elif broken:
            faults = []
        plan[run] = [{**fault, "id": f"{run}-{k:02d}"} for k, fault in enumerate(faults)]
    return plan


class Campaign:
    """One folder, one cluster, one sweep."""

    def __init__(self, folder: Path, broken: str) -> None:
        self.folder, self.broken, self.faults = folder.resolve(), broken, folder.resolve() / "faults"
        self.results, self.sweep = self.folder / "results", self.folder / "results" / "campaign_tiny"
        (self.faults / "done").mkdir(parents=True)
        (self.folder / "campaign.yaml").write_text(SPEC)
        values = {"python": sys.executable, "faulty": ROOT / "tests" / "campaigns" / "faulty.py", "faults": self.faults}
        (self.folder / "cluster.yaml").write_text(CLUSTER.format(**values, broken=broken))
        self.cluster = Cluster(self.folder / "cluster", nodes=5)
        self.proof_count = 0

    def command(self, *options: object) -> list[str]:
        return [sys.executable, "-m", "bench.run", str(self.folder / "campaign.yaml"), *map(str, options)]

    def environment(self) -> dict[str, str]:
        return os.environ | self.cluster.environment | {"OMP_NUM_THREADS": "1"}

    @property
    def submit_command(self) -> list[str]:
        return self.command("--slurm", self.folder / "cluster.yaml", "--results", self.results, "--retry", "all")

    def runs(self) -> list[RunFolder]:
        done = subprocess.run(self.command("--dry-run", "--json"), cwd=ROOT, capture_output=True, text=True, check=True)
        return [RunFolder(self.results / "runs" / run["id"]) for run in json.loads(done.stdout)]

    def record_fault(self, kind: str, **details: Any) -> None:
        """A fault that this process causes."""
        self.proof_count += 1
        proof = {"kind": kind, "time": time.time(), **details}
        (self.faults / "done" / f"{kind}-{self.proof_count:02d}.json").write_text(json.dumps(proof, indent=1))
        print(f"{kind}: {details}", flush=True)

    def launcher_faults(self) -> None:
        """The command dies as soon as each of these exists."""
        for pattern in ("results/code", "results/runs/*/spec.json", "results/*/slurm/*/plan.json",
                     "results/*/slurm/*/jobs/*.pkl", "results/*/slurm/*/jobs/*submission*.sh"):  # fmt: skip
            count_before = len(list(self.folder.glob(pattern)))
            process = subprocess.Popen(self.submit_command, cwd=ROOT, env=self.environment(), stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)  # fmt: skip
            deadline = time.monotonic() + 60
            while len(list(self.folder.glob(pattern))) <= count_before and process.poll() is None:
                if time.monotonic() > deadline or (count_before and pattern.endswith(("code", "spec.json"))):
                    break
            kill(process.pid, signal.SIGKILL)
            process.wait()
            self.record_fault("launcher", victim="bench.run", pid=process.pid, phase="submission", step=pattern)

    def submit(self) -> None:
        done = subprocess.run(self.submit_command, cwd=ROOT, env=self.environment(), capture_output=True, text=True)
        print(done.stdout, done.stderr, flush=True)

    def working(self) -> list[RunFolder]:
        return [run for run in self.folders if run.status().phase == "train" and run.status().state == "running"]

    def kill_controller(self) -> bool:
        """While a run trains; whether the fault happened."""
        steps = {run.id: len(run.metrics()) for run in self.working()}
        pid = self.cluster.pid("slurmctld")
        self.cluster.stop("slurmctld", signal.SIGKILL)
        self.record_fault("controller", victim="slurmctld", pid=pid, phase="train", step=steps)
        time.sleep(2)
        self.cluster.start_controller()
        self.recover()
        return True

    def recover(self) -> None:
        """What an administrator does after a crash: resume drained nodes, release jobs held after a failed launch."""
        time.sleep(3)
        names = ",".join(self.cluster.nodes)
        self.cluster.client("scontrol", "update", f"nodename={names}", "state=resume")
        pending = self.cluster.client("squeue", "-h", "-r", "--name=campaign", "-t", "PD", "-o", "%i %r").splitlines()
        for job in [line.split()[0] for line in pending if line.endswith("held")]:
            self.cluster.client("scontrol", "release", job)

    def cut_off(self) -> bool:
        """A node's daemon dies; its run continues while SLURM starts the same run elsewhere.

        False if no run has a live process now: a killed one leaves the status "running".
        """
        claims = [(run, current_claim(run.path)) for run in self.working()]
        run, claim = next(((run, claim) for run, claim in claims if claim and not claim.free), (None, None))
        if run is None or claim is None:
            return False
        node, pid = claim.holder.host, claim.holder.pid
        kill(pid, signal.SIGSTOP)
        self.cluster.stop(node, signal.SIGKILL)
        self.record_fault(
            "cut off", victim=f"{node} and worker", pid=pid, phase="train", step=len(run.metrics()), run=run.id
        )

        def succeeded() -> bool:
            now = current_claim(run.path)
            return now is not None and now.number > claim.number and len(self.lines(run, now.number)) >= 3

        try:
            wait(succeeded, f"a successor of {run.id}", 120)
        finally:
            kill(pid, signal.SIGCONT)
            time.sleep(15)
            self.survived = alive(pid) or self.wrote_after(run, claim.number)
            kill(pid, signal.SIGKILL)
            self.cluster.start_node(node)
            self.recover()
        return True

    def lines(self, run: RunFolder, number: int) -> list[dict[str, Any]]:
        return [w for w in read_lines(self.faults / "writes.jsonl") if (w["run"], w["number"]) == (run.id, number)]

    def wrote_after(self, run: RunFolder, number: int) -> bool:
        """Whether anything was written under a lease after a later one had been used.

        Lines of metrics aside: for them the lease is checked every ten seconds only.
        """
        later = [w["time"] for w in read_lines(self.faults / "writes.jsonl") if w["run"] == run.id
                 and w["number"] > number]  # fmt: skip
        return any(line["time"] > min(later, default=float("inf")) for line in self.lines(run, number)
                   if line["name"] != "metrics.jsonl")  # fmt: skip

    def go(self, minutes: float) -> None:
        self.folders = self.runs()
        plan = fault_plan([run.id for run in self.folders], self.broken)
        (self.faults / "plan.json").write_text(json.dumps(plan, indent=1))
        deadline, faults = time.monotonic() + 60 * minutes, self.external_faults()
        if not self.broken:
            self.launcher_faults()
        last = 0.0
        while not all(run.status().state == "done" for run in self.folders) and time.monotonic() < deadline:
            if not self.queued() and time.monotonic() - last > 10:
                self.submit()
                last = time.monotonic()
            if self.working() and time.monotonic() - last > 12 and faults and faults[0]():
                faults.pop(0)
                last = time.monotonic()
            if time.monotonic() - last > 60:  # on a busy machine a launch may fail long after the fault
                self.recover()
                last = time.monotonic()
            time.sleep(0.5)
        self.submit()  # nothing is left to do; what a lost collection would have made is made now
        self.collect()

    def external_faults(self) -> list[Callable[[], bool]]:
        """In order; each returns whether it happened, and is repeated until it does."""
        if self.broken:
            return [self.cut_off] if self.broken == "fencing" else []
        return [self.kill_controller, self.cut_off, *[self.kill_controller] * 4]

    def queued(self) -> bool:
        return bool(self.cluster.client("squeue", "-h", "--name=campaign").strip())

    def collect(self) -> None:
        code = "import sys; from pathlib import Path; from bench.slurm.collect import collect; "
        code += "collect(Path(sys.argv[1]), Path(sys.argv[2]))"
        command = [sys.executable, "-c", code, str(self.sweep), str(self.results)]
        subprocess.run(command, cwd=ROOT, env=self.environment(), check=True)

    def judge(self, quiet: Path) -> list[str]:
        """Everything that is wrong."""
        wrong = [f"run {run.id} is {run.status()}" for run in self.folders if run.status().state != "done"]
        for run in self.folders:
            other = RunFolder(quiet / "runs" / run.id)
            expected = {r["step"]: r["loss"] for r in other.metrics()}
            records = read_lines(run.path / "metrics.jsonl")
            if {r["step"] for r in records} != set(expected):
                wrong.append(f"run {run.id}: steps are missing")
            wrong += [f"run {run.id}: step {r['step']} has another loss" for r in records
                      if r["loss"] != expected.get(r["step"])]  # fmt: skip
            if max(Counter(r["step"] for r in records).values(), default=0) > 8:
                wrong.append(f"run {run.id}: a step was done more than 8 times")
            weights = "weights.safetensors"
            if (
                not (run.path / weights).is_file()
                or (run.path / weights).read_bytes() != (other.path / weights).read_bytes()
            ):
                wrong.append(f"run {run.id}: the weights differ")
            if any(self.wrote_after(run, number) for number in {w["number"] for w in self.writes(run)}):
                wrong.append(f"run {run.id}: written under a lease that was taken over")
        if not wrong and not table(self.sweep).equals(table(quiet / self.sweep.name)):
            wrong.append("the table differs")
        return wrong

    def writes(self, run: RunFolder) -> list[dict[str, Any]]:
        return [write for write in read_lines(self.faults / "writes.jsonl") if write["run"] == run.id]

    def proofs(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted((self.faults / "done").glob("*.json"))]


def table(sweep: Path) -> pd.DataFrame:
    """Without what is measured."""
    frame = pd.read_csv(sweep / "tables" / "table.csv")
    return frame[[name for name in frame if not name.startswith("measured/")]]


def format_report(report: Mapping[str, Any], proofs: Sequence[Mapping[str, Any]]) -> str:
    """As Markdown: the verdict, the faults by kind, and a line for each."""
    verdict = "; ".join(report["wrong"]) or "nothing lost, nothing twice, the same table"
    broken = f", {report['broken']} switched off" if report["broken"] else ""
    kinds = ", ".join(f"{count} × {kind}" for kind, count in sorted(report["kinds"].items()))
    lines = [f"# {report['faults']} faults in {report['minutes']} minutes{broken}: {verdict}", "", kinds, ""]
    lines += ["| time | kind | victim | node | job | lease | run | phase | step | at |", "|" + "---|" * 10]
    for proof in sorted(proofs, key=lambda proof: proof["time"]):
        at = " ".join(str(proof[key]) for key in ("when", "name") if key in proof)
        step = proof["step"]
        if isinstance(step, dict):  # of several runs
            proof = {**proof, "step": ", ".join(f"{run}: {number}" for run, number in step.items())}
        cells = [
            time.strftime("%H:%M:%S", time.gmtime(proof["time"])),
            proof["kind"],
            f"{proof['victim']} {proof['pid']}",
        ]
        cells += [proof.get(key, "") for key in ("host", "job", "lease", "run", "phase", "step")]
        lines.append("| " + " | ".join(map(str, [*cells, at])) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new folder")
    parser.add_argument("--break", dest="broken", choices=("rename", "fencing"), default="")
    parser.add_argument("--minutes", type=float, default=25.0, help="give up after (default 25)")
    options = parser.parse_args()
    if reason := missing():
        print(f"error: {reason}", file=sys.stderr)
        return 2
    campaign = Campaign(options.folder, options.broken)
    quiet, began = campaign.folder / "quiet", time.monotonic()
    command = campaign.command("--results", quiet, "--threads", "1", "--device", "cpu", "--no-report")
    local = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    campaign.cluster.up()
    try:
        campaign.go(options.minutes)
        local.wait()
        wrong = campaign.judge(quiet)
    finally:
        local.terminate()
        campaign.cluster.down()
    proofs = campaign.proofs()
    kinds = Counter(proof["kind"] for proof in proofs)
    minutes = round((time.monotonic() - began) / 60, 1)
    report = {"faults": len(proofs), "kinds": dict(kinds), "broken": options.broken, "wrong": wrong, "minutes": minutes}
    (campaign.folder / "report.json").write_text(json.dumps(report | {"proofs": proofs}, indent=1))
    (campaign.folder / "report.md").write_text(format_report(report, proofs))
    print(f"{len(proofs)} faults: {', '.join(f'{count} × {kind}' for kind, count in sorted(kinds.items()))}")
    print("\n".join(wrong) or "nothing lost, nothing twice, the same table")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
