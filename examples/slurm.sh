#!/bin/bash
# es-ray as a Slurm job, on one node or on several; options of `es-ray run` come last:
#
#   sbatch --nodes=1 --gpus-per-node=8 examples/slurm.sh --preset qwen2.5-7b-conciseness
#   sbatch --nodes=2 --gpus-per-node=8 examples/slurm.sh --preset qwen2.5-7b-conciseness
#
# OUTPUT: the run's folder, which all nodes must see (default: ~/runs/JOB). WORKERS: engines (default: one for each
# GPU, without GPUs one for each node). A job that is requeued, or submitted again with the same OUTPUT, resumes.
#SBATCH --job-name=es-ray
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

output=${OUTPUT:-$HOME/runs/$SLURM_JOB_ID}
workers=${WORKERS:-$((SLURM_NNODES * ${SLURM_GPUS_ON_NODE:-1}))}
options=(--output "$output" --workers "$workers")
if [[ -e $output/config.yaml ]]; then # the run keeps its settings
  options+=(--resume)
else
  options+=("$@")
fi

if ((SLURM_NNODES == 1)); then # es-ray starts Ray on this node, reachable from this node alone
  exec srun --cpu-bind=none es-ray run "${options[@]}"
fi

# Every node starts Ray, the first one's is the head, and the run starts there when all have joined. Only who has the
# token may use this Ray; it is in the home folder, which all nodes must see.
export RAY_AUTH_MODE=token RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=180
ray get-auth-token --generate > /dev/null
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(getent ahostsv4 "$head" | awk 'NR == 1 { print $1 }'):6379
exec srun --cpu-bind=none \
  ray symmetric-run --address "$address" --min-nodes "$SLURM_NNODES" --num-cpus "$SLURM_CPUS_ON_NODE" -- \
  es-ray run --address "$address" "${options[@]}"
