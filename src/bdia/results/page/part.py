"""One study or measurement, as the page's template takes it."""

from dataclasses import dataclass

from bdia.results.page.plot import Plot
from bdia.results.tables import Table


@dataclass(frozen=True)
class Part:
    """What a section of the page shows.

    Args:
        anchor: its id. kicker: the name of its records. title, text: what was asked.
        table: None where there is none. figure: likewise.
        found: what the numbers say. command: what runs it again, "" where the source says it.
        source: how many records, of which commits, on what. notes: behind a fold, with the records' names in `records`.
    """

    anchor: str
    kicker: str
    title: str
    text: str
    table: Table | None
    figure: Plot | None
    found: tuple[str, ...]
    command: str
    source: str
    notes: tuple[str, ...]
    records: tuple[str, ...]
    place: tuple[int, str, int] = (0, "", 0)
