"""Memory and time of a Hugging Face decoder over depth, LoRA and full. Run: python scripts/lora_depth.py"""

from bdia.bench.lora_depth import Arguments, run
from bdia.cli.arguments import command

if __name__ == "__main__":
    command(run, Arguments(), Arguments.__doc__, None)
