"""`bdia.export`: what it writes is loaded by the untouched library, in a process that cannot import this package."""

import json
import os
import re
import subprocess
import sys

import pytest
import timm
import torch
import torch.nn.functional as F

import bdia
import bdia.train.export.to_transformers as module
from bdia.build import build_data
from bdia.cli.export import Arguments
from bdia.cli.main import main
from bdia.data.text.tokenizer import END_OF_DOCUMENT, Bytes
from bdia.models import VisionTransformer, timm_vit
from bdia.reversible import BdiaStack, CheckpointStack, RevVitStack, StandardStack
from bdia.tasks import LanguageModeling
from bdia.train.job import train
from helpers.text_models import small_gpt2, small_seq2seq, tokens
from helpers.training_helpers import LANGUAGE, TEXT_COMMON, TINY, compose_config, run_dir

TIMM = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 3, "num_heads": 2}
# The same product is summed in another order where Hugging Face's Conv1D holds the transpose.
ROUNDING = 1e-6

STRANGER = """
import sys
sys.modules["bdia"] = None
import torch
for line in sys.stdin:
    folder, code = line.rstrip("\\n").split("|", 1)
    names = {"inputs": torch.load(folder + "/inputs.pt"), "folder": folder, "torch": torch}
    with torch.no_grad():
        exec(code, names)
    torch.save(names["outputs"], folder + "/outputs.pt")
    assert not any(name.startswith("bdia.") for name in sys.modules)
    print("done", flush=True)
"""
LOAD = {
    "torch": "outputs = torch.export.load(f'{folder}/out/program.pt2').module()(*inputs)",
    "transformers": "from transformers import GPT2LMHeadModel; "
    "outputs = GPT2LMHeadModel.from_pretrained(f'{folder}/out').eval()(*inputs).logits",
    "timm": "import timm; outputs = timm.create_model(f'local-dir:{folder}/out', pretrained=True).eval()(*inputs)",
}


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A Python that cannot import bdia and runs the lines that it is given."""
    errors = tmp_path_factory.mktemp("stranger") / "stderr"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", STRANGER]
    with errors.open("w") as file:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": file}
        with subprocess.Popen(command, env=environment, text=True, **pipes) as child:
            yield child, errors


@pytest.fixture
def elsewhere(stranger, tmp_path):
    """elsewhere(code, *inputs): the `outputs` that code makes of the inputs where bdia cannot be imported."""
    child, errors = stranger

    def run(code, *inputs):
        torch.save(inputs, tmp_path / "inputs.pt")
        print(f"{tmp_path}|{code}", file=child.stdin, flush=True)
        assert child.stdout.readline() == "done\n", errors.read_text()[-2000:]
        return torch.load(tmp_path / "outputs.pt")

    return run


def own(net, *inputs):
    with torch.no_grad():
        return net.eval()(*inputs)


def shaken(net):
    """The net with no weight at its initial value, biases and norms too, and streams that a grid of 2^-3 rounds."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return net


def unrounded(blocks):
    return BdiaStack(blocks, bits=3, quantize_eval=False)


def rounded(blocks):
    return BdiaStack(blocks, bits=3)


def fixed_gamma(blocks):
    return BdiaStack(blocks, eval_gamma="1/4")


def small_timm(stack, **options):
    torch.manual_seed(0)
    return shaken(timm_vit("vit_tiny_patch16_224", stack, num_classes=5, **(TIMM | options)))


def small_vit(stack):
    torch.manual_seed(0)
    size = {"patch_size": 8, "width": 12, "depth": 3, "heads": 2, "head_dim": 6, "mlp_hidden": 16, "num_classes": 5}
    return shaken(VisionTransformer(stack, **size))


@pytest.mark.parametrize("stack", [StandardStack, CheckpointStack, unrounded])
def test_transformers_reads_our_gpt2_and_gives_its_logits(stack, tmp_path, elsewhere):
    pytest.importorskip("transformers")
    net, batch = shaken(small_gpt2(stack)), tokens(2, 9, vocab_size=11)
    assert bdia.export(net, tmp_path / "out", "transformers") == tmp_path / "out"
    found = elsewhere(LOAD["transformers"], batch)
    torch.testing.assert_close(found, own(net, batch), rtol=ROUNDING, atol=ROUNDING)


def test_our_gpt2_reads_what_was_written_for_transformers_to_the_bit(tmp_path):
    net, batch = shaken(small_gpt2()), tokens(2, 9, vocab_size=11)
    bdia.export(net, tmp_path / "out", "transformers")
    assert torch.equal(own(small_gpt2(weights=tmp_path / "out"), batch), own(net, batch))


@pytest.mark.parametrize("stack", [StandardStack, CheckpointStack, unrounded])
def test_timm_reads_its_model_and_gives_its_logits_to_the_bit(stack, tmp_path, elsewhere):
    net, images = small_timm(stack), torch.randn(3, 3, 16, 16)
    bdia.export(net, tmp_path / "out", "timm")
    assert torch.equal(elsewhere(LOAD["timm"], images), own(net, images))


def test_the_lines_of_the_note_load_timms_model(tmp_path, elsewhere):
    net, images = small_timm(unrounded), torch.randn(3, 3, 16, 16)
    bdia.export(net, tmp_path / "out", "timm")
    lines = [line.strip() for line in (tmp_path / "out" / "README.md").read_text().splitlines() if "    " in line]
    load, by_folder, by_name = (line.replace("this/folder", str(tmp_path / "out")) for line in lines)
    assert "local-dir" in by_folder and "checkpoint_path" in by_name
    for line in (by_folder, by_name):
        assert torch.equal(elsewhere(f"{load}; {line}; outputs = model.eval()(*inputs)", images), own(net, images))


NETS = {
    "vit": (small_vit, lambda batch: (torch.randn(batch, 3, 32, 32),)),
    "timm": (small_timm, lambda batch: (torch.randn(batch, 3, 16, 16),)),
    "gpt2": (lambda stack: shaken(small_gpt2(stack)), lambda batch: (tokens(batch, 2 + batch, vocab_size=11),)),
    "seq2seq": (lambda stack: shaken(small_seq2seq(stack)), lambda batch: (tokens(batch, 5), tokens(batch, 3 + batch))),
}


SLOW = [pytest.param(stack, marks=pytest.mark.slow) for stack in (CheckpointStack, unrounded)]


@pytest.mark.parametrize("stack", [StandardStack, rounded, RevVitStack, *SLOW])
@pytest.mark.parametrize("net", NETS)
def test_plain_pytorch_runs_the_program_of_any_model_on_any_stack_to_the_bit(net, stack, tmp_path, elsewhere):
    if (net, stack) == ("timm", RevVitStack):
        pytest.skip("timm's head reads one stream")
    make, inputs = NETS[net]
    net = make(stack)
    bdia.export(net, tmp_path / "out", "torch")
    for batch in (1, 4):
        example = inputs(batch)
        assert torch.equal(elsewhere(LOAD["torch"], *example), own(net, *example))


def test_rounding_changes_these_models_so_that_the_tests_above_can_fail():
    for make, inputs in NETS.values():
        example = inputs(2)
        assert not torch.equal(own(make(rounded), *example), own(make(unrounded), *example))


def test_the_weights_of_the_torch_format_are_the_state_dict(tmp_path, elsewhere):
    net = small_seq2seq()  # its two vocabularies share a table
    bdia.export(net, tmp_path / "out", "torch")
    found = elsewhere("from safetensors.torch import load_file; outputs = load_file(folder + '/out/model.safetensors')")
    assert found.keys() == net.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in net.state_dict().items())


def test_a_model_that_is_not_ours_gets_a_program_where_an_example_is_given(tmp_path, elsewhere):
    torch.manual_seed(0)
    layers = [torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(3)]
    net, x = torch.nn.Sequential(BdiaStack(layers, bits=3), torch.nn.Linear(8, 2)), torch.randn(4, 5, 8)
    bdia.export(net, tmp_path / "weights", "torch")
    assert sorted(path.name for path in (tmp_path / "weights").iterdir()) == ["README.md", "model.safetensors"]
    bdia.export(net, tmp_path / "out", "torch", example=(torch.zeros(2, 5, 8),))
    assert torch.equal(elsewhere(LOAD["torch"], x), own(net, x))


def test_a_model_of_transformers_is_written_by_its_own_method(tmp_path, elsewhere):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=11, n_positions=16, n_embd=12, n_layer=3, n_head=2)
    net, batch = transformers.GPT2LMHeadModel(config), tokens(2, 9, vocab_size=11)
    wanted = own(net, batch).logits
    bdia.export(net, tmp_path / "out", "transformers")
    assert torch.equal(elsewhere(LOAD["transformers"], batch), wanted)


