"""A key that nothing reads is refused when the config is composed, with the nearest that something does."""

import subprocess
import sys

import pytest

import bdia.data
import bdia.tasks
from bdia import InvalidValueError
from bdia.build import compose
from bdia.build.declarations import UNKNOWN, declaration
from bdia.build.keys import KEYS
from bdia.results.identity import config_sha256
from bdia.train.job import recorded_config

KEYS_REFUSED = {
    "stack.bitz=9": "stack.bitz=9: bdia.reversible.BdiaStack reads no bitz; did you mean stack.bits?",
    "+trainer.max_epoch=3": "trainer.max_epoch=3: lightning.pytorch.Trainer reads no max_epoch; did you mean "
    "trainer.max_epochs?",
    "+stak=bdia": "stak=bdia: nothing reads stak; did you mean stack?",
    "optimiser=adamw": "optimiser=adamw: nothing reads optimiser; did you mean optimizer?",
    "++paths.result=x": "paths.result=x: nothing reads paths.result; did you mean paths.results?",
    "stack=standard stack.keep=2": "stack.keep=2: bdia.reversible.StandardStack reads no keep; wanted none",
    "+callbacks.lr=3": "callbacks.lr=3: nothing reads it; wanted a class, _target_=...",
    "+optimizer.params=3": "optimizer.params=3: bdia.optim.SetAdam reads no params; wanted betas, eps or lr",
    "+model.net.tokenizer.drop=2": "model.net.tokenizer.drop=2: bdia.models.ShiftedPatchEmbed reads no drop; ",
    "experiment=finetune_vit_cifar10_smoke +weights.pretrain.optimizer.lrr=1": "weights.pretrain.optimizer.lrr=1: "
    "bdia.optim.SetAdam reads no lrr; did you mean weights.pretrain.optimizer.lr?",
    "+weights.pretrain.optimizer.lr=1": "weights.from is missing",
    "trainer.min_epochs=1": "trainer.min_epochs=1: no file of configs/ has this key, but something reads it; write "
    "+trainer.min_epochs=1",
    "~stack.nothing": "~stack.nothing: there is no such key",
    "+stack=bdia": "+stack=bdia: it is chosen already; leave the + out",
    "+optimizer=adamw": "+optimizer=adamw: it is chosen already; leave the + out",
    "+gamma@stack.gamma=half": "+gamma@stack.gamma=half: it is chosen already; leave the + out",
    "+trainer.max_epochs=3": "+trainer.max_epochs: it is in the config already; leave the + out",
}
FILES_REFUSED = {
    "stack=bdai": "stack=bdai: no such file in configs/stack; did you mean bdia? There are bdia, ",
    "gamma@stack.gamma=hallf": "gamma@stack.gamma=hallf: no such file in configs/gamma; did you mean half?",
    "gamma@stak.gamma=half": "gamma@stak.gamma=half: there is no such place; did you mean gamma@stack.gamma?",
    "stack=revvit gamma@stack.gamma=half": "gamma@stack.gamma=half: stack reads no gamma in this choice",
    "trainer=3": "trainer=3: wanted the name of a file of configs/trainer",
    "hydra/launcher=jobli": "hydra/launcher=jobli: no such file in configs/hydra/launcher; did you mean joblib?",
}
VALUES_REFUSED = {
    "trainer.max_epochs=abc": "trainer.max_epochs=abc: wanted a whole number of at least -1 or null",
    "data.batch_size=2.5": "data.batch_size=2.5: wanted a whole number of at least 1; set data.batch_size",
    "seed=x": "seed=x: wanted a whole number of at least 0 and at most 4,294,967,295; set seed",
    "seed=true": "seed=true: wanted a whole number of at least 0 and at most 4,294,967,295; set seed",
    "data.batch_size=true": "data.batch_size=true: wanted a whole number of at least 1; set data.batch_size",
    "trainer.max_epochs=true": "trainer.max_epochs=true: wanted a whole number of at least -1 or null",
    "rerun=3": "rerun=3: wanted true or false; set rerun",
    "optimizer.lr=[1,2]": "optimizer.lr=[1, 2]: wanted a number of at least 0 and at most 1000; set optimizer.lr",
    "paths=x": "paths=x: wanted the folders paths.runs and paths.results",
    "hydra.job.chdir=abc": "hydra.job.chdir=abc: Value 'abc' is not a valid bool",
    "trainer.max_epochs=1,2": "trainer.max_epochs=1,2: several values are a sweep, `bdia sweep`",
    "gibberish": "gibberish: wanted key=value",
    "stack.keep=[1": "stack.keep=[1: wanted key=value",
    "stack.gamma=half": "stack.gamma=half: that is a file of configs/gamma; write gamma@stack.gamma=half",
    "stack.gamma=1/512": "gamma value '1/512': denominator and magnitude end at 256",
    "stack.gamma=little": "gamma value 'little': wanted a fraction such as",
}


@pytest.mark.parametrize("given", [*KEYS_REFUSED, *FILES_REFUSED, *VALUES_REFUSED])
def test_what_is_wrong_is_said_in_our_words_with_the_nearest_right_one(given):
    with pytest.raises(InvalidValueError) as refused:
        compose(given.split())
    said = str(refused.value)
    assert said.startswith((KEYS_REFUSED | FILES_REFUSED | VALUES_REFUSED)[given])
    for hint in ("\n", "append to your", "HYDRA_FULL_ERROR", "full_key", "search path", "--multirun"):
        assert hint not in said


TAKEN = {
    "+trainer.gradient_clip_val=1.0": lambda cfg: cfg.trainer.gradient_clip_val == 1.0,
    "+trainer.min_epochs=2": lambda cfg: cfg.trainer.min_epochs == 2,
    "optimizer.eps=1e-6": lambda cfg: cfg.optimizer.eps == 1e-6,
    "stack.bits=auto": lambda cfg: cfg.stack.bits == "auto",
    "stack.gamma.value=1/8": lambda cfg: cfg.stack.gamma.value == "1/8",
    "data.train_per_class=4": lambda cfg: cfg.data.train_per_class == 4,
    "+trainer.limit_train_batches=0.5": lambda cfg: cfg.trainer.limit_train_batches == 0.5,  # int | float
    "optimizer.lr=1": lambda cfg: cfg.optimizer.lr == 1,
    "+callbacks.timer={_target_: lightning.pytorch.callbacks.Timer}": lambda cfg: "timer" in cfg.callbacks,
}


@pytest.mark.parametrize("override", TAKEN)
def test_a_key_that_a_class_reads_is_taken(override):
    assert TAKEN[override](compose([override]))


def test_keyword_arguments_that_a_class_hands_on_are_taken():
    assert compose(["model=timm_vit", "+model.net.embed_dim=24"]).model.net.embed_dim == 24


def test_the_keys_of_a_run_are_those_of_the_config_and_the_weights_to_start_from():
    assert {*compose([]), "weights"} == set(KEYS)


def recorded(*overrides):
    return recorded_config(compose(["stack=bdia", *overrides]))


FRACTIONS = {"1/2": "half", "0.5": "half", "-1/2": "half", "0.25": "quarter", "3/5": "three_fifths", "0.6":
             "three_fifths", "1": "one", "0": "zero", "0.0625": "sixteenth"}  # fmt: skip


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_a_fraction_means_the_law_of_the_file_that_has_it_and_the_same_hash(fraction):
    ours, files = recorded(f"stack.gamma={fraction}"), recorded(f"gamma@stack.gamma={FRACTIONS[fraction]}")
    assert ours == files
    assert config_sha256(ours) == config_sha256(files)


def test_the_law_of_a_fraction_reaches_the_model_too():
    cfg = compose(["stack.gamma=0.3"])
    assert cfg.stack.gamma == {"_target_": "bdia.reversible.TwoPoint", "value": "3/10", "per": "sample"}
    assert cfg.model.net.stack.gamma == cfg.stack.gamma


# --- What a class reads, from its source ---


def test_arguments_of_base_classes_fields_and_functions_are_found():
    assert {"name", "data_dir", "batch_size", "seed"} <= set(declaration("bdia.data.CifarDataModule").parameters)
    assert "lr" in declaration("torch.optim.AdamW").parameters
    assert {"max_epochs", "gradient_clip_val"} <= set(declaration("lightning.pytorch.Trainer").parameters)
    assert declaration("bdia.models.timm_vit").takes_any
    assert declaration("lightning.pytorch.Trainer").parameters["max_epochs"].types == {"int", "None"}
    assert declaration("bdia.reversible.TwoPoint").parameters["value"].types == frozenset()  # a Fraction, too


BASES = """
import abc, torch
import torch.optim as optimizers
from typing import Generic, TypeVar
from torch import optim
T = TypeVar("T")
class Dotted(torch.optim.AdamW): pass
class Renamed(optimizers.AdamW): pass
class OfPackage(optim.AdamW): pass
class Base(Generic[T]):
    def __init__(self, width: int): pass
class Subscripted(Base[int]): pass
class Plain(abc.ABC):
    def __init__(self, width: int): pass
class Called(type("Made", (), {})): pass
class Twice(Base[int], unknown.Base): pass
"""


def test_a_base_class_is_found_behind_dots_and_brackets(tmp_path, monkeypatch):
    (tmp_path / "users_bases.py").write_text(BASES)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("Dotted", "Renamed", "OfPackage"):
        found = declaration(f"users_bases.{name}")
        assert "lr" in found.parameters and not found.takes_any, name
    assert declaration("users_bases.Subscripted") == declaration("users_bases.Base")
    assert (
        set(declaration("users_bases.Plain").parameters) == {"width"} and not declaration("users_bases.Plain").takes_any
    )
    assert declaration("users_bases.Called") == UNKNOWN  # not judged
    assert declaration("users_bases.Twice").takes_any


@pytest.mark.parametrize("target", ["nowhere.Class", "bdia.data.Nothing", "Class", "math.floor", "__main__.Class"])
def test_a_class_whose_source_does_not_tell_is_not_judged(target):
    assert declaration(target) == UNKNOWN


@pytest.mark.parametrize("package", [bdia.data, bdia.tasks], ids=lambda package: package.__name__)
def test_every_kind_is_that_of_the_class(package):
    found = {name: getattr(getattr(package, name), "kind", None) for name in package.__all__}
    assert any(found.values())
    assert {name: declaration(f"{package.__name__}.{name}").kind for name in found} == found


def test_composing_and_checking_import_neither_torch_nor_what_the_config_names():
    code = (
        "import sys; from bdia.build import compose, kind_of_model; kind_of_model(compose(['+trainer.min_epochs=1']));"
        "print(*{'torch', 'lightning', 'timm', 'numpy', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
