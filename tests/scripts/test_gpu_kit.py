"""The kit for small runs on a lent GPU: what is packed, images to the bit."""

import json
import tarfile

import numpy as np
import torch
from gpu_kit import pack
from gpu_kit.cifar_part import ROW, SIDE, modules, read_sheets, write_sheets


def write_record(folder, name, status):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"status": status}))


def test_only_records_that_ended_well_are_packed(tmp_path):
    write_record(tmp_path / "results" / "one", "good", "ok")
    write_record(tmp_path / "results" / "one", "bad", "failed")
    assert pack.pack_records(tmp_path / "results", tmp_path) == 1
    with tarfile.open(tmp_path / "records.tar.gz") as tar:
        assert tar.getnames() == ["one/good.json"]


def test_weights_are_packed_without_the_optimizers_state_in_files_of_a_limited_size(tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "LARGEST", 3000)
    for number in range(2):
        folder = tmp_path / "runs" / "one" / f"run{number}"
        folder.mkdir(parents=True)
        state = {"state_dict": {"w": torch.full((100,), float(number))}, "optimizer_states": [torch.zeros(10_000)]}
        torch.save(state, folder / "final.ckpt")
        for name in ("config.yaml", "record.json"):
            (folder / name).write_text("{}")
    assert pack.pack_weights(tmp_path / "runs", ["one"], tmp_path) == 2
    for number in range(2):
        with tarfile.open(tmp_path / f"weights_{number}.tar") as tar:
            tar.extractall(tmp_path / "back", filter="data")
        back = torch.load(tmp_path / "back" / "one" / f"run{number}" / "final.ckpt", weights_only=True)
        assert set(back) == {"state_dict"} and back["state_dict"]["w"][0] == number


def test_the_images_of_runs_are_those_of_their_study_scale_and_seeds(tmp_path):
    named = dict(modules(["bits_cifar10 few 0,3", "table1_cifar10 long 1"], tmp_path))
    assert list(named) == ["bits_cifar10 few 0", "bits_cifar10 few 3", "table1_cifar10 long 1"]
    assert [data.train_per_class for data in named.values()] == [50, 50, 200]
    assert [data.seed for data in named.values()] == [0, 3, 1]


def test_images_come_back_from_the_sheets_to_the_bit(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (ROW + 5, 3, SIDE, SIDE), np.uint8)
    write_sheets(images, tmp_path, "train")
    assert np.array_equal(read_sheets(tmp_path, "train", len(images)), images)
