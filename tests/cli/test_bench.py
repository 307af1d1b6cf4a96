"""`bdia bench` and `bdia bench-lora`: the arguments that reach the bench."""

import json
import subprocess

import pytest

import bdia.bench.lora_depth
import bdia.bench.run
from bdia.bench import cases
from bdia.bench.decoder import WAYS
from bdia.cli.main import main
from helpers.places import ROOT


@pytest.fixture
def asked(monkeypatch):
    """The arguments of each bench that was to run."""
    found = []
    for module in (bdia.bench.run, bdia.bench.lora_depth):
        monkeypatch.setattr(module, "run", found.append)
    return found


def test_quick_is_one_small_cell_and_takes_other_values(asked):
    main(["bench"])
    main(["bench", "quick=true"])
    main(["bench", "repeats=9", "quick=true", "models=[gpt2]"])
    main(["bench", "quick=false", "threads=1", "what=[table]"])
    whole, quick, changed, one_thread = asked
    assert whole == bdia.bench.run.Arguments() and quick == bdia.bench.run.quick()
    assert (quick.models, quick.depths, quick.what) == (["vit_paper"], [6], ["table"])
    assert (changed.models, changed.repeats, changed.batch, changed.depths) == (["gpt2"], 9, [], [6])
    assert (one_thread.threads, one_thread.what, one_thread.depths) == (1, ["table"], whole.depths)


def test_depth_and_length_are_the_study_s_and_write_its_record(tmp_path, capsys):
    tiny = ["width=32", "heads=2", "vocabulary=40", "tokens=16", "depths=[2]", "gib=[]", "ways=[bdia_in_backward]"]
    main(["bench", "what=[depth]", *tiny, f"out={tmp_path}"])
    (path,) = tmp_path.iterdir()
    assert capsys.readouterr().out == f"{path}\n"
    record = json.loads(path.read_text(encoding="utf-8"))
    assert (record["study"], record["settings"]["what"], record["git"]["sha"][:7]) == (
        "length",
        ["depth"],
        path.stem[-7:],
    )
    (row,) = record["rows"]
    assert (row["question"], row["way"], row["origin"]) == ("depth", "bdia_in_backward", "measured")


def test_what_names_a_study_of_its_own(tmp_path):
    tiny = ["width=32", "mlp=64", "heads=2", "kv_heads=2", "vocabulary=40", "tokens=16", "depths=[2]", "rounds=1"]
    main(["bench", "what=[transformers]", *tiny, f"out={tmp_path}"])
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text(encoding="utf-8"))["study"] == "transformers"


def test_make_passes_what_to_the_bench():
    for words, wanted in (("WHAT=depth,length", 'what="[depth,length]"'), ("QUICK=1", "quick=true"), ("QUICK=0", "")):
        told = subprocess.run(["make", "-n", "bench", words], cwd=ROOT, capture_output=True, text=True, check=True)
        (line,) = [
            line for line in told.stdout.splitlines() if "bdia bench" in line
        ]  # make test is a make around this one
        assert line.split("bdia bench")[1].strip() == wanted


def test_the_bench_of_decoders_takes_its_own_arguments(asked):
    main(["bench-lora", "depths=[2,3]", "repeats=[1,1]"])
    assert (asked[0].depths, asked[0].repeats) == ([2, 3], [1, 1])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["bench", "reps=7"], "reps=7: wanted repeats=7"),
        (["bench", "quick=perhaps"], "quick=perhaps: wanted bool; set quick"),
        (["bench", "device=abacus"], "device=abacus: wanted cpu, or cuda with a CUDA GPU; set device"),
        (
            ["bench", "what=[table,lenght]"],
            "what=lenght: wanted some of table, curve, overhead; or some of depth, length, timm; or some of compiled; "
            "or some of transformers; set what",
        ),
        (["bench", "what=[depth]", "repeats=7"], "repeats=7: wanted depths=7"),
        (
            ["bench", "what=[table,length]"],
            "what=table,length: wanted some of table, curve, overhead; or some of depth, length, timm; or some of "
            "compiled; or some of transformers; the groups have other keys; set what",
        ),
        (["bench", "show=nothing.json"], "show=nothing.json: not found; wanted the JSON of an earlier bench; set show"),
        (["bench-lora", "depths=[0]"], "depths=[0]: wanted at least 1; set depths"),
    ],
)
def test_what_cannot_be_had_is_one_line_and_exit_code_2(arguments, line, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert capsys.readouterr().err == f"error: {line}\n"


@pytest.mark.parametrize(
    ("verb", "module", "names"),
    [
        ("bench", bdia.bench.run, (*cases.MODELS, *cases.VARIANTS, *cases.PRECISIONS)),
        ("bench-lora", bdia.bench.lora_depth, WAYS),
    ],
    ids=["bench", "bench-lora"],
)
def test_the_help_names_every_argument_and_what_it_may_be(verb, module, names, capsys):
    main([verb, "--help"])
    shown = capsys.readouterr().out
    assert all(f" {name}=" in shown for name in vars(module.Arguments()))
    assert all(name in shown for name in names)
