"""Whether a run logs to Weights & Biases over the network: only where the server answers and takes the key."""

import logging
import netrc
import os
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

log = logging.getLogger("bdia")

MODES = ("online", "offline", "disabled", "shared", "dryrun")
SECONDS = 6.0  # for the server to answer, whatever a proxy does
SERVER = "https://api.wandb.ai"
QUERY = {"query": "query Viewer { viewer { id } }"}


def choose_mode() -> tuple[str, str]:
    """Return the mode and, where it is not the one asked for, why: asked for are WANDB_MODE, else online with a key.

    Nothing here raises or waits longer than `SECONDS`.
    """
    asked = os.environ.get("WANDB_MODE", "").strip().lower()
    if asked and asked not in MODES:
        return "offline", f"WANDB_MODE={asked}: wanted one of {', '.join(MODES)}"
    asked = {"dryrun": "offline"}.get(asked, asked)
    key = api_key()
    if asked in ("offline", "disabled") or not (asked or key):
        return asked or "offline", ""
    if not key:
        return "offline", f"WANDB_MODE={asked}, and there is no key: run `wandb login` or set WANDB_API_KEY"
    reason = unreachable(key)
    return ("offline", reason) if reason else (asked or "online", "")


def api_key() -> str:
    """Return the key that WANDB_API_KEY or `wandb login` left, "" where there is none; asks nobody."""
    if key := os.environ.get("WANDB_API_KEY", ""):
        return key
    host = urlparse(_server()).hostname or ""
    try:
        found = netrc.netrc(os.environ.get("NETRC", Path.home() / ".netrc")).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return ""
    return found[2] or "" if found else ""


def unreachable(key: str) -> str:
    """Return why the server can't be used with this key, "" where it can."""
    found: list[str] = []
    asking = threading.Thread(target=lambda: found.append(_ask(key)), daemon=True)  # a hanging proxy holds it alone
    asking.start()
    asking.join(SECONDS)
    return found[0] if found else f"{_server()} did not answer in {SECONDS:g} s"


def _ask(key: str) -> str:
    import requests  # here: of W&B, and slow to import

    try:
        answer = requests.post(f"{_server()}/graphql", json=QUERY, auth=("api", key), timeout=SECONDS)
        if answer.status_code in (401, 403):
            return f"{_server()} refuses the key"
        if answer.status_code >= 400:
            return f"{_server()} answers {answer.status_code}"
        data: Any = answer.json()
        return "" if (data.get("data") or {}).get("viewer") else f"{_server()} refuses the key"
    except (requests.RequestException, ValueError, AttributeError) as error:
        return f"{_server()} can't be reached ({type(error).__name__})"


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL", SERVER).rstrip("/")