@pytest.mark.parametrize("stack", ["convert", "BdiaStack"])
def test_a_model_of_transformers_that_was_trained_reversibly_is_an_ordinary_one_in_its_files(
    stack, tmp_path, elsewhere
):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=11, n_positions=16, n_embd=12, n_layer=3, n_head=2)
    net, batch = transformers.GPT2LMHeadModel(config).train(), tokens(2, 9, vocab_size=11)
    if stack == "convert":
        bdia.convert(net)
    else:
        net.transformer.h = BdiaStack(net.transformer.h, quantize_eval=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(batch, labels=batch).loss.backward()
    optimizer.step()
    bdia.export(net, tmp_path / "out", "transformers")
    assert net.training and (stack != "convert" or bdia.revert(net) == 3)  # it is still converted
    assert torch.equal(elsewhere(LOAD["transformers"], batch), own(net, batch).logits)


def test_a_converted_model_of_timm_is_an_ordinary_one_in_its_files(tmp_path, elsewhere):
    torch.manual_seed(0)
    net, images = timm.create_model("vit_tiny_patch16_224", num_classes=5, **TIMM), torch.randn(3, 3, 16, 16)
    bdia.convert(net)
    net.train()(images).sum().backward()
    bdia.export(net, tmp_path / "out", "timm", arguments={"num_classes": 5, **TIMM})
    assert torch.equal(elsewhere(LOAD["timm"], images), own(net, images))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"quantize_eval": True},
            r"quantize_eval=True .*format=torch of a converted model cannot hold: set drop_rounding",
        ),
        ({"eval_gamma": "1/2"}, r"eval_gamma=1/2.*; set eval_gamma=0"),
    ],
)
def test_a_converted_model_whose_inference_is_not_the_standard_one_is_refused(settings, message, tmp_path):
    net = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 3)
    bdia.convert(net, **settings)
    with pytest.raises(ValueError, match=message):
        bdia.export(net, tmp_path / "out", "torch")
    assert not list(tmp_path.iterdir())


def test_the_model_itself_is_left_as_it_is(tmp_path):
    net = small_gpt2(rounded).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    bdia.export(net, tmp_path / "out", "transformers", drop_rounding=True)
    assert net.training and isinstance(net.blocks, BdiaStack) and net.blocks.quantize_eval
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


# --- from a run ---


@pytest.mark.parametrize("format", ["timm", "torch"])
def test_a_run_on_images_has_the_same_loss_and_accuracy_in_the_other_library(format, places, tmp_path, elsewhere):
    small = [f"+model.net.{key}={value}" for key, value in TIMM.items() if key not in ("img_size", "patch_size")]
    tiny = [setting for setting in TINY if not setting.startswith("model.")]
    cfg = compose_config("model=timm_vit", *small, *tiny, *places, "stack.quantize_eval=false")
    record = train(cfg)
    bdia.export(run_dir(cfg) / "final.ckpt", tmp_path / "out", format)
    data = build_data(cfg)
    data.setup()
    ((images, labels),) = data.test_dataloader()
    logits = elsewhere(LOAD[format], images)
    assert F.cross_entropy(logits, labels).item() == pytest.approx(record.final("loss", "test"), rel=1e-6)
    accuracy = (logits.argmax(dim=1) == labels).float().mean().item() * 100
    assert accuracy == pytest.approx(record.final("accuracy", "test"), rel=1e-6)
    note = (tmp_path / "out" / "README.md").read_text()
    assert f"normalised by mean {list(data.mean)}" in note
    if format == "timm":
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        assert config["pretrained_cfg"]["mean"] == list(data.mean) and config["pretrained_cfg"]["std"] == list(data.std)
        assert config["label_names"] == list(data.class_names)


def test_a_language_models_run_has_the_same_perplexity_in_transformers(places, one_thread, tmp_path, elsewhere):
    pytest.importorskip("transformers")
    cfg = compose_config(*LANGUAGE, *TEXT_COMMON, *places, "trainer.max_epochs=1", "stack.quantize_eval=false")
    record = train(cfg)
    checkpoint = run_dir(cfg) / "final.ckpt"
    with pytest.raises(SystemExit) as ended:
        main(["export", f"checkpoint={checkpoint}", f"to={tmp_path / 'out'}", "format=gguf"])
    assert ended.value.code == 2
    main(["export", f"checkpoint={checkpoint}", f"to={tmp_path / 'out'}", "format=transformers"])
    data = build_data(cfg)
    data.setup()
    windows = torch.cat([batch for (batch,) in data.test_dataloader()])
    logits = elsewhere(LOAD["transformers"], windows[:, :-1].contiguous())
    loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    assert loss.exp().item() == pytest.approx(record.final("perplexity", "test"), rel=1e-5)


