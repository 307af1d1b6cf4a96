"""Overrides of folders and files as people type them: to Hydra `,` `=` `#` `(` and quotes mean something else."""

import re
from collections.abc import Sequence

# Keys whose value is a path. A path is one value, in a sweep too.
PATHS = re.compile(
    r"(\+{0,2}(?:paths\.(?:runs|results)|(?:weights\.pretrain\.)?data\.(?:data_dir|cache_dir|source\.(?:folder|file|path|"
    r"cache_dir)|tokenizer\.(?:folder|path))|model\.net\.weights|weights\.from))=(.*)",
    re.DOTALL,
)
PLAIN = re.compile(r"[\w./:@%+-]*", re.ASCII)


def quoted(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with the paths among them quoted where Hydra would read something else.

    A value in quotes, an interpolation (`${...}`) and null stay as they are.
    """
    return [_quoted(text) for text in overrides]


def _quoted(text: str) -> str:
    found = PATHS.fullmatch(text)
    if not found:
        return text
    key, value = found.groups()
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if is_quoted or "${" in value or PLAIN.fullmatch(value):
        return text
    # In Hydra's quotes a backslash counts before a quote or at the end only.
    escaped = re.sub(r"(\\*)(')", r"\1\1\\'", value)
    escaped += "\\" * (len(escaped) - len(escaped.rstrip("\\")))
    return f"{key}='{escaped}'"
