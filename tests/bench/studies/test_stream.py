"""The study of the stream's two forms."""

from bdia.bench.studies import stream

SMALL = stream.Arguments(
    width=16, heads=2, vocabulary=40, depth=2, batch=1, tokens=8, rounds=1, bits=[9, 14], outliers=[6e4], seeds=[0]
)


def test_both_forms_are_measured_and_float32_overflows_where_int32_does_not():
    steps, precision = stream.measure(SMALL)
    assert [row["stream"] for row in steps] == ["float32", "int32"] and steps[0]["time_ratio"] == 1.0
    assert steps[1]["activations"] > 0
    errors = {(row["stream"], row["bits"]): row["error"] for row in precision}
    assert errors["float32", 9] is None and errors["float32", 14] is None
    assert 0 < errors["int32", 14] < errors["int32", 9] / 16
    assert "int32 14" in stream.told(precision) and "int32" in stream.told(steps)
