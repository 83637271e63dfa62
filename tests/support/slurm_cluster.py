"""A real SLURM of several nodes on this one machine: `python tests/support/slurm_cluster.py up DIR`, later `down DIR`.

Needs root, and Debian's packages slurmctld, slurmd, slurm-client and munge, which it does not install. No systemd, no
cgroups; everything listens on the loopback alone. Every node poses as one with 64 cores and 4 A100, so that many small
jobs share a small machine. Only what `up` started is stopped by `down`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "munged")
CONFIGURATION = """\
ClusterName=ead
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthInfo=cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldParameters=preempt_send_user_signal
SlurmctldPort={port}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SchedulerParameters=sched_interval=2,sched_min_interval=100000,bf_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
MinJobAge=3600
KillWait=5
SlurmdTimeout=15
TCPTimeout=2
MailProg=/bin/true
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=64 Sockets=2 CoresPerSocket=32 \
ThreadsPerCore=1 RealMemory=512000 Gres=gpu:a100:4 Feature=a100,80g
PartitionName=a100 Nodes={nodes} Default=YES MaxTime=7-0 DefaultTime=10 PriorityTier=10
PartitionName=preempt Nodes={nodes} MaxTime=7-0 DefaultTime=10 PriorityTier=1 GraceTime=20 PreemptMode=REQUEUE
"""


def missing() -> str:
    """Why no cluster can be started here; empty if one can."""
    if lacks := [name for name in PROGRAMS if not shutil.which(name)]:
        return (
            f"no SLURM is installed ({', '.join(lacks)} missing): apt-get install slurmctld slurmd slurm-client munge"
        )
    return "" if os.geteuid() == 0 else "the test cluster's daemons need root"


class Cluster:
    """Daemons below one folder. Nodes are gpu01, gpu02, …"""

    def __init__(self, root: Path, nodes: int = 4) -> None:
        self.root, self.nodes = root.resolve(), [f"gpu{i:02d}" for i in range(1, nodes + 1)]
        self.configuration = self.root / "etc" / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """For clients."""
        return {"SLURM_CONF": str(self.configuration)}

    def up(self) -> None:
        for name in ("etc", "state", "spool", "log", "run", "dev"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self._munge()
        self._write()
        self.start_controller()
        for node in self.nodes:
            self.start_node(node)
        self.wait_idle()

    def down(self) -> None:
        subprocess.run(["scancel", "--user=root"], env=os.environ | self.environment, capture_output=True)
        time.sleep(1)
        for pid in [pid for node in self.nodes for pid in self.processes(node)]:
            kill(pid, signal.SIGKILL)
        for name in (*self.nodes, "slurmctld"):
            self.stop(name)
        if not any(command(pid).split("/")[-1].startswith("slurmctld") for pid in all_processes()):
            self.stop("munged")  # other clusters on this machine use it too

    def start_controller(self) -> None:
        self._start("slurmctld")

    def start_node(self, name: str) -> None:
        self._start("slurmd", "-N", name)

    def pid(self, name: str) -> int | None:
        """Of a daemon: a node's name, slurmctld or munged."""
        try:
            return int((self.root / "run" / f"{name}.pid").read_text())
        except (OSError, ValueError):
            return None

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """A daemon that this cluster started, and wait until it is gone."""
        if (pid := self.pid(name)) is None:
            return
        kill(pid, how)
        wait(lambda: not alive(pid), f"{name} to stop", 20)
        (self.root / "run" / f"{name}.pid").unlink(missing_ok=True)

    def processes(self, node: str) -> list[int]:
        """Everything that runs for jobs on a node, SLURM's own stepd included."""
        return [pid for pid in all_processes() if self._on(node, pid)]

    def workers(self, job: str) -> list[int]:
        """The Python processes of a job's step, by SLURM's raw job id."""
        return [pid for pid in all_processes()
                if environment(pid).get("SLURM_JOB_ID") == job and "SLURM_STEP_NUM_TASKS" in environment(pid)
                and "submitit.core._submit" in command(pid) and "srun" not in command(pid)]  # fmt: skip

    def fail_node(self, name: str) -> None:
        """As if its power were cut."""
        for pid in [p for p in [self.pid(name), *self.processes(name)] if p]:
            kill(pid, signal.SIGKILL)
        (self.root / "run" / f"{name}.pid").unlink(missing_ok=True)

    def wait_idle(self) -> None:
        def ready() -> bool:
            states = self.client("sinfo", "-h", "-N", "-p", "a100", "-o", "%t").split()
            return len([s for s in states if s in ("idle", "mix", "alloc")]) == len(self.nodes)

        wait(ready, f"all nodes (log: {self.root / 'log'})", 30)

    def client(self, *command: str) -> str:
        done = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True)
        return done.stdout

    def _on(self, node: str, pid: int) -> bool:
        command_line = command(pid)
        stepd = (
            "slurmstepd" in command_line
            and str(self.root) in f"{command_line} {environment(pid).get('SLURM_CONF', '')}"
        )
        if stepd:
            return f"[{node}]" in command_line or environment(pid).get("SLURMD_NODENAME") == node or _spool(pid, node)
        variables = environment(pid)
        return variables.get("SLURMD_NODENAME") == node and variables.get("SLURM_CONF") == str(self.configuration)

    def _start(self, *command: str) -> None:
        subprocess.run(command, env=os.environ | self.environment, check=True, stdin=subprocess.DEVNULL)

    def _munge(self) -> None:
        """One that runs here already serves as well."""
        if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
            return
        for name in ("/run/munge", "/var/log/munge", "/var/lib/munge"):
            Path(name).mkdir(parents=True, exist_ok=True)
            shutil.chown(name, "munge", "munge")
        Path("/run/munge").chmod(0o755)
        subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=True)
        wait(lambda: subprocess.run(["munge", "-n"], capture_output=True).returncode == 0, "munged", 10)
        pid = Path("/run/munge/munged.pid").read_text()
        (self.root / "run" / "munged.pid").write_text(pid)

    def _write(self) -> None:
        host, port, count = socket.gethostname().split(".")[0], _free_ports(len(self.nodes) + 1), len(self.nodes)
        names = f"gpu[01-{count:02d}]" if count > 1 else "gpu01"
        text = CONFIGURATION.format(
            host=host, port=port, root=self.root, nodes=names, first=port + 1, last=port + count
        ).replace(f"[{port + 1}-{port + 1}]", str(port + 1))
        self.configuration.write_text(text)
        for i in range(4):  # SLURM wants devices; these are as good as /dev/null
            if not (device := self.root / "dev" / f"nvidia{i}").exists():
                os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        (self.root / "etc" / "gres.conf").write_text(f"Name=gpu Type=a100 File={self.root}/dev/nvidia[0-3]\n")


