"""Measure one thing of the paper on models as they are, without training, and write its record.

Usage: bdia study name=... [key=value ...]

  name=reconstruction   error of the rebuilt stream, block by block, in float and on the grid (the paper's Fig. 2)
  name=inference        trained image classifiers: constant gamma (Fig. 1), grids, corruptions, random paths
  name=whole_step       peak memory and time of a whole step, with and without stepping weights in backward
  name=equal_memory     time against memory of a whole step: BDIA and checkpointing with more and more kept blocks
  name=length           memory of a whole step against depth and length; the longest, deepest, largest in 4 to 80 GiB
  name=compiled         layers compiled by torch.compile under every stack; what the compiler recomputes by itself
  name=transformers     transformers' own checkpointing beside this project's ways, on a model of transformers
  name=limits           what name=length planned for a memory, taken on a GPU that is held to that memory
  name=loss_head        the loss over a large vocabulary: this project's head beside torch's linear_cross_entropy
  name=stream           the stream as float32 and as int32: price of a step, precision of grids with large values
  out=                  folder of the record; empty: results/<name>

A study that is interrupted leaves what it has measured beside its record's place, in a file that ends in .part.

Keys of reconstruction:
  depths=[12,24,48]                     blocks of the model
  dtypes=[float32,bfloat16,float64]     of the float form
  model=gpt2_demo width=256 heads=8     the model, a language model of configs/model
  batch=4 tokens=128                    texts in the batch, tokens in a text
  gamma=1/2 bits=9 seeds=[0,1,2]

Keys of inference:
  runs=runs/table1_cifar10_few          folder with the runs of a study, each with its final.ckpt
  data=                                 folder of the images; empty: BDIA_DATA, else data
  gammas=[-0.5,-0.25,-0.1,0,0.1,0.25,0.5]
  bits=[4,5,6,7,9,12]                   grids at inference
  paths=16                              random draws of gamma whose predictions are averaged
  images=0                              of the test set; 0: all

Keys of whole_step:
  depths=[6,24,48]                      blocks of the model
  model=gpt2_demo width=256 heads=8     the model, a language model of configs/model
  vocabulary=2000 batch=2 tokens=512    tokens that there are, texts in the batch, tokens in a text
  optimizer=adamw rounds=5              a file of configs/optimizer; times of each way, of which the median counts
  ways=[...]                            some of standard, checkpoint, two_level, bdia, checkpoint_in_backward,
                                        standard_in_backward, host_in_backward, two_level_in_backward,
                                        bdia_in_backward, bdia_nested_in_backward, bdia_tiled_in_backward

Keys of equal_memory:
  depths=[24,48,96] width=128 heads=4   blocks and size of the model
  shares=[0,0.02,...,1] rounds=3        shares of the blocks that keep their activations; times of each point
  model=, vocabulary=, batch=, tokens=, optimizer=: as of whole_step

Keys of length, which `bdia bench what=[depth,length]` measures too:
  what=[depth,length,timm]              the curve over depth and the most blocks; the curve over length, the longest
                                        text and the largest batch; timm's own checkpointing on timm's ViT
  depths=[6,...,192] tokens=512         the curve over depth, of gpt2_demo with width=256 heads=8 vocabulary=2000
  lengths=[512,...,16384]               the curve over length, at length_depth=24 blocks
  batch=1 measured_gflop=400            texts in the batch; larger steps are planned, not run
  fit_model=gpt2_paper fit_depth=48     the model of the limits; fit_tokens=1024 and fit_batch=8 where not sought
  gib=[4,16,24,80] device=cuda          memories, and the device that is planned for
  ways=[...]                            some of those of whole_step
  timm_depths=[6,24,48] timm_batch=32   blocks of timm's ViT, images

Keys of compiled, which `bdia bench what=[compiled]` measures too:
  depths=[6,24] width=128 heads=4       blocks and size of the model
  model=, vocabulary=, batch=, tokens=, optimizer=: as of whole_step
  layer_budgets=[0.5,0]                 share of its activations that a compiled layer of the standard stack keeps
  whole_budgets=[1,0.5,0.1]             the same of the standard stack as one graph, compiled for minutes
  whole_up_to=6 rounds=5                the most blocks of such a graph; times of each way

Keys of transformers, which `bdia bench what=[transformers]` measures too:
  config=llama depths=[6,24]            a family of `bdia plan model=hf`, or a config.json; layers
  width=256 mlp=704 heads=8 kv_heads=4  its sizes; vocabulary=2000 tokens
  batch=2 tokens=512 loss_chunk=256     texts, tokens of each, tokens whose logits are made at once
  optimizer=adamw rounds=5              a file of configs/optimizer; times of each way

Keys of limits:
  record=                               of name=length; empty: the newest of results/length
  gib=[16] ways=[...]                   memories and ways that it planned for
  questions=["largest batch","most blocks"]
  lower=0.01 tries=20                   a size that does not run is lowered by this share, so often at most

Keys of loss_head:
  tokens=2048 width=256 vocabulary=50257 chunk=256 rounds=5

Keys of stream:
  depth=12 rounds=7                     blocks; times of a step of each form, 0: no step is taken
  model=, width=, heads=, vocabulary=, batch=8, tokens=256, optimizer=: as of whole_step
  bits=[8,...,16] seeds=[0,1,2]         grids; seeds of the model with large values
  outliers=[0,1000,10000,60000]         the large value in each text

Examples:
  bdia study name=reconstruction
  bdia study name=reconstruction depths=[6] seeds=[0]
"""

import dataclasses
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from bdia import InvalidValueError
from bdia.cli.arguments import read_arguments
from bdia.results.output import say_on_stderr

NAMES = ("reconstruction", "inference", "whole_step", "equal_memory", "length")
NAMES += ("compiled", "transformers", "limits", "loss_head", "stream")
STUDIES = {name: f"bdia.bench.studies.{name}" for name in NAMES}


def run(argv: Sequence[str]) -> None:
    """Measure, write the record, print its path."""
    own = {"name": "", "out": ""}
    for word in argv:
        key, _, value = word.partition("=")
        if key in own:
            own[key] = value
    if own["name"] not in STUDIES:
        raise InvalidValueError(f"name={own['name']}: wanted one of {', '.join(STUDIES)}; set name")
    study = import_module(STUDIES[own["name"]])
    rest = [word for word in argv if word.partition("=")[0] not in own]
    arguments = read_arguments(study.Arguments(), rest)
    from bdia.bench.studies.record import StudyRecord

    folder = Path(own["out"] or f"results/{own['name']}")
    record = StudyRecord(own["name"], dataclasses.asdict(arguments), folder)
    rows = []
    for part in study.measure(arguments):
        rows += part
        record.write(rows, finished=False)
        say_on_stderr(f"{own['name']}: {study.told(part)}")
    print(record.write(rows))
