"""The command `bdia <verb> key=value ...`: finds the verb's file, which is imported then and not before."""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from bdia import __version__
from bdia.cli.errors import one_line_errors, refuse

# verb -> what it does, in the order in which it is needed. Its file here has the same name, with _ for -.
VERBS = {
    "train": "train one model, or the runs of an experiment; one record per run",
    "sweep": "train with several values: a run for each combination",
    "config": "show the config that choices compose to, and run nothing",
    "plan": "memory of a training step with every stack, before it runs",
    "profile": "what is alive at the peak of a forward and backward, by module and name",
    "report": "records -> tables and one HTML page",
    "dashboard": "a study on W&B: workspace and report",
    "reproduce": "a table or figure of the paper: data, sweep, report",
    "studies": "the studies in order of priority, within a budget of time",
    "bench": "time and memory of every stack on this machine",
    "bench-lora": "memory and time of a Llama-like decoder over its depth, LoRA and full",
    "study": "measure one thing of the paper on models as they are",
    "generate": "continue a text with a trained language model",
    "translate": "translate lines with a trained translation model",
    "export": "write a trained model for transformers, timm or plain PyTorch",
    "completion": "print the shell's completion of this command",
}
HELP = ("-h", "--help")


def usage() -> str:
    """Return the text of `bdia --help`."""
    verbs = "\n".join(f"  {verb:<11} {what}" for verb, what in VERBS.items())
    return f"""Train standard transformers reversibly, to the bit, and measure what that saves.

Usage: bdia <verb> [key=value ...]
       bdia <verb> --help
       bdia --version

{verbs}

An error is one line and exit code 2. BDIA_DEBUG=1 shows its traceback.
Examples:
  bdia train experiment=demo
  bdia train data=cifar10 model=vit_cpu stack=bdia stack.gamma=1/4
  bdia plan model=vit_large batch=64 memory=24GiB
  bdia report experiment=demo"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a verb.

    Raises:
        SystemExit: 2 after an error, of which stderr shows one line; else what the verb exits with.
    """
    verb, *rest = (sys.argv[1:] if argv is None else argv) or HELP[:1]
    with one_line_errors():
        if verb in HELP:
            print(usage())
            return
        if verb == "--version":
            print(f"bdia {__version__}")
            return
        if verb not in VERBS:
            near = get_close_matches(verb, VERBS, n=1)
            meant = f"did you mean {near[0]}?" if near else f"wanted one of {', '.join(VERBS)}"
            refuse(f"bdia {verb}: there is no such verb; {meant}")
        module = import_module(f"bdia.cli.{verb.replace('-', '_')}")
        if set(HELP) & set(rest):
            print(module.__doc__.strip())
            return
        for word in rest:
            if word.startswith("-"):
                wanted = "a sweep is `bdia sweep`" if word in ("-m", "--multirun") else f"see bdia {verb} --help"
                refuse(f"{word}: bdia {verb} takes no flags but key=value; {wanted}")
        module.run(rest)
