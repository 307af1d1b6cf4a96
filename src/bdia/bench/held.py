"""What one more block holds between forward and backward: the difference of two depths, at one batch."""

from collections.abc import Sequence

from bdia.bench.record import Row


def bits_per_extra_block(row: Row, rows: Sequence[Row]) -> float | None:
    """Return the bits held per activation (B * T * D of them) and block beyond the next smaller depth measured.

    None where no smaller depth was measured with the same batch.
    """
    same = [other for other in rows if _setting(other) == _setting(row) and other.depth < row.depth]
    smaller = max((other for other in same if "held" in other.memory), key=lambda other: other.depth, default=None)
    if smaller is None or "held" not in row.memory:
        return None
    extra = (row.memory["held"] - smaller.memory["held"]) / (row.depth - smaller.depth)
    return 8 * extra / row.memory["stream"]


def _setting(row: Row) -> tuple[str, str, str, str, int]:
    return row.part, row.model, row.precision, row.variant, row.batch
