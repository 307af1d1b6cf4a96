#!/bin/bash
# On the GPU machine, in the repository's root: the GPU tests, then run_jobs.py until SECONDS after the start; its files
# go to $OUT. Returns when the runs have ended, at the latest a minute after SECONDS.
#
# Usage, in one call of at least SECONDS + 60 that carries .kit and .whl:
#   bash scripts/gpu_kit/start.sh SECONDS [EXPERIMENT ...]
# Needs .whl (wheels that the machine lacks) and .kit: git (a clone's .git folder), bin (a git), and c10, c100 (image
# sheets of cifar_part.py), of which those of the experiments suffice. Without names both long experiments run.
# A further call on the same machine skips the tests and what has ended, and continues what was stopped; so a data set
# that is too large to travel with the first call comes with the second.
seconds=${1:?seconds} kit=/tmp/kit
shift
experiments=${*:-table1_cifar10_long table1_cifar100_long}
mkdir -p $kit /tmp/bdia /tmp/data "${OUT:?a folder for what comes back}"
rm -f $kit/out/*.tar.gz
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl || exit 1
tar -c --exclude=./.kit --exclude=./.whl --exclude=./.git . | tar -x -C /tmp/bdia
[ -e /tmp/bdia/.git ] || cp -r .kit/git /tmp/bdia/.git
cp -r .kit/bin $kit
command -v git >/dev/null || export PATH=$PATH:$kit/bin
export PYTHONPATH=/tmp/site:/tmp/bdia/src BDIA_DATA=/tmp/data PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
export CUDA_MPS_PIPE_DIRECTORY=$kit/mps CUDA_MPS_LOG_DIRECTORY=$kit/mps-log
sheets=$PWD/.kit
cd /tmp/bdia || exit 1
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
echo "cores $(nproc), git: $(command -v git)"
git config core.fileMode false
git log -1 --format='commit %H' && git status --porcelain -- ':(top)' ':(top,exclude)results' | head -5
[ -z "$(git status --porcelain -- ':(top)' ':(top,exclude)results')" ] || { echo "the tree is not the commit's"; exit 1; }
for folder in "$sheets"/c10 "$sheets"/c100; do
  [ -d "$folder" ] && echo "$folder"
done | xargs -r -I{} python3 scripts/gpu_kit/cifar_part.py unpack --sheets {} --data /tmp/data & unpack=$!
if [ ! -e $kit/tested ]; then
  CUDA_MPS_PIPE_DIRECTORY=/nowhere python3 -m pytest -q -m gpu -n 4 -p no:cacheprovider --durations 3 -rs \
    --continue-on-collection-errors tests >"$OUT/gpu_tests.log" 2>&1
  tail -n 40 "$OUT/gpu_tests.log"
  touch $kit/tested
fi
wait $unpack || exit 1
workers="18 6"
mps=$(PATH=$PATH:/usr/local/nvidia/bin command -v nvidia-cuda-mps-control)
if [ -n "$mps" ]; then # one context for all processes: their kernels run side by side
  mkdir -p $kit/mps $kit/mps-log
  if [ -e $kit/mps/nvidia-cuda-mps-control.pid ] || $mps -d; then workers=18; fi
fi
echo "after ${SECONDS} s: MPS ${mps:-is not there}"
if ! python3 -c "import torch; torch.ones(1, device='cuda')"; then
  [ -n "$mps" ] && echo quit | $mps
  unset CUDA_MPS_PIPE_DIRECTORY
  workers="18 6"
fi
left=$((seconds - SECONDS)) # run_jobs.py ends by itself, 20 s later at most; `timeout` is for one that hangs
timeout -k 5 $((left + 50)) python3 scripts/gpu_kit/run_jobs.py --experiments $experiments --workers $workers \
  --seconds "$left" --runs $kit/runs --results $kit/results --out $kit/out 2>&1 | tee "$OUT/log"
[ -e $kit/out/logs.tar.gz ] || { mkdir -p $kit/results && tar -czf "$OUT/some_records.tar.gz" -C $kit/results .; }
cp $kit/out/*.tar.gz "$OUT"
tail -n 3 $kit/runs/logs/*.log $kit/runs/calibration*/logs/*bdia_s0.log 2>/dev/null | cut -c1-300 | tail -n 20
nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader
