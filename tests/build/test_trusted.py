"""A config beside a checkpoint calls nothing outside the list; damaged and tampered files are refused by name."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from bdia import BdiaError, InvalidValueError
from bdia.build import compose, load_run
from bdia.build.keys import plain_values
from bdia.build.trusted import check_trusted
from bdia.train.job import recorded_config, train
from helpers.places import CONFIGS
from helpers.training_helpers import LANGUAGE, TEXT_COMMON, compose_config, run_dir


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a finished run."""
    place = tmp_path_factory.mktemp("trusted")
    folders = [f"paths.{name}={place / name}" for name in ("runs", "results")]
    cfg = compose_config(*LANGUAGE, *TEXT_COMMON, "trainer.max_epochs=1", "+trainer.limit_train_batches=2", *folders)
    train(cfg)
    return run_dir(cfg)


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def changed(folder, change):
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(yaml.safe_dump(config), encoding="utf-8")


def put(*keys, value):
    def change(config):
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return change


def test_a_run_of_ours_is_loaded(folder):
    assert load_run(folder / "final.ckpt").net


@pytest.mark.parametrize(
    "target", ["os.system", "builtins.eval", "subprocess.run", "bdia.data.files.remove_leftovers", 3]
)
@pytest.mark.parametrize(
    "place", [("model",), ("model", "net"), ("stack",), ("optimizer",), ("data", "source"), ("callbacks", "history")]
)
def test_a_class_that_is_on_no_list_is_refused_by_name(folder, place, target):
    changed(folder, put(*place, "_target_", value=target))
    with pytest.raises(InvalidValueError, match=r"config\.yaml: .*_target_=.*BDIA_TRUST"):
        load_run(folder / "final.ckpt")


@pytest.mark.parametrize(
    "change",
    [
        put("model", "net", "extra", value=[{"deep": {"_target_": "os.system", "command": "true"}}]),
        put("model", "net", "_args_", value=["x"]),
        put("name", value="${oc.env:HOME}"),
        put("model", "net", "width", value="${oc.decode:'16'}"),
        put("model", "net", "width", value="${oc.create:{a: 1}}"),
    ],
)
def test_what_hides_a_call_or_reads_the_surroundings_is_refused(folder, change):
    changed(folder, change)
    with pytest.raises(InvalidValueError, match=r"config\.yaml"):
        load_run(folder / "final.ckpt")


def test_a_package_that_is_trusted_by_name_may_be_named(monkeypatch):
    config = {"optimizer": {"_target_": "mine.Sgd"}}
    with pytest.raises(InvalidValueError, match="BDIA_TRUST=mine"):
        check_trusted(config, "config.yaml")
    monkeypatch.setenv("BDIA_TRUST", "other, mine")
    check_trusted(config, "config.yaml")


def test_every_config_that_this_project_records_is_trusted():
    for name in sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml")):
        check_trusted(recorded_config_of(name), name)
    for group, base in (("model", []), ("tokenizer", ["data=pydoc", "model=gpt2_demo"])):
        for path in (CONFIGS / group).glob("*.yaml"):
            key = f"{group}@data.{group}" if group == "tokenizer" else group
            check_trusted(plain_values(compose([*base, f"{key}={path.stem}"])), path.stem)


def recorded_config_of(name):
    cfg = compose([f"experiment={name}"])
    return recorded_config(cfg) if name != "custom" else {}


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + k)}: &{chr(98 + k)} [{', '.join([f'*{chr(97 + k)}'] * 9)}]\n" for k in range(9)
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2]",
        "model: 3",
        "a: [",
        "\x00",
        BOMB,
        "x: !!python/object/apply:os.system [true]",
        "[" * 3000,
        "a" * 2**21,
    ],
    ids=["empty", "a list", "no model", "broken", "a zero byte", "aliases", "a tag", "deep", "large"],
)
def test_a_damaged_config_is_refused_by_name(folder, text):
    (folder / "config.yaml").write_text(text)
    with pytest.raises(BdiaError, match=r"config\.yaml"):
        load_run(folder / "final.ckpt")


class Payload:
    def __reduce__(self):
        return os.system, ("touch owned",)


@pytest.mark.parametrize("kind", ["a pickle", "a zip with a pickle", "cut off", "other content"])
def test_a_tampered_checkpoint_runs_nothing_and_is_refused_by_name(folder, kind, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = folder / "final.ckpt"
    if kind == "a pickle":
        path.write_bytes(pickle.dumps(Payload()))
    elif kind == "a zip with a pickle":
        torch.save({"state_dict": Payload()}, path)
    elif kind == "cut off":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        torch.save([1, 2], path)
    with pytest.raises(BdiaError, match=r"final\.ckpt"):
        load_run(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": {"type": "BPE"}}', "{" * 2000])
def test_a_damaged_tokenizer_is_refused_by_name(folder, text):
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(BdiaError, match=r"tokenizer\.json"):
        load_run(folder / "final.ckpt")


def test_weights_that_are_not_finite_are_refused_by_name(folder):
    path = folder / "final.ckpt"
    stored = torch.load(path, weights_only=True)
    name = next(name for name in stored["state_dict"] if name.endswith("tokens.weight"))
    stored["state_dict"][name][0, 0] = float("nan")
    torch.save(stored, path)
    with pytest.raises(InvalidValueError, match=r"final\.ckpt: net\.tokens\.weight has 1 values that are NaN"):
        load_run(path)
