#!/bin/bash
# On the GPU machine, after start.sh: unpack the second data set, wait up to SECONDS for run_jobs.py, bring back its files.
# Usage: bash scripts/gpu_kit/wait.sh SECONDS
seconds=${1:?seconds} kit=/tmp/kit
. $kit/env
if [ ! -e /tmp/data/cifar100.npz ] && [ -d .kit/c100 ]; then
  (cd /tmp/bdia && python3 scripts/gpu_kit/cifar_part.py unpack --sheets "$OLDPWD/.kit/c100" --data /tmp/data)
fi
while ((SECONDS < seconds)) && [ ! -e $kit/out/logs.tar.gz ]; do sleep 1; done
[ -e $kit/out/logs.tar.gz ] || tar -czf "$OUT/some_records.tar.gz" -C $kit/results .
sleep 1
cp $kit/out/*.tar.gz $kit/log "$OUT"
cat $kit/log
nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader
