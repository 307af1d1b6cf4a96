"""Time and memory of every stack on this machine. Run: python scripts/bench.py --quick"""

import sys

from bdia.bench.run import Arguments, quick, run
from bdia.cli.arguments import command

if __name__ == "__main__":
    defaults = quick() if "--quick" in sys.argv else Arguments()
    command(run, defaults, Arguments.__doc__, [word for word in sys.argv[1:] if word != "--quick"])
