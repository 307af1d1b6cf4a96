"""Sources of CIFAR and what is said when there is none. No network: the download is replaced or refused."""

import hashlib
import importlib.util
import pickle
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets.utils

from bdia.data.errors import DataCorruptError, DataNotFoundError
from bdia.data.images import cifar
from bdia.data.images.cifar import DATA_SETS, CifarDataModule
from helpers.places import SHARED

THREE_WAYS = r"data\.download=true.*official archive cifar-10-python\.tar\.gz.*cifar10\.npz.*data\.data_dir"


@pytest.fixture(autouse=True)
def small_data_sets_without_network(request, monkeypatch):
    """Expect 200 + 40 images, and let no test reach the network."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(cifar, "COUNTS", {"train": 200, "test": 40})

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr(torchvision.datasets.utils.urllib.request, "urlopen", refuse)


def make_arrays(classes=10, train=200, test=40):
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", train), ("test", test)):
        arrays[f"{split}_x"] = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        arrays[f"{split}_y"] = np.arange(count, dtype=np.int64) % classes
    return arrays


def write_npz(folder, name="cifar10", **changes):
    np.savez(folder / f"{name}.npz", **{**make_arrays(), **changes})
    return folder / f"{name}.npz"


def make_module(folder, name="cifar10", **keywords):
    return CifarDataModule(name, folder, **{"download": False, **keywords})


def write_official_archive(folder, monkeypatch, scratch):
    """Write a small archive laid out like the official CIFAR-10 one, and make torchvision expect its md5 sums."""
    arrays, reader = make_arrays(), DATA_SETS["cifar10"][0]
    base = scratch / reader.base_folder
    base.mkdir(parents=True)
    parts = {"test_batch": ("test", slice(None))}
    parts |= {f"data_batch_{i + 1}": ("train", slice(40 * i, 40 * (i + 1))) for i in range(5)}
    contents = {"batches.meta": {"label_names": list(cifar.CIFAR10_CLASSES)}}
    for file, (split, rows) in parts.items():
        pixels = arrays[f"{split}_x"][rows].reshape(40, 3072)
        contents[file] = {"data": pixels, "labels": arrays[f"{split}_y"][rows].tolist()}
    for file, content in contents.items():
        (base / file).write_bytes(pickle.dumps(content))
    md5 = {file: hashlib.md5((base / file).read_bytes()).hexdigest() for file in contents}
    archive = folder / reader.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(base, reader.base_folder)
    monkeypatch.setattr(reader, "train_list", [[f"data_batch_{i}", md5[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(reader, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": md5["batches.meta"]})
    monkeypatch.setattr(reader, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    return archive


def assert_loads_the_arrays(module):
    found = module.load()
    wanted = make_arrays()
    for (images, labels), split in zip(found, ("train", "test"), strict=True):
        assert np.array_equal(images, wanted[f"{split}_x"])
        assert np.array_equal(labels, wanted[f"{split}_y"])


def test_npz_arrays_are_loaded_in_their_order(tmp_path):
    write_npz(tmp_path)
    module = make_module(tmp_path)
    module.prepare_data()
    assert_loads_the_arrays(module)
    module.setup()
    assert module.sizes == {"train": 180, "val": 20, "test": 40}


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_class_names_are_as_many_as_classes_and_in_official_alphabetical_order(name, classes):
    names = make_module("unused", name).class_names
    assert len(set(names)) == classes == make_module("unused", name).num_classes
    assert list(names) == sorted(names)


def test_an_unknown_name_names_the_known_ones_and_the_key():
    with pytest.raises(ValueError, match=r"'mnist'.*cifar10, cifar100.*data\.name"):
        CifarDataModule("mnist")


def test_the_archive_in_data_dir_is_unpacked_without_network_and_without_download(tmp_path, monkeypatch):
    write_official_archive(tmp_path, monkeypatch, tmp_path / "scratch")
    module = make_module(tmp_path)
    module.prepare_data()
    assert_loads_the_arrays(module)
    assert_loads_the_arrays(make_module(tmp_path))  # a second run needs no preparation


def test_missing_data_names_the_folder_and_three_ways(tmp_path):
    module = make_module(tmp_path / "nowhere")
    module.prepare_data()
    with pytest.raises(DataNotFoundError, match="nowhere.*" + THREE_WAYS):
        module.setup()


def test_an_unreachable_network_names_the_cause_and_three_ways(tmp_path):
    with pytest.raises(DataNotFoundError, match="no network here.*" + THREE_WAYS):
        make_module(tmp_path, download=True).prepare_data()


def cut_off(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def overwrite(path):
    path.write_bytes(b"<html>captive portal</html>")


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut_off, flip_a_byte, overwrite, empty])
@pytest.mark.parametrize("download", [False, True])
def test_a_damaged_npz_is_one_error_and_no_other_source_is_tried(tmp_path, monkeypatch, damage, download):
    write_official_archive(tmp_path, monkeypatch, tmp_path / "scratch")
    damage(write_npz(tmp_path))
    module = make_module(tmp_path, download=download)
    module.prepare_data()
    with pytest.raises(DataCorruptError, match=r"cifar10\.npz cannot be read.*" + THREE_WAYS):
        module.setup()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_x": make_arrays()["train_x"][:199]}, r"images are \(199, 3, 32, 32\).*wanted \(200, 3, 32, 32\)"),
        ({"test_y": np.full(40, 10)}, r"labels lie in 10\.\.10, wanted 0\.\.9"),
        ({"train_y": np.array([None] * 200)}, r"cannot be read.*allow_pickle"),
    ],
)
def test_an_npz_with_wrong_arrays_names_value_wanted_and_three_ways(tmp_path, changes, message):
    write_npz(tmp_path, **changes)
    with pytest.raises(DataCorruptError, match=r"cifar10\.npz.*" + message + ".*" + THREE_WAYS):
        make_module(tmp_path).setup()


def test_an_npz_without_an_array_names_it(tmp_path):
    arrays = make_arrays()
    del arrays["test_y"]
    np.savez(tmp_path / "cifar10.npz", **arrays)
    with pytest.raises(DataCorruptError, match="test_y.*" + THREE_WAYS):
        make_module(tmp_path).setup()


def test_a_cut_off_archive_is_refused_by_md5_without_download(tmp_path, monkeypatch):
    cut_off(write_official_archive(tmp_path, monkeypatch, tmp_path / "scratch"))
    module = make_module(tmp_path)
    module.prepare_data()
    with pytest.raises(DataCorruptError, match=r"cifar-10-python\.tar\.gz: .*md5.*" + THREE_WAYS):
        module.setup()


def test_a_cut_off_download_is_fetched_again_by_the_next_run(tmp_path, monkeypatch):
    archive = write_official_archive(tmp_path, monkeypatch, tmp_path / "scratch")
    whole = archive.read_bytes()
    cut_off(archive)

    def serve(url, path, *args, **kwargs):
        Path(path).write_bytes(whole)

    monkeypatch.setattr(torchvision.datasets.utils, "_get_redirect_url", lambda url, **kwargs: url)
    monkeypatch.setattr(torchvision.datasets.utils, "_urlretrieve", serve)
    module = make_module(tmp_path, download=True)
    module.prepare_data()
    assert_loads_the_arrays(module)


def test_a_damaged_unpacked_file_is_unpacked_again_from_the_archive_and_refused_without(tmp_path, monkeypatch):
    archive = write_official_archive(tmp_path, monkeypatch, tmp_path / "scratch")
    module = make_module(tmp_path)
    module.prepare_data()
    flip_a_byte(module.folder / "data_batch_3")
    module.prepare_data()
    assert_loads_the_arrays(module)
    flip_a_byte(module.folder / "data_batch_3")
    archive.unlink()
    module.prepare_data()
    with pytest.raises(DataCorruptError, match=r"cifar-10-batches-py: .*md5.*" + THREE_WAYS):
        module.setup()


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "decode.py").exists(), reason="needs the decoded images in ../shared/data")
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_whole_data_set_loads_and_has_the_stated_mean_and_deviation(tmp_path, name):
    spec = importlib.util.spec_from_file_location("decode", SHARED / "decode.py")
    decode = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(decode)
    arrays = decode.load(str(SHARED), name)
    np.savez(tmp_path / f"{name}.npz", **{key: np.asarray(value) for key, value in arrays.items()})
    module = make_module(tmp_path, name, val_fraction=0)
    module.setup()
    assert module.sizes == {"train": 50_000, "val": 0, "test": 10_000}
    names = arrays["label_names" if name == "cifar10" else "fine_label_names"]
    assert list(module.class_names) == list(names)
    pixels = module.splits["train"][0]
    scaled = [pixels[:, channel].double() / 255 for channel in range(3)]
    assert [channel.mean().item() for channel in scaled] == pytest.approx(module.mean, abs=1e-4)
    assert [channel.std().item() for channel in scaled] == pytest.approx(module.std, abs=1e-4)
    assert torch.equal(
        torch.bincount(module.splits["test"][1]), torch.full((module.num_classes,), 10_000 // module.num_classes)
    )
