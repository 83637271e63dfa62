#!/bin/bash

# Parameters
#SBATCH --account=vision
#SBATCH --constraint=80g
#SBATCH --cpus-per-task=8
#SBATCH --dependency=afterany:123_0
#SBATCH --error=/lab/results/table3_paper/slurm/20260101-000000/jobs/%j_0_log.err
#SBATCH --exclusive
#SBATCH --gres=gpu:a100:4
#SBATCH --job-name=table3
#SBATCH --mail-user=someone@example.org
#SBATCH --mem=240G
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output=/lab/results/table3_paper/slurm/20260101-000000/jobs/%j_0_log.out
#SBATCH --partition=a100
#SBATCH --requeue
#SBATCH --reservation=paper
#SBATCH --signal=USR2@300
#SBATCH --time=2880

# setup
echo "EAD-Bench: job ${SLURM_JOB_ID} start ${SLURM_RESTART_COUNT:-0} on $(hostname -s) at $(date -Is)" >&2
module load cuda/12.8
export PYTHONPATH=/lab/results/code/0123456789ab${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1
export OMP_NUM_THREADS=8 OMP_WAIT_POLICY=PASSIVE
trap : TERM

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /lab/results/table3_paper/slurm/20260101-000000/jobs/%j_%t_log.out --error /lab/results/table3_paper/slurm/20260101-000000/jobs/%j_%t_log.err --kill-on-bad-exit=1 --open-mode=append --cpus-per-task=8 /lab/venv/bin/python -u -m submitit.core._submit /lab/results/table3_paper/slurm/20260101-000000/jobs


# teardown
code=$?
[ $code -eq 0 ] || /lab/venv/bin/python -m bench.slurm.postmortem /lab/results/table3_paper/slurm/20260101-000000 1 "${SLURM_ARRAY_TASK_ID:-0}" $code
exit $code