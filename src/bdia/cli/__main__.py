"""`python -m bdia.cli` is `bdia`."""

from bdia.cli.main import main

if __name__ == "__main__":
    main()
