"""`bdia plan`: arguments, the table, the file."""

import json
import re
from datetime import datetime

import pytest
import torch

from bdia.cli.main import main
from bdia.cli.plan import Arguments
from bdia.cli.plan import __doc__ as usage
from bdia.profiling.planner import STACKS
from helpers.places import ROOT

SMALL = ["model=vit_demo", "model.net.width=32", "model.net.heads=2", "depth=2", "batch=8"]


@pytest.fixture
def call(capsys):
    """call(*arguments): (exit code, standard output, standard error)."""

    def run(*arguments):
        code = 0
        try:
            main(["plan", *arguments])
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return run


def test_help_shows_every_argument(call):
    code, out, _ = call("--help")
    assert (code, out.strip()) == (0, usage.strip())
    shown = set(re.findall(r"^  (\w+)=", out, re.MULTILINE))
    assert shown >= {"model", *Arguments.__dataclass_fields__, "precision", "memory", "loss_chunk"}
    for left_out in ("CUDA context", "cuBLAS and cuDNN", "fragmentation"):
        assert left_out in out


def test_the_table_has_every_stack_and_what_was_assumed(call):
    code, out, err = call(*SMALL)
    assert (code, err) == (0, "")
    assert "model=vit_demo" in out.splitlines()[0]
    assert "10 classes; a step of 8 images, 32-true, cuda" in out
    table = [re.split(r"  +", line.strip()) for line in out.splitlines()[2 : 4 + len(STACKS)]]
    assert table[0][:3] == ["stack", "peak", "parameters"]
    assert [row[0] for row in table[2:]] == list(STACKS)
    assert {"standard", "checkpoint keep 1", "revvit", "bdia keep 0", "bdia keep 1"} <= set(STACKS)
    assert {len(row) for row in table} == {9}
    assert "largest batch" not in out


@pytest.mark.slow
def test_depths_shows_every_stacks_peak_at_each_and_what_a_further_block_holds(call):
    code, out, err = call(*SMALL[:3], "batch=8", "depths=[2,3]", "device=cpu")
    assert (code, err) == (0, "")
    table = [re.split(r"  +", line.strip()) for line in out.splitlines()[2 : 4 + len(STACKS)]]
    assert table[0] == ["stack", "peak at 2 blocks", "peak at 3 blocks", "held per further block"]
    cells = {row[0]: row[1:] for row in table[2:]}
    assert list(cells) == list(STACKS)
    (_, single, _) = call(*SMALL[:3], "batch=8", "depth=3", "device=cpu")
    planned = {row[0]: row[1] for line in single.splitlines()[4:] if len(row := re.split(r"  +", line.strip())) > 1}
    assert {name: row[1] for name, row in cells.items()} == {name: planned[name] for name in STACKS}
    assert cells["standard"][2].endswith("KiB") and cells["revvit"][2] == "8 B"
    assert "planned, from a trace of the step" in out


@pytest.mark.parametrize("depths", ["[4]", "[4,4]", "[0,4]"])
def test_one_depth_is_no_comparison(depths, call):
    code, _, err = call(*SMALL[:3], "batch=8", f"depths={depths}")
    assert code == 2
    assert re.search(r"depths=\[.*\]: wanted at least two depths of at least 1; set depths", err)


@pytest.mark.slow
def test_memory_adds_what_fits_and_what_to_paste_and_out_writes_it(call, tmp_path):
    path = tmp_path / "new" / "plan.json"
    code, out, _ = call(*SMALL, "memory=0.9", "stack=bdia", f"out={path}", "precision=bf16-mixed")
    assert code == 0
    assert re.search(
        r"^Within [\d.]+ MiB: stack=bdia stack\.keep=\d( data\.batch_size=\d+)?   \(peak", out, re.MULTILINE
    )
    written = json.loads(path.read_text())
    assert list(path.parent.iterdir()) == [path]
    assert (written["precision"], written["device"], written["blocks"]) == ("bf16-mixed", "cuda", [2])
    assert written["memory"] == int(0.9 * written["stacks"][0]["cost"]["peak"])
    assert written["stacks"][1]["largest_batch"] >= 1
    assert written["schema"] == 1 and written["torch"] == torch.__version__
    assert set(written["git"]) == {"sha", "dirty"} and datetime.fromisoformat(written["created_utc"]).tzinfo


