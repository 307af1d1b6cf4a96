"""Train one model, or the runs of an experiment. Each run leaves one record in results/ and a checkpoint in runs/.

Usage: bdia train [group=file ...] [key=value ...]

  experiment=      a file of configs/experiment: all choices at once, and what is varied
  data= model= stack= optimizer= scheduler= trainer= logger=
                   files of the folders in configs/
  stack.gamma=1/4  the law +-1/4; gamma@stack.gamma=ramp takes a file of configs/gamma
  stack.keep=2     any key of the chosen files; `bdia config` shows them all
  +trainer.min_epochs=3
                   a key that is in no file, but that the class named by _target_ takes
  seed=0           of weights, data order, dropout and gamma
  name=custom      folder of the records
  rerun=false      true: run again what has ended well
  paths.results=results  paths.runs=runs
                   relative to the folder in which the command runs
  hydra/launcher=joblib hydra.launcher.n_jobs=4
                   several runs of a sweep at a time

The same command continues a run that was stopped. Environment: BDIA_DATA, the folder of the data.

Examples:
  bdia train experiment=demo                                  (eight runs of minutes in all)
  bdia train data=cifar10 model=vit_cpu stack=bdia stack.gamma=1/4 stack.bits=7 seed=1
  bdia train data=pydoc model=gpt2_demo stack=bdia tokenizer@data.tokenizer=bytes trainer.max_epochs=1
"""

from collections.abc import Sequence


def run(argv: Sequence[str]) -> None:
    """Train."""
    from bdia.train.launch import launch

    launch(argv)
