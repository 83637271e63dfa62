"""`python -m bench.work SPEC_OR_RUN_FOLDER`: the incomplete stages of one run, under the run's lease.

train → evaluate → profile → trace → overfit, each skipped when its result exists. The outcome is in status.json and the
exit code: 0 done, 75 locked by another process, 130 stopped by a signal (a checkpoint is written), 1 anything else.
For several processes: torchrun --nproc-per-node N -m bench.work SPEC.yaml --scale paper (docs/cluster.md).
"""

from bench.common.errors import run_command
from bench.execution.direct import main

if __name__ == "__main__":
    run_command(main)
