"""Train one model, or a sweep with -m, and leave one record per job. Run: python scripts/train.py experiment=demo"""

from bdia.train.__main__ import main

if __name__ == "__main__":
    main()
