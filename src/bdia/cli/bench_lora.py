"""Memory and CPU time of a Llama-like decoder over its depth: LoRA and full training, with and without BDIA.

Usage: bdia bench-lora [key=value ...]

  trainings=[lora,full]
  depths=[12,24,48,96]  width=128  tokens=512  batch=2
  variants=[...]        standard checkpoint bdia_half bdia_sixteenth bdia_nested
  repeats=[5,5,3,1]     rounds of each of the depths; every variant is timed once in each; 0 measures memory only
  threads=1             of the CPU
  out=results/bench     folder of the JSON
  tables=results/tables folder of lora_depth.md
  show=null             JSON of an earlier run: print it and write its table again, run nothing

An interrupted run keeps the depths it has finished.

Examples:
  bdia bench-lora
  bdia bench-lora trainings=[lora] depths=[12,24] repeats=[5,5]
"""

from collections.abc import Sequence

from bdia.cli.arguments import read_arguments


def run(argv: Sequence[str]) -> None:
    """Measure, or show an earlier run."""
    from bdia.bench.lora_depth import Arguments, run

    run(read_arguments(Arguments(), argv))
