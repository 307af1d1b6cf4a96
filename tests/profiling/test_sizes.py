"""Amounts of memory, read and written."""

import pytest

from bdia.profiling.sizes import format_bytes, read_memory


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("24GiB", 24 * 2**30), ("512 MiB", 512 * 2**20), ("1.5GiB", 3 * 2**29), ("24GB", 24e9), ("100B", 100)],
)
def test_amounts_are_bytes(text, wanted):
    assert read_memory(text, "memory") == wanted
    assert isinstance(read_memory(text, "memory"), int)


@pytest.mark.parametrize(("text", "wanted"), [("0.5", 0.5), (0.25, 0.25), (".9", 0.9), (1, 1.0)])
def test_numbers_up_to_one_are_fractions(text, wanted):
    found = read_memory(text, "memory")
    assert (found, type(found)) == (wanted, float)


@pytest.mark.parametrize("text", ["24", "24G", "GiB", "-1GiB", "0", "0GiB", "much", "", "1.2.3GiB", "0,5", True, None])
def test_anything_else_is_refused_with_value_and_key(text):
    with pytest.raises(ValueError, match=rf"stack\.memory_budget={text}: .*24GiB.*0\.5; set stack\.memory_budget"):
        read_memory(text, "stack.memory_budget")


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        (0, "0 B"), (800, "800 B"), (2000, "1.95 KiB"), (50 * 2**20, "50.0 MiB"), (1023 * 2**20, "1023 MiB"),
        (2**30, "1.00 GiB"), (24 * 2**30, "24.0 GiB"), (5 * 2**40, "5.00 TiB"),
    ],
)  # fmt: skip
def test_words_have_three_digits(size, wanted):
    assert format_bytes(size) == wanted
