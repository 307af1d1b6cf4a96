"""`python -m bdia.train key=value ...` is `bdia train key=value ...`."""

import sys

from bdia.cli.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
