"""submitit's local executor, with processes that outlive the terminal they were started from."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from submitit import LocalExecutor, LocalJob

from bench.common.compat import SUBMITIT_LOCAL_MODULE


class DetachedExecutor(LocalExecutor):
    """Jobs get a session of their own and write to a file: they hold no terminal and no pipe of the submitter."""

    def _submit_command(self, command: str) -> LocalJob[Any]:
        """As LocalExecutor's, but for the session and the output."""
        tasks = int(self.parameters.get("tasks_per_node", 1))
        variables = {
            "SUBMITIT_LOCAL_NTASKS": tasks,
            "SUBMITIT_LOCAL_COMMAND": command,
            "SUBMITIT_LOCAL_TIMEOUT_S": int(60 * self.parameters["timeout_min"]),
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": 30,
            "SUBMITIT_LOCAL_NODEID": 0,
            "SUBMITIT_LOCAL_JOB_NUM_NODES": 1,
            "SUBMITIT_STDERR_TO_STDOUT": "",
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_WITH_SHELL": "",
        }
        with (self.folder / "controllers.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", SUBMITIT_LOCAL_MODULE, str(self.folder)],
                env=os.environ | {key: str(value) for key, value in variables.items()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return LocalJob(folder=self.folder, job_id=str(process.pid), process=process, tasks=list(range(tasks)))
