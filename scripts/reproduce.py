"""Reproduce Table 1: python scripts/reproduce.py cifar10 [--scale paper|cpu|smoke] [--seeds 3] [--data-dir DIR]."""

from bdia.train.reproduce import main

if __name__ == "__main__":
    main()
