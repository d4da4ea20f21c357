#!/usr/bin/env bash
# The same settings with several seeds, and what they have in common:
#
#   bash examples/seeds.sh FOLDER [options of es-ray run]
#   SEEDS="0 1 2 3" bash examples/seeds.sh sweep/0.3 --set evolution.noise.relative=0.3
#
# Each run goes into FOLDER/seed-N, the comparison into FOLDER/compare. If it is interrupted, start it again: runs
# that have ended are left alone, one that was stopped is resumed. Two sweeps beside each other:
#   es-ray compare sweep/0.3/seed-* sweep/0.2/seed-*
set -euo pipefail

folder=${1:?usage: bash examples/seeds.sh FOLDER [options of es-ray run]}
shift
runs=()
for seed in ${SEEDS:-0 1 2}; do
  run=$folder/seed-$seed
  if [[ -e $run/test_results.json ]]; then # written last, when a run has ended
    echo "$run has ended"
  elif [[ -e $run/config.yaml ]]; then
    es-ray run --resume --output "$run"
  else
    es-ray run "$@" --seed "$seed" --output "$run"
  fi
  runs+=("$run")
done
es-ray compare "${runs[@]}" --output "$folder/compare"
