"""Look the pinned packages up in the advisories, with pip-audit; where those can't be reached, say so and end well.

Usage: python scripts/audit.py
"""

import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
NO_NETWORK = (
    "ConnectionError",
    "Max retries exceeded",
    "Failed to connect",
    "ConnectTimeout",
    "ReadTimeout",
    "ServiceError",
)


def main() -> None:
    """Run pip-audit on constraints.txt."""
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--no-deps",
        "--disable-pip",
        "--timeout",
        "10",
        "-r",
        str(CONSTRAINTS),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout, end="")
    if done.returncode and any(sign in done.stderr for sign in NO_NETWORK):
        print("the advisories could not be reached: nothing was looked up")
        return
    print(done.stderr, end="", file=sys.stderr)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
