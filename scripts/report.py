"""Turn results/ into tables and results/report.html. Run: python scripts/report.py --results results"""

import sys

from bdia.results.report import main

if __name__ == "__main__":
    sys.exit(main())
