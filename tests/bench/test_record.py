"""The JSON of a bench: round trip, never half written, nothing of the machine's folders in it."""

import json
import os
from dataclasses import replace

import pytest

from bdia.bench.record import allocator_environment, read_bench
from bdia.results.record import RecordError
from bdia.results.store import read_records
from helpers.bench_helpers import bench, row


def test_a_bench_is_read_back_as_it_was_written(tmp_path):
    written = bench(
        row(), row("revvit", ms=(), status="oom", error="no memory", memory={}), overhead=[{"percent": 1.0}]
    )
    path = written.write(tmp_path)
    assert path.name == "20260101T000000000000Z_abcdef0.json"
    assert read_bench(path) == written


def test_a_later_write_replaces_the_earlier_and_a_broken_one_leaves_it(tmp_path, monkeypatch):
    path = bench(row()).write(tmp_path)
    later = bench(row(), row("revvit"))
    assert later.write(tmp_path) == path
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        replace(later, status="running").write(tmp_path)
    assert read_bench(path) == later
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema: saw 2, want 1"),
        ({"colour": "red"}, "colour"),
        ({"rows": [{"part": "table"}]}, "missing"),
    ],
)
def test_another_file_is_refused_by_name(tmp_path, change, message):
    path = bench().write(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RecordError, match=f"{path.name}: .*{message}"):
        read_bench(path)


def test_an_unknown_status_is_refused():
    with pytest.raises(RecordError, match="status: saw 'fine'"):
        row(status="fine")


def test_records_of_runs_are_found_beside_a_bench(tmp_path):
    bench(row()).write(tmp_path / "bench")
    assert read_records(tmp_path) == []


def test_the_environment_keeps_allocator_settings_and_no_folders():
    seen = {
        "LD_PRELOAD": "/usr/lib/libtcmalloc.so.4",
        "MALLOC_CONF": "a:1,b:2",
        "HOME": "/root",
        "OMP_NUM_THREADS": "2",
    }
    wanted = {"LD_PRELOAD": "libtcmalloc.so.4", "MALLOC_CONF": "a:1,b:2", "OMP_NUM_THREADS": "2"}
    assert allocator_environment(seen) == wanted
