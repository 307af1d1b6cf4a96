import json
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest

from bdia.results import UNITS, Metric, RecordError, RunRecord, run_id
from helpers.synthetic_records import make_record


def changed(change) -> str:
    """Return the JSON of a good record after `change` has edited it."""
    raw = json.loads(make_record().to_json())
    change(raw)
    return json.dumps(raw)


def test_record_survives_the_round_trip():
    record = make_record(status="failed", error="loss is nan\nat step 3")
    assert RunRecord.from_json(record.to_json()) == record


def test_every_known_unit_is_accepted():
    metrics = [Metric(name, 1.0, unit) for name, unit in UNITS.items()]
    assert RunRecord.from_json(make_record(metrics=metrics).to_json()).metrics == metrics


def test_signatures_survive_the_round_trip():
    record = make_record(signatures={"bleu": "nrefs:1|tok:13a"})
    assert RunRecord.from_json(record.to_json()) == record


def test_a_record_from_before_signatures_reads():
    old = changed(lambda raw: raw.pop("signatures"))
    assert RunRecord.from_json(old) == make_record()


def test_checksums_of_the_data_survive_the_round_trip_and_a_record_from_before_them_reads():
    record = make_record(data_sha256={"train": "0" * 64, "test": "f" * 64})
    assert RunRecord.from_json(record.to_json()) == record
    old = changed(lambda raw: raw.pop("data_sha256"))
    assert RunRecord.from_json(old) == make_record() and make_record().data_sha256 == {}


def test_best_is_the_first_best_finite_row():
    losses = [3.0, 2.0, math.nan, 2.0, 5.0]
    record = make_record(metrics=[Metric("loss", loss, "nat", "val", step) for step, loss in enumerate(losses)])
    assert record.best("loss", "val", higher=False).step == 1
    assert record.best("loss", "val", higher=True).step == 4
    assert record.best("loss", "test") is None
    lost = make_record(metrics=[Metric("loss", math.nan, "nat", "val", step) for step in (1, 2)])
    assert lost.best("loss", "val", higher=False).step == 2


def test_one_metric_takes_one_line():
    record = make_record()
    lines = [line for line in record.to_json().splitlines() if '"value"' in line]
    assert len(lines) == len(record.metrics)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_written_as_null_and_read_as_nan(value):
    text = make_record(metrics=[Metric("loss", value, "nat", "train", 1)]).to_json()
    assert json.loads(text, parse_constant=pytest.fail)["metrics"][0]["value"] is None
    assert math.isnan(RunRecord.from_json(text).metrics[0].value)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda raw: raw.update(schema=2), "schema"),
        (lambda raw: raw.pop("config_sha256"), "config_sha256"),
        (lambda raw: raw.update(notes="x"), "notes"),
        (lambda raw: raw.update(signatures="x"), "signatures"),
        (lambda raw: raw.update(signatures={"blue": "x"}), "signatures.blue"),
        (lambda raw: raw.update(signatures={"bleu": 1}), "signatures.bleu"),
        (lambda raw: raw.update(data_sha256="x"), "data_sha256"),
        (lambda raw: raw.update(data_sha256={"all": "0" * 64}), "data_sha256.all"),
        (lambda raw: raw.update(data_sha256={"test": "0" * 63}), "data_sha256.test"),
        (lambda raw: raw.update(status="fine"), "status"),
        (lambda raw: raw.update(git={"sha": "a"}), "git"),
        (lambda raw: raw["metrics"][2].update(unit="MB"), "metrics[2].unit"),
        (lambda raw: raw["metrics"][2].update(name="speed"), "metrics[2].name"),
        (lambda raw: raw["metrics"][2].pop("value"), "metrics[2].value"),
        (lambda raw: raw["metrics"][2].update(split="dev"), "metrics[2].split"),
        (lambda raw: raw["metrics"][3].update(step=1), "metrics[3].step"),  # its curve is at step 25 already
    ],
)
def test_a_record_off_the_schema_is_refused_naming_file_and_key(change, key):
    with pytest.raises(RecordError) as caught:
        RunRecord.from_json(changed(change), source="results/x/y.json")
    assert str(caught.value).startswith(f"results/x/y.json: {key}:")


def test_a_metric_with_the_wrong_unit_cannot_be_made():
    with pytest.raises(RecordError, match="saw 'GiB' for peak_allocated, want 'MiB'"):
        Metric("peak_allocated", 1.0, "GiB")


def test_final_is_the_last_row_of_the_asked_split():
    record = make_record()
    assert record.final("loss", "val") == pytest.approx(1.4)
    assert record.final("loss", "test") is None


def test_run_id_is_in_utc_with_microseconds():
    paris = timezone(timedelta(hours=1))
    started = datetime(2026, 11, 21, 21, 15, 0, 123456, tzinfo=paris)
    assert run_id(started, "0123456789", "abcdef0123456789", 7) == "20261121T201500123456Z_0123456_abcdef01_s7"
    assert run_id(started.astimezone(UTC), "0123456789", "abcdef0123456789", 7).startswith("20261121T2015")


def test_run_id_refuses_a_time_without_zone():
    with pytest.raises(ValueError, match="time zone"):
        run_id(datetime(2026, 11, 21), "0123456", "abcdef01", 0)