@pytest.mark.slow
def test_a_hugging_face_models_longest_texts_are_in_the_table_and_in_the_file(call, tmp_path):
    sizes = ["hf.hidden_size=64", "hf.num_attention_heads=4", "hf.num_key_value_heads=2", "hf.num_hidden_layers=12"]
    memory, path = "memory=[100MiB,200MiB]", tmp_path / "plan.json"
    in_backward = ["optimizer=adamw", "optimizer.in_backward=true"]
    code, out, _ = call("model=hf", "hf.config=llama", "hf.vocab_size=100", *sizes, *in_backward, memory, f"out={path}")
    assert code == 0
    assert "12 layers; a step of 1 texts of 4,096 tokens, bf16-true, optimizer=adamw optimizer.in_backward=true" in out
    assert re.search(r"^training .* longest in 100 MiB  longest in 200 MiB$", out, re.MULTILINE)
    written = json.loads(path.read_text())
    names = [way["name"] for way in written["ways"]]
    assert names == ["standard", "transformers' checkpointing", "two-level checkpointing", "bdia keep 0", "bdia keep 1"]
    assert all(re.search(rf"^{name} ", out, re.MULTILINE) for name in names)
    longest = {way["name"]: way["longest"] for way in written["ways"]}
    assert all(2 * short < long for short, long in longest.values())
    assert longest["standard"][1] < longest["transformers' checkpointing"][1] < longest["bdia keep 0"][1]


def test_every_committed_plan_names_the_code_that_made_it():
    for path in (ROOT / "results" / "plans").rglob("*.json"):
        plan = json.loads(path.read_text(encoding="utf-8"))
        if "rows" in plan:  # planned against measured, scripts/hf_plans.py
            continue
        assert re.fullmatch(r"[0-9a-f]{40}", plan["git"]["sha"]) and plan["git"]["dirty"] is False
        assert plan["schema"] == 1 and plan["torch"] and plan["created_utc"]
        assert {stack["name"] for stack in plan.get("stacks", [])} <= set(STACKS)  # a new stack needs no new record


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["batch=8"], "model is missing"),
        (["model=vit_demo"], "batch is missing"),
        (["model=nonesuch", "batch=1"], "model=nonesuch: no such file in configs/model"),
        (["model=vit_demo", "batch=0"], "batch=0: wanted at least 1"),
        (["model=vit_demo", "batch=x"], "batch=x: wanted int"),
        (["model=vit_demo", "batch=1", "depth=0"], "depth=0: wanted at least 1; set depth"),
        (["model=vit_demo", "batch=1", "memory=24G"], "memory=24G: wanted an amount"),
        (["model=vit_demo", "batch=1", "precision=8"], "trainer.precision=8: wanted one of 32-true, 32"),
        (["model=vit_demo", "batch=1", "device=tpu"], "device=tpu: wanted cuda or cpu; set device"),
        (["model=gpt2_demo", "batch=1", "tokens=999"], "tokens=999: wanted 1 to 128"),
        ([*SMALL, "memory=1KiB"], "memory=1.00 KiB: not even a batch of 1 fits"),
        (["model=vit_demo", "batch=1", "nonesense"], "nonesense"),
        ([*SMALL, "devices=8"], "devices: read only with model=hf; leave it out, or set model=hf"),
        (
            ["model=hf", "hf.config=llama", "devices=2", "optimizer=adamw", "optimizer.in_backward=True"],
            "devices=2 with optimizer.in_backward=true: FSDP2 exchanges whole gradients before the step; set devices=1 "
            "or optimizer.in_backward=false",
        ),
        (
            ["model=hf", "hf.config=llama", "precision=bf16-mixed", "optimizer.float32_master=true"],
            "precision=bf16-mixed with optimizer.float32_master=true: the weights are float32 already; set "
            "precision=bf16-true or optimizer.float32_master=false",
        ),
        (["model=hf"], "hf.config is missing"),
        (["model=hf", "hf.config=nonesuch"], "hf.config=nonesuch: wanted a config.json"),
        (["model=hf", "hf.config=llama", "stack=bdia"], "stack=bdia: model=hf reads hf.KEY=..., optimizer=..."),
        (["model=hf", "hf.config=llama", "tokens=0"], "tokens=0: wanted at least 1; set tokens"),
        (["model=hf", "hf.config=llama", "memory=0.5"], "memory=0.5: model=hf wants an amount such as 24GiB"),
        (["model=hf", "hf.config=llama", "precision=16"], "precision=16: wanted one of 32-true, bf16-mixed, bf16-true"),
        (["model=hf", "hf.config=llama", "device=tpu"], "device=tpu: wanted cuda or cpu; set device"),
        ([*SMALL, "stack=bdai"], "stack=bdai: no such file in configs/stack; did you mean bdia?"),
        ([*SMALL, "stack.kep=0"], "stack.kep=0: bdia.reversible.BdiaStack reads no kep; did you mean stack.keep?"),
        ([*SMALL, "stack.keep=-1"], "stack.keep=-1: wanted a whole number of at least 0 or a list of values"),
    ],
)
def test_what_cannot_be_read_is_one_line_that_names_it(call, arguments, message):
    code, _, err = call(*arguments)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err
