"""Train with several values of a key: one run, one record for each combination.

Usage: bdia sweep key=value,value [key=range(0,3)] [key=value ...]

Keys are those of `bdia train`. A combination that is refused stops the sweep before its first run. The same command
leaves out what has ended well and continues what was stopped.

  hydra/launcher=joblib hydra.launcher.n_jobs=4    four runs at a time

Examples:
  bdia sweep stack=standard,checkpoint,revvit,bdia seed=0,1,2
  bdia sweep stack=bdia gamma@stack.gamma=half,quarter stack.bits=7,9 seed=0,1
  bdia sweep hydra/launcher=joblib hydra.launcher.n_jobs=2 stack=standard,bdia seed=0,1
"""

from collections.abc import Sequence


def run(argv: Sequence[str]) -> None:
    """Train every combination."""
    from bdia.train.launch import launch

    launch(argv, sweep=True)