def wait(until: object, what: str, seconds: float) -> None:
    """Raises TimeoutError."""
    assert callable(until)
    deadline = time.monotonic() + seconds
    while not until():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.1)


def kill(pid: int, how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, how)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def all_processes() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def environment(pid: int) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in read(pid, "environ").split("\0") if "=" in entry)


def command(pid: int) -> str:
    return read(pid, "cmdline").replace("\0", " ").strip()


def _spool(pid: int, node: str) -> bool:
    """Whether the process has files of that node's slurmd open."""
    try:
        return any(f"/log/{node}.log" in str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def read(pid: int, name: str) -> str:
    """A file of /proc/PID; empty once the process is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


def _free_ports(count: int) -> int:
    """The first of some that nobody listens to."""
    for start in range(17817 + 40 * (os.getpid() % 200), 60000, 40):
        with socket.socket() as probe:
            free = all(probe.connect_ex(("127.0.0.1", port)) for port in range(start, start + 1))
        if free and all(_bindable(port) for port in range(start, start + count)):
            return start
    raise OSError("no free ports")


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("up", "down"))
    parser.add_argument("root", type=Path, metavar="DIR")
    parser.add_argument("--nodes", type=int, default=4)
    options = parser.parse_args()
    if reason := missing():
        print(f"error: {reason}", file=sys.stderr)
        return 2
    cluster = Cluster(options.root, options.nodes)
    if options.action == "down":
        nodes = sorted(path.stem for path in (cluster.root / "run").glob("gpu*.pid"))
        cluster.nodes = nodes
        cluster.down()
        return 0
    cluster.up()
    print(cluster.client("sinfo"), end="")
    print(f"export SLURM_CONF={cluster.configuration}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
