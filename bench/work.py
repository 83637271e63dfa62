"""`python -m bench.work RUN_FOLDER`: one run's missing stages, in a process of their own, under the run's lease.

train → evaluate → profile → trace, each skipped when its file is there. How it ended stands in status.json and the exit
code: 0 done, 75 somebody else holds the run, 130 stopped on request (a checkpoint is written), 1 anything else.
"""

from bench.common.errors import run_command
from bench.execution.worker import main

if __name__ == "__main__":
    run_command(main)
