"""Where training starts: given weights, fetched ones, or a pretraining that is done once."""

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import save_file

import bdia.train.job
from bdia.build import build_task, load_run
from bdia.data.errors import DataNotFoundError
from bdia.models import timm_vit
from bdia.reversible import BdiaStack, StandardStack
from bdia.train.job import train
from bdia.train.weights import find_weights, load_weights, pretraining
from helpers.text_models import small_gpt2
from helpers.training_helpers import checkpoint, compose_config

# Fine-tuning as in the smoke experiment, in seconds.
SMALL = (
    *("experiment=finetune_vit_cifar10", "scale/finetune_vit=smoke"),
    *("data.train_per_class=4", "weights.pretrain.data.train_per_class=4", "data.eval_batch_size=2048"),
    *(f"{part}.net.{key}={value}" for part in ("model", "weights.pretrain.model")
      for key, value in {"width": 16, "depth": 3, "heads": 2, "head_dim": 8, "mlp_hidden": 16}.items()),
    *("weights.pretrain.trainer.max_epochs=1", "trainer.accelerator=cpu", "logger=csv"),
)  # fmt: skip
TEXT = (
    *("experiment=finetune_gpt2_e2e", "scale/finetune_gpt2=smoke"),
    *("data.source.train=8", "data.source.val=2", "data.source.test=2", "model.new_tokens=5"),
    *(f"{part}.net.{key}={value}" for part in ("model", "weights.pretrain.model")
      for key, value in {"width": 16, "depth": 3, "heads": 2}.items()),
    *("weights.pretrain.data.fraction=0.05", "weights.pretrain.data.tokenizer.vocab_size=400"),
    *("trainer.max_epochs=1", "trainer.accelerator=cpu", "logger=csv"),
)  # fmt: skip
HUB = "weights.from=hf-hub:owner/name"


@pytest.fixture
def small(places, one_thread):
    """small(*overrides): the config of a small fine-tuning."""
    return lambda *overrides, of=SMALL: compose_config(*of, *places, *overrides)


@pytest.fixture
def starts(monkeypatch):
    """The weights of the model of each run before its first step: the pretrainings' and the fine-tunings'."""
    found = []

    def build(cfg, *arguments):
        task = build_task(cfg, *arguments)
        found.append((cfg.name, task.net))
        task.on_fit_start = lambda: found.append(("start", {k: t.clone() for k, t in task.net.state_dict().items()}))
        return task

    monkeypatch.setattr(bdia.train.job, "build_task", build)
    return found


def pretrained(cfg):
    """Folders of what was pretrained for a config."""
    return sorted(path.parent for path in (Path(cfg.paths.runs) / "pretrained").glob("*/final.ckpt"))


