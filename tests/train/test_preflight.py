"""What a run needs at its end is checked before it begins, and a refusal leaves nothing behind."""

import shutil
from collections import namedtuple

import pytest

from bdia import BdiaError, InvalidValueError, UnsupportedError
from bdia.data.errors import DataCorruptError
from bdia.train.job import train
from bdia.train.preflight import check_memory, check_places, check_room
from helpers.training_helpers import compose_config, statuses


@pytest.mark.parametrize("name", ["tables", "bench", "kills", "a/b", ".hidden", "..", "a\tb", "x" * 256, "é" * 130])
def test_a_name_that_cannot_be_a_folders_is_refused_before_anything_is_read(tiny, name, tmp_path, monkeypatch):
    monkeypatch.setattr("bdia.train.job.build_data", lambda cfg: pytest.fail("data were built"))
    cfg = tiny()
    cfg.name = name
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InvalidValueError, match=r"^name="):
        train(cfg)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("key", ["results", "runs"])
def test_a_file_in_the_place_of_a_folder_is_refused_by_key(tiny, key, tmp_path):
    (tmp_path / "file").write_text("in the way")
    cfg = tiny(f"paths.{key}={tmp_path / 'file'}")
    with pytest.raises(
        InvalidValueError, match=rf"^paths\.{key}=.*can't be written there \((Not a directory|File exists)\)"
    ):
        train(cfg)
    assert not list(tmp_path.rglob("*.ckpt")) and (tmp_path / "file").read_text() == "in the way"


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path):
    cfg = compose_config(f"paths.results={tmp_path / 'a' / 'b'}", f"paths.runs={tmp_path}", "name=mine")
    check_places(cfg)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_hold_the_checkpoints_is_refused_before_training(tiny, monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(UnsupportedError, match=r"checkpoints need up to .* the disk has 1000 B free.*paths\.runs"):
        train(tiny())
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob("*.ckpt"))


def test_room_is_counted_for_every_checkpoint_and_the_optimizers_states(tmp_path, monkeypatch):
    import torch

    usage = namedtuple("usage", "total used free")
    for free, fits in ((4 * 3 * 4 * 100, True), (4 * 3 * 4 * 100 - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage(0, 0, free))
        if fits:
            check_room(tmp_path, torch.nn.Linear(100, 1, bias=False))
        else:
            with pytest.raises(UnsupportedError):
                check_room(tmp_path, torch.nn.Linear(100, 1, bias=False))


def test_test_data_that_cannot_be_read_are_found_before_training(tiny, tmp_path, monkeypatch):
    lines = [f"sentence {i} is here" for i in range(60)]
    for name in ("train", "val"):
        for language in ("en", "fr"):
            (tmp_path / f"{name}.{language}").write_text("\n".join(lines) + "\n")
    (tmp_path / "test.en").write_bytes(b"\xff\xfe")
    (tmp_path / "test.fr").write_text("une phrase\n")
    files = "data.source.files={train: train, val: val, test: test}"
    from helpers.training_helpers import TEXT_COMMON

    cfg = compose_config(
        "data=multi30k", files, f"data.source.folder={tmp_path}", "model=seq2seq_demo", *TEXT_COMMON,
        f"paths.runs={tmp_path / 'runs'}", f"paths.results={tmp_path / 'results'}",
    )  # fmt: skip
    with pytest.raises(DataCorruptError, match=r"test\.en is UTF-16"):
        train(cfg)
    assert not (tmp_path / "results").exists()


def test_refusals_are_errors_for_the_user(tiny):
    cfg = tiny()
    cfg.name = "a/b"
    with pytest.raises(BdiaError):
        train(cfg)
    cfg.name = "custom"
    assert train(cfg).status == "ok" and statuses(cfg) == ["ok"]


def test_a_model_larger_than_the_memory_is_refused_before_it_is_built(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr("bdia.train.preflight.free_bytes", lambda: 10_000)
    wanted = r"model\.net has [\d,]+ parameters: weights, .* 9\.77 KiB free; set a smaller model\.net\.width or depth"
    with pytest.raises(UnsupportedError, match=wanted):
        train(tiny())
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    "choices",
    [
        ["experiment=demo"],
        ["experiment=translation", "scale/translation=smoke"],
        ["experiment=gpt2", "scale/gpt2=smoke"],
        ["experiment=finetune_vit_cifar10", "scale/finetune_vit=smoke"],
    ],
    ids=lambda choices: choices[0],
)
def test_counting_parameters_draws_no_random_number_and_takes_no_memory(choices):
    import torch

    cfg = compose_config(*choices)
    arguments = {"num_classes": 10} if "ImageClassification" in cfg.model._target_ else {"vocab_size": 300}
    state = torch.get_rng_state()
    check_memory(cfg, arguments)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_of_a_thousand_billion_parameters_is_counted_in_seconds():
    wide = ["model.net.width=65536", "model.net.heads=64", "model.net.depth=64", "model.net.mlp_hidden=65536"]
    with pytest.raises(UnsupportedError, match=r"model\.net has [\d,]{12,} parameters: .* TiB and the machine has"):
        check_memory(compose_config(*wide), {"num_classes": 10})
