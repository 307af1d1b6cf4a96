#!/bin/bash
# On the GPU machine, in the repository's root: the GPU tests, and beside them the studies until SECONDS after the start;
# the files go to $OUT. Returns when the runs have ended, at the latest a minute and a half after SECONDS.
#
# Usage, in one call of at least SECONDS + 90 that carries .kit and .whl:
#   bash scripts/gpu_kit/start.sh SECONDS "ARGUMENTS OF bdia studies" ["ARGUMENTS"] ...
# such as "scale=few only=[bits_cifar10] seeds=[0,1,2] workers=12". WEIGHTS="NAME ..." has the weights of those runs packed, LAST="NAME ..." the
# checkpoints of those that were stopped.
# Needs .whl (wheels that the machine lacks) and .kit: git (a clone's .git folder), bin (a git), and c10, c100 (image
# sheets of cifar_part.py), of which those of the studies suffice.
# A further call on the same machine skips the tests and what has ended, and continues what was stopped; on another machine
# it continues what the files last_*.tar of an earlier call hold, put into .kit/last.
seconds=${1:?seconds} kit=/tmp/kit
shift
mkdir -p $kit/runs/logs /tmp/bdia /tmp/data "${OUT:?a folder for what comes back}"
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
git log -1 --format='commit %H'
[ -z "$(git status --porcelain -- ':(top)' ':(top,exclude)results')" ] || { echo "the tree is not the commit's"; exit 1; }
for folder in "$sheets"/c10 "$sheets"/c100; do
  [ -d "$folder" ] && python3 scripts/gpu_kit/cifar_part.py unpack --sheets "$folder" --data /tmp/data
done
if [ ! -e $kit/tested ]; then
  (CUDA_MPS_PIPE_DIRECTORY=/nowhere timeout 300 python3 -m pytest -q -m gpu -n 3 -p no:cacheprovider -p no:benchmark --durations 3 -rs \
    --continue-on-collection-errors tests >$kit/runs/logs/gpu_tests.log 2>&1; tail -n 25 $kit/runs/logs/gpu_tests.log) &
  touch $kit/tested
fi
for file in "$sheets"/last/*.tar; do
  [ -e "$file" ] && mkdir -p $kit/runs && tar -xf "$file" -C $kit/runs
done
mps=$(PATH=$PATH:/usr/local/nvidia/bin command -v nvidia-cuda-mps-control)
if [ -n "$mps" ]; then # one context for all processes: their kernels run side by side
  mkdir -p $kit/mps $kit/mps-log
  [ -e $kit/mps/nvidia-cuda-mps-control.pid ] || $mps -d
fi
if ! python3 -c "import torch; torch.ones(1, device='cuda')"; then
  [ -n "$mps" ] && echo quit | $mps
  unset CUDA_MPS_PIPE_DIRECTORY
fi
echo "after ${SECONDS} s: MPS ${mps:-is not there}"
number=0
for arguments in "$@"; do
  number=$((number + 1))
  python3 -m bdia.cli studies $arguments budget=$((seconds - SECONDS))s runs=$kit/runs results=/tmp/bdia/results \
    >$kit/runs/logs/studies_$number.log 2>&1 &
done
wait
mkdir -p $kit/new
git ls-files --others --exclude-standard results | xargs -r cp --parents -t $kit/new
python3 scripts/gpu_kit/pack.py $kit/runs $kit/new/results "$OUT" $WEIGHTS
(cd $kit/runs && for file in $(for name in $LAST; do echo $name/*/last.ckpt; done); do
  [ -e "$file" ] && tar -cf "$OUT/last_$(echo "$file" | tr / _).tar" "$(dirname "$file")"
done)
tail -n 9 $kit/runs/logs/studies_*.log
nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader
