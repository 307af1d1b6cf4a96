"""A key that nothing reads is refused when the config is composed, with the nearest that something does."""

import subprocess
import sys

import pytest

from bdia import InvalidValueError
from bdia.build import compose
from bdia.build.keys import KEYS, check_node
from bdia.build.signature import Signature, signature
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
    "+optimizer.params=3": "optimizer.params=3: bdia.optim.SetAdam reads no params; wanted betas, eps, ",
    "+model.net.tokenizer.drop=2": "model.net.tokenizer.drop=2: bdia.models.ShiftedPatchEmbed reads no drop; ",
    "experiment=finetune_vit_cifar10 +weights.pretrain.optimizer.lrr=1": "weights.pretrain.optimizer.lrr=1: "
    "torch.optim.AdamW reads no lrr; did you mean weights.pretrain.optimizer.lr?",
    "+weights.pretrain.optimizer.lr=1": "weights.from is missing",
    "trainer.min_epochs=1": "trainer.min_epochs=1: no file of configs/ has this key, but something reads it; write "
    "+trainer.min_epochs=1",
    "hydra.launcher.part=gpu": "hydra.launcher.part=gpu: no file of configs/ has this key; write "
    "+hydra.launcher.part=gpu if hydra.launcher reads it",
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


def test_the_keys_of_a_run_are_those_of_the_config_the_weights_to_start_from_and_a_studys_scale():
    assert {*compose([]), "weights", "scale"} == set(KEYS)


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


# --- A class without a schema: a library's, or the user's own ---

USERS = """
from __future__ import annotations
import abc, torch
from pathlib import Path
from typing import Generic, Literal, Optional, TypeVar
T = TypeVar("T")
class Base(Generic[T]):
    def __init__(self, width: int, *, rate: float | torch.Tensor = 1.0, name: Optional[str] = None): pass
class Subscripted(Base[int]): pass
class HandsOn(Base[int]):
    def __init__(self, depth: int, **kwargs): super().__init__(**kwargs)
class Any:
    def __init__(self, *_, **__): pass
class Empty: pass
class Keeps(abc.ABC):
    def __init__(self, width: int, **kwargs): pass
class Kinds:
    def __init__(self, pair: tuple[float, float], path: Path, way: Literal["up", "down"], layer: torch.nn.Module,
                 anything=None, flag: bool = True): pass
def function(width: int, extra=3): pass
constant = 3
"""


@pytest.fixture
def users(tmp_path, monkeypatch):
    name = f"users_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(USERS)
    monkeypatch.syspath_prepend(tmp_path)
    return name


ARGUMENTS = {"Base": {"width", "rate", "name"}, "Subscripted": {"width", "rate", "name"},
             "HandsOn": {"depth", "width", "rate", "name"}, "function": {"width", "extra"}}  # fmt: skip


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_arguments_of_base_classes_and_functions_are_found(users, name):
    found = signature(f"{users}.{name}")
    assert set(found.annotations) == ARGUMENTS[name] and not found.takes_any


def test_a_class_that_keeps_what_it_is_given_takes_any_key(users):
    assert signature(f"{users}.Keeps").takes_any and signature(f"{users}.Any").takes_any
    assert signature(f"{users}.Empty") == Signature({})


def of_user(users, kind, **settings):
    check_node({"_target_": f"{users}.{kind}", **settings}, "callbacks.mine")


VALUES = [
    ("Base", {"width": 1.5}, "callbacks.mine.width=1.5: wanted a whole number; set callbacks.mine.width"),
    ("Base", {"width": True}, "callbacks.mine.width=true: wanted a whole number; "),
    ("Base", {"width": "5"}, "callbacks.mine.width=5: wanted a whole number; "),
    ("HandsOn", {"width": None}, "callbacks.mine.width=null: wanted a whole number; "),
    ("Base", {"rate": "fast"}, "callbacks.mine.rate=fast: wanted a number; "),
    ("Base", {"name": 3}, "callbacks.mine.name=3: wanted a text or null; "),
    ("Base", {"names": "x"}, "callbacks.mine.names=x: "),
    ("Kinds", {"pair": [1, 2, 3]}, "callbacks.mine.pair=[1, 2, 3]: wanted tuple[float, float]; "),
    ("Kinds", {"way": "left"}, "callbacks.mine.way=left: wanted typing.Literal['up', 'down']; "),
    ("Kinds", {"path": 3}, "callbacks.mine.path=3: wanted Path; "),
    ("Kinds", {"flag": 1}, "callbacks.mine.flag=1: wanted true or false; "),
    ("constant", {}, "callbacks.mine._target_="),
    ("Nothing", {}, "callbacks.mine._target_="),
]


@pytest.mark.parametrize(("kind", "settings", "said"), VALUES)
def test_a_value_that_a_users_class_does_not_take_is_refused(users, kind, settings, said):
    with pytest.raises(InvalidValueError) as refused:
        of_user(users, kind, **settings)
    assert str(refused.value).startswith(said) and "\n" not in str(refused.value)


def test_what_a_users_class_takes_is_taken(users):
    of_user(users, "Base", width=3, rate=2, name=None)
    of_user(users, "Kinds", pair=[0.9, 1], path="a/b", way="up", layer="???", anything=[1], flag=False)
    of_user(users, "Kinds", layer={"_target_": "torch.nn.Identity"}, pair="${optimizer.betas}")


@pytest.mark.parametrize("target", ["nowhere.Class", "bdia.data.Nothing", "Class", "math.pi", ""])
def test_a_class_that_is_not_there_is_refused(target):
    with pytest.raises(InvalidValueError, match=r"^callbacks.mine._target_=.*; set callbacks.mine._target_$"):
        check_node({"_target_": target}, "callbacks.mine")


def test_a_function_written_in_c_is_not_judged():
    check_node({"_target_": "builtins.dict", "a": 1}, "callbacks.mine")


def test_composing_imports_neither_torch_nor_what_the_config_names():
    code = (
        "import sys; from bdia.build import compose; compose(['+trainer.min_epochs=1']);"
        "print(*{'torch', 'lightning', 'timm', 'numpy', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
