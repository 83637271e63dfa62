#!/bin/bash

# Parameters
#SBATCH --cpus-per-task=4
#SBATCH --dependency=afterany:123
#SBATCH --error=/lab/results/table3_paper/slurm/20260101-000000/jobs/%j_0_log.err
#SBATCH --job-name=table3-collect
#SBATCH --mem=16G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/lab/results/table3_paper/slurm/20260101-000000/jobs/%j_0_log.out
#SBATCH --partition=a100
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=60

# setup
echo "EAD-Bench: job ${SLURM_JOB_ID} start ${SLURM_RESTART_COUNT:-0} on $(hostname -s) at $(date -Is)" >&2
export PYTHONPATH=/lab/results/code/0123456789ab${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1
export OMP_NUM_THREADS=4 OMP_WAIT_POLICY=PASSIVE

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /lab/results/table3_paper/slurm/20260101-000000/jobs/%j_%t_log.out --error /lab/results/table3_paper/slurm/20260101-000000/jobs/%j_%t_log.err --open-mode=append --cpus-per-task=4 /lab/venv/bin/python -u -m submitit.core._submit /lab/results/table3_paper/slurm/20260101-000000/jobs
