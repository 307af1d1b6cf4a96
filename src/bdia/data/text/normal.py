"""When two texts are the same text: up to Unicode forms, case, white space and characters without width."""

import re
import unicodedata

INVISIBLE = re.compile(
    "[\u00ad\u200b-\u200d\u2060\ufeff]"
)  # soft hyphen, zero-width space and joiners, mark of byte order


def normal(text: str) -> str:
    """Return the form by which texts are compared: NFKC, case folded, white space collapsed, nothing invisible."""
    return " ".join(INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).casefold().split())


def is_blank(text: str) -> bool:
    """Tell whether a reader would see nothing."""
    return not INVISIBLE.sub("", text).strip()
