"""A table as plain data, as Markdown and as aligned text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Column heads and rows of text."""

    columns: list[str]
    rows: list[list[str]]


def markdown(table: Table) -> str:
    """Return the table in Markdown; a cell cannot break out of its column or carry HTML."""
    lines = [table.columns, ["---"] + ["---:"] * (len(table.columns) - 1), *table.rows]
    return "\n".join("| " + " | ".join(markdown_text(cell) for cell in line) + " |" for line in lines)


def markdown_text(text: str) -> str:
    """Return the text with the characters escaped that Markdown would read as a column, HTML or a new line."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return " ".join(escaped.split())


def plain(table: Table) -> str:
    """Return the table as aligned text, the first column to the left, the others to the right."""
    lines = [table.columns, *table.rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(table.columns))]
    texts = []
    for line in lines:
        padded = [" " * (width - len(cell)) for cell, width in zip(line, widths, strict=True)]
        cells = [line[0] + padded[0], *(gap + cell for gap, cell in zip(padded[1:], line[1:], strict=True))]
        texts.append("  ".join(cells).rstrip())
    return "\n".join([texts[0], "  ".join("-" * width for width in widths), *texts[1:]])
