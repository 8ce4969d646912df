#!/bin/bash
# One run on Slurm: `sbatch configs/cluster/slurm.sh my.yaml`, once more to go on. See docs/cluster.md.
#SBATCH --job-name=ntt-ray
#SBATCH --nodes=2
#SBATCH --tasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-task=4
#SBATCH --cpus-per-task=32
set -euo pipefail
config=$1

# whole nodes are needed: symmetric-run begins and ends with every Ray process of the node
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
address="$(getent ahostsv4 "$head" | awk 'NR == 1 {print $1}'):6379"

# nobody else on the network may enter: a secret of this run, which srun hands to every node
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')

# Ray starts on every node, the command after -- on the first one only; it has to be told of the
# cluster, or it would start a Ray of its own
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
  ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_PER_TASK:-0}" \
  -- env RAY_ADDRESS="$address" ntt-ray run "$config"
