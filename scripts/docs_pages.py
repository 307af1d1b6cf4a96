"""mkdocs calls this for every page (`hooks` in mkdocs.yml): the line `<!-- stacks -->` becomes one entry per stack."""

from typing import Any

from bdia.reversible.stacks.registry import STACKS

PLACE = "<!-- stacks -->"


def with_stacks(markdown: str) -> str:
    """Return the page with the API entries of every stack of the registry."""
    entries = (f"::: bdia.reversible.stacks.{row.module}.{row.class_name}" for row in STACKS)
    return markdown.replace(PLACE, "\n".join(entries))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return what mkdocs renders."""
    return with_stacks(markdown)
