"""Sweeps on a SLURM cluster, or queued on one workstation, through submitit.

cluster (the YAML file) + snapshot (the source) → script (sbatch text) → submit. On the cluster: job and collect, and
postmortem after a killed step. queue queries squeue, scontrol and sacct; run_state combines run folders and queue for
bench.status and bench.cancel.
"""
