"""What a record says of a run that broke."""

import re


def status_of(error: BaseException) -> str:
    """Return the record's status: "interrupted", "oom" (out of memory) or "failed"."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "interrupted"
    named = type(error).__name__ in ("OutOfMemoryError", "MemoryError")  # torch's own, without importing torch
    said = any(words in str(error) for words in ("can't allocate memory", "bad_alloc"))
    return "oom" if named or said else "failed"


def describe(error: BaseException) -> str:
    """Return the error's class and text without folders, at most 2,000 characters."""
    return without_folders(f"{type(error).__name__}: {error}")


def without_folders(text: str) -> str:
    """Cut absolute paths down to the file's name: records are public and the same on every machine."""
    return re.sub(r"(?<![\w.~/-])/(?:[^/\s'\"]+/)+", "", text)[:2000]
