"""Time and memory of every stack on this machine. Run: python scripts/bench.py --quick"""

from bdia.bench.command import main

if __name__ == "__main__":
    main()