def test_a_model_is_pretrained_once_and_every_seed_and_stack_starts_from_it(small, starts):
    for overrides in (["stack=standard"], ["stack=bdia_pretrained"], ["stack=standard", "seed=1"]):
        train(small(*overrides))
    (folder,) = pretrained(small())
    assert folder.name.endswith("_s0")
    assert [name for name, _ in starts if name != "start"].count("pretrained") == 1
    wanted = torch.load(folder / "final.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    (_, *fine_tunings) = [state for name, state in starts if name == "start"]
    assert len(fine_tunings) == 3
    for state in fine_tunings:
        assert all(torch.equal(state[name.removeprefix("net.")], tensor) for name, tensor in wanted.items())


def test_another_pretraining_is_another_folder_and_another_condition(small):
    one, other = small("stack=standard"), small("stack=standard", "+weights.pretrain.optimizer.lr=0.01")
    for cfg in (one, other):
        train(cfg)
    assert len(pretrained(one)) == 2
    assert len(list((Path(one.paths.runs) / one.name).iterdir())) == 2


def test_the_record_says_how_the_weights_came_about_and_not_where_they_lie(small, tmp_path):
    record = train(small())
    weights = record.config["weights"]
    assert (weights["from"], weights["folder"], weights["found"]) == (None, None, None)
    assert weights["pretrain"]["data"]["train_per_class"] == 4
    assert str(tmp_path) not in json.dumps(record.config)
    results = Path(small().paths.results)
    assert [path.name for path in results.iterdir()] == [record.experiment]  # the pretraining's record is not a result


def test_the_pretraining_takes_the_parts_that_are_given_and_keeps_the_rest(small):
    cfg = small("stack=bdia_pretrained", "seed=2", "rerun=true", "+weights.pretrain.optimizer.lr=0.01")
    first = pretraining(cfg)
    assert (first.name, first.seed, first.rerun) == ("pretrained", 0, False) and "weights" not in first
    assert first.stack._target_ == first.model.net.stack._target_ == "bdia.reversible.StandardStack"
    assert first.optimizer.lr == 0.01 and first.optimizer._target_ == cfg.optimizer._target_
    assert first.trainer.max_epochs == 1 and first.trainer.accelerator == "cpu"
    assert cfg.weights.pretrain and cfg.seed == 2  # itself unchanged


def test_a_text_model_is_fine_tuned_with_the_tokenizer_that_it_was_pretrained_with(small, tmp_path, starts):
    cfg = small("stack=bdia_pretrained", of=TEXT)
    record = train(cfg)
    (folder,) = pretrained(cfg)
    run = next((Path(cfg.paths.runs) / cfg.name).iterdir())
    assert (run / "tokenizer.json").read_text() == (folder / "tokenizer.json").read_text()
    assert record.final("bleu", "test") is not None and "nrefs:3" in record.signatures["bleu"]
    wanted = torch.load(folder / "final.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    state = starts[-1][1]
    assert all(torch.equal(state[name.removeprefix("net.")], tensor) for name, tensor in wanted.items())
    rebuilt = load_run(run / "final.ckpt")  # without looking for the weights that training started from
    assert len(rebuilt.continue_prompts(["name[Bella Riva] |"])) == 1
    assert str(tmp_path) not in json.dumps(record.config)


def test_training_goes_on_from_a_runs_checkpoint_but_for_the_head_of_other_classes(small, places, starts, caplog):
    cfg = small("stack=standard")
    train(cfg)
    (folder,) = pretrained(cfg)
    state = torch.load(folder / "final.ckpt", weights_only=True)
    head = state["state_dict"]["net.head.weight"]
    state["state_dict"]["net.head.weight"], state["state_dict"]["net.head.bias"] = head[:3].clone(), torch.zeros(3)
    torch.save(state, folder / "other.ckpt")
    with caplog.at_level(logging.INFO, "bdia"):
        record = train(small("stack=standard", f"weights.from={folder / 'other.ckpt'}"))
    assert "but for head.weight, head.bias" in caplog.text
    assert record.config["weights"]["from"] == str(folder / "other.ckpt")
    begun = starts[-1][1]
    assert torch.equal(begun["pos_embed"], state["state_dict"]["net.pos_embed"]) and begun["head.weight"].shape[0] == 10


def test_a_resumed_run_does_not_start_again_from_the_weights(small, add_callbacks):
    from helpers.training_helpers import At, broken

    cfg = small("stack=standard", "trainer.max_epochs=2")
    add_callbacks(At("on_train_batch_end", 2, broken))
    with pytest.raises(RuntimeError, match="broken"):
        train(cfg)
    add_callbacks()
    train(cfg)
    found = checkpoint(cfg)
    assert found["epoch"] == 2 and found["global_step"] == 2


# --- the hub ---


def test_weights_of_the_hub_that_cannot_be_fetched_are_pretrained_and_the_record_says_so(small, monkeypatch, caplog):
    def snapshot_download(*_, **__):
        raise OSError("no network")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    record = train(small(HUB))
    assert record.config["weights"]["from"] is None
    assert (
        "hf-hub:owner/name could not be fetched (OSError)" in caplog.text and "pretrained here instead" in caplog.text
    )
    with pytest.raises(DataNotFoundError, match=r"hf-hub:owner/name could not be fetched.*set weights\.from"):
        train(small(HUB, "weights.pretrain=null"))


def test_weights_of_the_hub_are_taken_where_they_can_be_fetched(small, monkeypatch, tmp_path):
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append(name)
        return str(tmp_path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    cfg = find_weights(small(HUB), lambda first: pytest.fail("pretrained"))
    assert (asked, cfg.weights.found, cfg.weights.folder) == (["owner/name"], str(tmp_path), str(tmp_path))
    assert cfg.weights["from"] == "hf-hub:owner/name"


# --- files of other libraries ---


def test_timms_weights_of_another_size_are_resampled_and_of_other_classes_leave_the_head(tmp_path):
    small = {"patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2}
    torch.manual_seed(0)
    original = timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=32, **small)
    save_file(original.state_dict(), tmp_path / "model.safetensors")
    net = timm_vit("vit_tiny_patch16_224", BdiaStack, num_classes=5, img_size=16, **small)
    head = net.head.weight.clone()
    assert load_weights(net, tmp_path) == ["head.weight", "head.bias"]
    assert torch.equal(net.head.weight, head)
    assert torch.equal(net.blocks[1].mlp.fc1.weight, original.blocks[1].mlp.fc1.weight)
    assert net.pos_embed.shape == (1, 5, 12)


def test_gpt2_weights_in_hugging_faces_layout_are_loaded(tmp_path):
    from bdia import export

    wanted = small_gpt2()
    export(wanted, tmp_path / "gpt2", "transformers")
    net = small_gpt2(lambda blocks: BdiaStack(blocks, quantize_eval=False), vocab_size=11)
    with torch.no_grad():
        net.tokens.weight.zero_()
    assert load_weights(net, tmp_path / "gpt2") == []
    assert all(torch.equal(tensor, wanted.state_dict()[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 4}, r"blocks\.3\.\S+ is missing, the model has \(.*set model\.net"),
        ({"depth": 2}, r"blocks\.2\.\S+ is \(.*\), the model has missing there"),
        ({"width": 14}, r"tokens\.weight is \(11, 12\), the model has \(11, 14\) there"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_by_name_and_shapes(options, message, tmp_path):
    torch.save({"state_dict": {f"net.{k}": t for k, t in small_gpt2().state_dict().items()}}, tmp_path / "final.ckpt")
    with pytest.raises(ValueError, match=rf"weights\.from=.*final\.ckpt: {message}"):
        load_weights(small_gpt2(StandardStack, **options), tmp_path / "final.ckpt")


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["weights.from=nowhere/final.ckpt"], FileNotFoundError, r"weights\.from=nowhere/final\.ckpt was not found"),
        (["weights.pretrain=null"], ValueError, r"weights\.from=null and no weights\.pretrain: set weights\.from"),
    ],
)
def test_weights_that_are_not_there_are_one_clear_error(small, overrides, error, message):
    with pytest.raises(error, match=message):
        train(small(*overrides))


def test_a_damaged_file_is_refused_by_its_key(tmp_path):
    (tmp_path / "final.ckpt").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"final\.ckpt cannot be read as weights .*set weights\.from"):
        load_weights(small_gpt2(), tmp_path / "final.ckpt")


def test_a_run_without_the_node_is_recorded_as_before(places):
    cfg = compose_config("data=digits", *places)
    assert "weights" not in bdia.train.job.recorded_config(cfg) and find_weights(cfg, None) is cfg


@pytest.mark.parametrize("stack", [pytest.param("standard", marks=pytest.mark.slow), "bdia_pretrained"])
def test_what_was_fine_tuned_is_exported_with_its_metric(small, stack, tmp_path):
    import torch.nn.functional as F

    from bdia import export
    from bdia.build import build_data

    cfg = small(f"stack={stack}")
    record = train(cfg)
    run = next((Path(cfg.paths.runs) / cfg.name).iterdir())
    export(run / "final.ckpt", tmp_path / "out", "torch")
    data = build_data(cfg)
    data.setup()
    ((images, labels),) = data.test_dataloader()
    logits = torch.export.load(tmp_path / "out" / "program.pt2").module()(images)
    assert F.cross_entropy(logits, labels).item() == pytest.approx(record.final("loss", "test"), rel=1e-6)
