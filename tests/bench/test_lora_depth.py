"""`bdia.bench.lora_depth.run`: a run on tiny decoders from end to end, exact held bytes, one clear error."""

import pytest

import bdia.bench.lora_depth
from bdia import InvalidValueError
from bdia.bench.cell import run_cell
from bdia.bench.decoder import TRAININGS, WAYS, decoder_cell
from bdia.bench.lora_depth import Arguments, document, run
from bdia.bench.record import read_bench
from helpers.bench_helpers import MIB, bench, row

WIDTH, TOKENS, BATCH = 32, 64, 2
N = WIDTH * TOKENS * BATCH  # values of one stream
SIZES = {"width": WIDTH, "tokens": TOKENS, "batch": BATCH}


@pytest.fixture(scope="module")
def memories():
    """Memory by training, depth and variant."""
    found = {}
    for part in TRAININGS:
        for depth in (3, 5):
            rows = run_cell(decoder_cell(part, WIDTH, depth, TOKENS, BATCH, WAYS), rounds=0)
            assert [(row.status, row.error) for row in rows] == [("ok", None)] * len(WAYS)
            found |= {(part, depth, row.variant): row.memory for row in rows}
    return found


@pytest.mark.parametrize("part", TRAININGS)
def test_what_a_further_layer_holds_is_exact(memories, part):
    extra = 8 * BATCH + 4 + 4  # gamma of each sample; a handle; a sum of bits
    wanted = {
        "checkpoint": 4 * N,  # one float32 stream
        "bdia_half": N // 8 + extra,  # one bit per activation
        "bdia_sixteenth": N // 2 + extra,  # four bits
        "bdia_nested": N // 8 + extra,
    }
    grown = {v: (memories[part, 5, v]["held"] - memories[part, 3, v]["held"]) / 2 for v in wanted}
    assert grown == wanted


def test_the_peak_of_lora_grows_with_depth_as_what_is_held(memories):
    grown = {v: memories["lora", 5, v]["peak"] - memories["lora", 3, v]["peak"] for v in WAYS}
    assert grown["checkpoint"] == 2 * 4 * N
    assert grown["bdia_half"] <= 4 * N < grown["standard"]


@pytest.mark.parametrize("part", TRAININGS)
def test_nested_lowers_the_peak_by_at_least_one_stream(memories, part):
    assert memories[part, 5, "bdia_half"]["peak"] - memories[part, 5, "bdia_nested"]["peak"] >= 4 * N


def test_a_peak_holds_the_gradients_of_trained_weights_and_no_others(memories):
    trained = {part: memories[part, 5, "standard"]["trained"] for part in TRAININGS}
    assert trained["lora"] == 4 * 5 * 2 * 8 * 2 * WIDTH  # rank 8: A and B of two projections in each layer
    assert trained["full"] > 10 * trained["lora"]
    assert all(0 <= found["gradients"] <= found["trained"] for found in memories.values())
    assert memories["full", 5, "bdia_half"]["gradients"] > 0


def test_a_run_leaves_its_record_and_a_table_and_prints_it(tmp_path, capsys, one_thread):
    some = ["checkpoint", "bdia_half"]
    folders = {"out": str(tmp_path / "bench"), "tables": str(tmp_path)}
    run(Arguments(depths=[2, 3], trainings=["lora"], variants=some, repeats=[2, 3], **SIZES, **folders))
    (path,) = (tmp_path / "bench").iterdir()
    found = read_bench(path)
    assert found.status == "ok" and {"transformers", "peft", "torch"} <= set(found.device)
    assert [(r.depth, r.variant) for r in found.rows] == [(depth, name) for depth in (2, 3) for name in some]
    assert all(len(r.ms) == r.depth and r.memory["stream"] == N and r.size == BATCH * TOKENS for r in found.rows)
    out, shown = capsys.readouterr().out, (tmp_path / "lora_depth.md").read_text()
    for r in found.rows:
        assert f"{r.depth}, {r.label} " in out and f"| {r.depth}, {r.label} |" in shown
    assert str(tmp_path) not in path.read_text() + shown
    run(Arguments(show=str(path), tables=str(tmp_path / "again")))
    assert (tmp_path / "again" / "lora_depth.md").read_text() == shown


def made_up(variant, depth, peak, **more):
    memory = {"peak": peak, "gradients": MIB, "held": depth * 1000, "trained": MIB, "stream": 1000}
    overrides = [] if variant in ("standard", "checkpoint") else ["gamma=1/2"]
    return row(variant, depth, memory=memory, part="lora", model="llama", overrides=overrides, **more)


def test_the_table_compares_with_checkpointing_and_says_whether_the_wanted_factor_is_reached():
    rows = [
        made_up("checkpoint", 48, 40 * MIB, ms=(100.0, 100.0)),
        made_up("bdia_half", 48, 20 * MIB, ms=(150.0, 110.0)),
        made_up("bdia_nested", 48, 21 * MIB, ms=(200.0, 200.0)),
        made_up("bdia_half", 96, 22 * MIB),
        row("checkpoint", 96, ms=(), peak=0, part="lora", model="llama", error="too large"),
    ]
    arguments = {"width": 1, "tokens": 1, "batch": 1}
    shown = document(bench(*rows, arguments=arguments))
    line = next(line for line in shown.splitlines() if line.startswith("| 48, bdia_half |"))
    assert [cell.strip() for cell in line.split("|")[2:-1]] == [
        "20.00", f"{20 * MIB / 4000:.1f}", "1.00", "2.00", "0.05", "\N{EN DASH}", "2", "130", "\N{EN DASH}",
        "1.300 (1.300)",
    ]  # fmt: skip
    assert "48 layers, bdia_half: 2.00 times less than transformers' checkpointing; wanted at least 2: reached" in shown
    assert "48 layers, bdia_nested: 1.90 times less" in shown and "at least 2: NOT reached" in shown
    assert "from 48 to 96 layers, bdia_half: peak +2.00 MiB, of it gradients +0.00; held +0.05 MiB" in shown
    assert "| 96, checkpoint | out of memory: too large |" in shown


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"depths": [0]}, InvalidValueError, r"depths=\[0\]: wanted at least 1; set depths"),
        ({"depths": []}, InvalidValueError, r"depths=\[\]: wanted"),
        ({"variants": ["fast"]}, InvalidValueError, r"variants=\['fast'\]: wanted some of standard, checkpoint"),
        ({"trainings": []}, InvalidValueError, r"trainings=\[\]: wanted some of lora, full"),
        ({"repeats": [-1, 1, 1, 1]}, InvalidValueError, r"repeats=\[-1, 1, 1, 1\]: wanted at least 0; set repeats"),
        (
            {"repeats": [3]},
            InvalidValueError,
            r"repeats=\[3\]: wanted one number for each of depths=\[12,",
        ),
        ({"show": "nothing.json"}, FileNotFoundError, r"nothing\.json"),
    ],
    ids=str,
)
def test_what_cannot_be_had_is_refused_before_anything_runs_and_names_the_key(changes, error, message, monkeypatch):
    monkeypatch.setattr(bdia.bench.lora_depth, "measure_cells", lambda *_: pytest.fail("ran"))
    with pytest.raises(error, match=message):
        run(Arguments(**changes))
