#!/bin/bash
# On the GPU machine, in the repository's root: the GPU tests, then run_jobs.py in the background, for SECONDS of time.
# Needs .whl (wheels that the machine lacks) and .kit: git (a clone's .git folder), bin (a git), c10, c100 (image sheets).
# Usage: bash scripts/gpu_kit/start.sh SECONDS [WAIT]; wait.sh fetches what the runs leave.
seconds=${1:?seconds} wait=${2:-150} kit=/tmp/kit
mkdir -p $kit /tmp/bdia /tmp/data
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl || exit 1
tar -c --exclude=./.kit --exclude=./.whl --exclude=./.git . | tar -x -C /tmp/bdia
cp -r .kit/git /tmp/bdia/.git
command -v git >/dev/null || export PATH=$PATH:$PWD/.kit/bin
cp -r .kit/bin $kit && export PATH=$PATH:$kit/bin
cat > $kit/env <<EOF
export PYTHONPATH=/tmp/site:/tmp/bdia/src PATH=$PATH BDIA_DATA=/tmp/data PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
export CUDA_MPS_PIPE_DIRECTORY=$kit/mps CUDA_MPS_LOG_DIRECTORY=$kit/mps-log
EOF
. $kit/env
sheets=$PWD/.kit
cd /tmp/bdia || exit 1
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
echo "cores $(nproc), git: $(command -v git)"
git config core.fileMode false
git log -1 --format='commit %H' && git status --porcelain -- ':(top)' ':(top,exclude)results' | head -5
[ -z "$(git status --porcelain -- ':(top)' ':(top,exclude)results')" ] || { echo "the tree is not the commit's"; exit 1; }
python3 scripts/gpu_kit/cifar_part.py unpack --sheets $sheets/c10 --data /tmp/data & unpack=$!
mps=$(PATH=$PATH:/usr/local/nvidia/bin command -v nvidia-cuda-mps-control)
CUDA_MPS_PIPE_DIRECTORY=/nowhere python3 -m pytest -q -m gpu -n 4 -p no:cacheprovider --durations 3 -rs \
  tests/bench/test_rounds.py tests/data/test_augment.py tests/data/test_buckets.py tests/data/test_text.py \
  tests/reversible/test_cuda.py tests/test_train_text.py >"$OUT/gpu_tests.log" 2>&1
tail -n 40 "$OUT/gpu_tests.log"
wait $unpack || exit 1
workers="18 6"
if [ -n "$mps" ]; then # one context for all processes: their kernels run side by side
  mkdir -p $kit/mps $kit/mps-log
  $mps -d && workers=18
fi
echo "after ${SECONDS} s: MPS ${mps:-is not there}"
python3 -c "import torch; torch.ones(1, device='cuda')" || { echo quit | $mps; unset CUDA_MPS_PIPE_DIRECTORY; workers="18 6"; }
setsid python3 scripts/gpu_kit/run_jobs.py --experiments table1_cifar10_long table1_cifar100_long \
  --workers $workers --seconds "$seconds" --runs $kit/runs --results $kit/results --out $kit/out >$kit/log 2>&1 </dev/null &
for ((i = 0; i < wait; i++)); do
  grep -qE 'epochs for|left out|Error' $kit/log && { sleep 15; break; }
  sleep 1
done
cat $kit/log
tail -n 3 $kit/runs/logs/*.log $kit/runs/calibration*/logs/*bdia_s0.log 2>/dev/null | cut -c1-300 | tail -n 20
nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader
uptime
