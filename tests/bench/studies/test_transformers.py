"""The study of transformers' own checkpointing: its rows are those of the bench's other parts."""

from dataclasses import replace

import pytest

from bdia import InvalidValueError
from bdia.bench.studies import transformers
from bdia.profiling.hf_model import WAYS

SMALL = transformers.Arguments(
    width=32, mlp=64, heads=2, kv_heads=2, vocabulary=40, depths=[8], batch=1, tokens=64, loss_chunk=32, rounds=1
)


def test_checkpointing_and_bdia_hold_less_than_the_standard_step_of_the_same_model():
    (rows,) = transformers.measure(SMALL)
    found = {row["label"]: row for row in rows}
    assert list(found) == [way.name for way in WAYS]
    standard, own, bdia = (found[name] for name in ("standard", transformers.BASE, "bdia keep 0"))
    assert standard["activations"] > own["activations"] > bdia["activations"] > 0
    assert standard["parameters"] == bdia["parameters"] and standard["optimizer"] == bdia["optimizer"]
    assert own["time_ratio"] == 1.0 and bdia["ms"] > 0
    assert "MiB of activations" in transformers.told(rows)


@pytest.mark.parametrize(
    ("key", "value"), [("depths", [0]), ("depths", []), ("tokens", 0), ("loss_chunk", 0), ("rounds", 0), ("batch", -1)]
)
def test_a_wrong_size_is_an_error_and_no_row(key, value):
    with pytest.raises(InvalidValueError, match=rf"{key}=.*: wanted at least 1; set {key}"):
        next(transformers.measure(replace(SMALL, **{key: value})))
