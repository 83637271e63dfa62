"""Sweeps on a SLURM cluster, or queued on one workstation, through submitit.

cluster (the YAML) + snapshot (the code) → script (sbatch text) → submit; job, collect run there, postmortem after a
killed step; queue asks squeue, scontrol and sacct; standing joins files and queue for bench.status and bench.cancel.
"""