def test_the_tokenizer_beside_the_weights_gives_the_same_ids_and_knows_the_end_of_a_document(tmp_path, elsewhere):
    pytest.importorskip("transformers")
    tokenizer = Bytes().build([], [END_OF_DOCUMENT], None)
    net = small_gpt2(vocab_size=tokenizer.get_vocab_size())
    task = LanguageModeling(net=net, tokenizer=tokenizer, optimizer=None, scheduler=None)
    bdia.export(task, tmp_path / "out", "transformers")
    code = "from transformers import AutoTokenizer; t = AutoTokenizer.from_pretrained(folder + '/out'); "
    found = elsewhere(code + "outputs = [t('né <b>').input_ids, t.eos_token_id, t.model_max_length]")
    assert found == [tokenizer.encode("né <b>").ids, tokenizer.token_to_id(END_OF_DOCUMENT), net.longest]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == found[1]


# --- what is refused ---


@pytest.mark.parametrize(
    ("make", "stack", "format", "message"),
    [
        (small_gpt2, rounded, "transformers", r"quantize_eval=True rounds .* 2\^-3.*drop_rounding=true.*format=torch"),
        (small_timm, rounded, "timm", r"quantize_eval=True rounds .*drop_rounding=true"),
        (small_gpt2, RevVitStack, "transformers", r"RevVitStack has two streams, which transformers cannot hold"),
        (small_vit, StandardStack, "timm", r"VisionTransformer, wanted a model of timm.*shifted patches.*format=torch"),
        (small_vit, StandardStack, "transformers", r"VisionTransformer, wanted a Gpt2 or a model of transformers"),
        (small_seq2seq, StandardStack, "transformers", r"Seq2SeqTransformer, wanted a Gpt2"),
        (small_gpt2, fixed_gamma, "torch", r"eval_gamma=1/4.*stack\.eval_gamma=0"),
        (small_gpt2, StandardStack, "onnx", r"format=onnx: wanted one of transformers, timm, torch"),
    ],
)  # fmt: skip
def test_what_a_format_cannot_hold_is_refused_by_name_and_nothing_is_left(make, stack, format, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        bdia.export(make(stack), tmp_path / "out", format)
    assert not list(tmp_path.iterdir())


def test_a_model_that_timm_would_not_make_again_is_refused_with_what_to_give(tmp_path):
    net = small_timm(unrounded)
    net.head = torch.nn.Linear(12, 5, bias=False)
    with pytest.raises(ValueError, match=r"timm cannot load the model again [\s\S]*head\.bias[\s\S]*arguments="):
        bdia.export(net, tmp_path / "out", "timm")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_refused_and_untouched(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"out is there already: give another folder"):
        bdia.export(small_gpt2(), tmp_path / "out", "torch")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]


def test_a_failure_in_the_middle_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "huggingface_config", lambda *_: 1 / 0)  # the weights are written by then
    with pytest.raises(ZeroDivisionError):
        bdia.export(small_gpt2(), tmp_path / "out", "transformers")
    assert not list(tmp_path.iterdir())


# --- the name and the command ---


@pytest.mark.parametrize(
    "first",
    [
        "import bdia",
        pytest.param("import bdia.train.export", marks=pytest.mark.slow),
        pytest.param("from bdia.train.export import Source; import bdia", marks=pytest.mark.slow),
    ],
)
def test_the_name_can_be_called_whatever_was_imported_first(first, tmp_path):
    code = f"{first}; import torch; bdia.export(torch.nn.Linear(2, 2), 'out', 'torch')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=300)
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_the_package_alone_imports_nothing_heavy():
    code = "import bdia, sys; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300).stdout
    assert {name.partition(".")[0] for name in found.split()} & {
        "torch",
        "hydra",
        "lightning",
        "numpy",
        "timm",
    } == set()
    with pytest.raises(AttributeError, match="no attribute 'exprot'"):
        bdia.exprot  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["checkpoint=nowhere/final.ckpt", "to=out", "format=torch"], r"nowhere/final\.ckpt was not found"),
        (["checkpoint=nowhere/final.ckpt", "to=out"], r"format is missing: wanted format=\.\.\."),
        (["chekpoint=x"], r"chekpoint=x: wanted checkpoint=x$"),
    ],
)
def test_an_error_of_the_command_is_one_line_and_exit_code_2(arguments, message, capfd):
    with pytest.raises(SystemExit, match="2"):
        main(["export", *arguments])
    error = capfd.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and re.search(message, error), error


def test_help_names_every_argument(capsys):
    main(["export", "--help"])
    shown = capsys.readouterr().out
    assert "Usage: bdia export checkpoint=" in shown
    assert all(f"  {name}" in shown for name in vars(Arguments()))
