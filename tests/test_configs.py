"""Every file under configs/ composes and builds; what a stack does not read is refused."""

import itertools
import math
import re
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf

import bdia.train.job
from bdia import InvalidValueError
from bdia.build import (
    CONFIGS,
    build_callbacks,
    build_data,
    build_loggers,
    build_task,
    build_trainer,
    check_run,
    compose,
    load_run,
)
from bdia.data.text.tokenizer import Bytes
from bdia.reversible import RevVitStack
from bdia.train.job import train
from bdia.train.launch import jobs_of
from bdia.train.studies import overrides_of, scales_of, studies
from helpers.training_helpers import compose_config, run_dir

# What the data would say, if it were read.
NET_ARGUMENTS = {
    "bdia.tasks.ImageClassification": {"num_classes": 10},
    "bdia.tasks.Translation": {"vocab_size": 300},
    "bdia.tasks.LanguageModeling": {"vocab_size": 300},
    "bdia.tasks.DataToText": {"vocab_size": 300},
}
# A data set and a model of each kind, to stand beside the file under test.
PARTNERS = {
    "images": ["data=digits", "model=vit_demo"],
    "sentence pairs": ["data=numbers", "model=seq2seq_demo"],
    "documents": ["data=pydoc", "model=gpt2_demo"],
    "prompts": ["data=restaurants", "model=gpt2_prompts_demo"],
}
TOKENIZER = Bytes().build([], ["<pad>", "<s>", "</s>"], Path())
TASK_ARGUMENTS = {task: {} if "Image" in task else {"tokenizer": TOKENIZER} for task in NET_ARGUMENTS}
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))
# gamma laws sit inside the stack that reads them; laws without an inverse need stored activations
PACKAGE = {"gamma": "gamma@stack.gamma", "tokenizer": "tokenizer@data.tokenizer", "regulariser": "+regulariser"}
NEEDS = {"gamma=zero": ["stack.backward=stored"], "gamma=uniform": ["stack.backward=stored"]}
NEEDS |= {f"gamma={law}": ["stack.backward=stored"] for law in ("three_point", "one_sided")}
NEEDS |= {f"regulariser=weight_decay_{trial}": ["optimizer=adamw"] for trial in ("weak", "middle", "strong")}
NEEDS["tokenizer=saved"] = ["data.tokenizer.path=tokenizer.json"]
GROUP_FILES = sorted(
    f"{path.parent.name}={path.stem}"
    for path in CONFIGS.glob("*/*.yaml")
    if path.parent.name not in ("experiment", "hydra")
)
SCALES = [(study, scale) for study in studies() for scale in scales_of(study)[1]]


def beside(group, name):
    """The choices that a data set, a model or a tokenizer of some kind needs beside it; later ones win."""
    if group == "tokenizer":
        return PARTNERS["documents"]
    if group not in ("data", "model"):
        return []
    kind = get_class(OmegaConf.load(CONFIGS / group / f"{name}.yaml")._target_).kind
    return [choice for choice in PARTNERS[kind] if not choice.startswith(f"{group}=")]


def build_all(cfg, folder):
    """Build everything a job builds, the weights on the meta device; one step of the schedule."""
    build_data(cfg)
    with torch.device("meta"):
        task = build_task(cfg, NET_ARGUMENTS[cfg.model._target_], TASK_ARGUMENTS[cfg.model._target_])
        optimizer = task.optimizer(task.parameters())
        task.scheduler(optimizer, total_steps=1000)
    build_trainer(cfg, build_callbacks(cfg, folder), [], folder)
    return task


@pytest.mark.parametrize("choice", GROUP_FILES)
@pytest.mark.filterwarnings("ignore::bdia.reversible.GammaMeanWarning")  # gamma=one_sided
def test_every_file_of_every_group_composes_and_builds(choice, tmp_path, monkeypatch):
    group, _, name = choice.partition("=")
    cfg = compose_config(*beside(group, name), f"{PACKAGE.get(group, group)}={name}", *NEEDS.get(choice, []))
    build_all(cfg, tmp_path)
    monkeypatch.setattr("bdia.train.wandb_mode.api_key", lambda: "")
    assert len(build_loggers(cfg, tmp_path, "name", {})) == len(cfg.logger)


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if name not in studies()])
def test_every_job_of_every_experiment_composes_and_builds(experiment, tmp_path):
    check_jobs([f"experiment={experiment}"], experiment, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("study", studies())
@pytest.mark.filterwarnings("ignore::bdia.reversible.GammaMeanWarning")
def test_every_job_of_every_study_composes_and_builds(study, tmp_path):
    check_jobs(overrides_of(study, "paper"), f"{study}_paper", tmp_path)


@pytest.mark.parametrize(("study", "scale"), SCALES)
def test_every_scale_of_every_study_composes_and_builds(study, scale, tmp_path):
    (first, *_) = jobs_of([*overrides_of(study, scale), "seed=0"])
    cfg = compose_config(*first)
    assert cfg.name == f"{study}_{scale}"
    build_all(cfg, tmp_path)


def test_every_experiment_with_scales_is_among_the_studies():
    with_scales = [name for name in EXPERIMENTS if "/scale/" in (CONFIGS / "experiment" / f"{name}.yaml").read_text()]
    assert sorted(studies()) == with_scales


def check_jobs(choices, name, tmp_path):
    """Compose and build the jobs of a sweep; they differ."""
    jobs = jobs_of([*choices, "seed=0"])
    assert len(jobs) > 1
    hashes = set()
    for job in jobs:
        cfg = compose_config(*job)
        assert cfg.name == name
        build_all(cfg, tmp_path)
        hashes.add(bdia.train.job.config_sha256(bdia.train.job.recorded_config(cfg)))
    assert len(hashes) == len(jobs)


@pytest.mark.parametrize("model", MODELS)
def test_a_models_comment_states_its_parameters(model):
    text = (CONFIGS / "model" / f"{model}.yaml").read_text()
    stated, count, kind = re.search(r"([\d,]+) parameters with ([\d,]+) (classes|tokens)", text).groups()
    name = "num_classes" if kind == "classes" else "vocab_size"
    cfg = compose_config(*beside("model", model), f"model={model}", "stack=standard")
    with torch.device("meta"):
        task = build_task(cfg, {name: int(count.replace(",", ""))}, TASK_ARGUMENTS[cfg.model._target_])
    assert sum(p.numel() for p in task.net.parameters()) == int(stated.replace(",", ""))


@pytest.mark.parametrize(("data", "model"), list(itertools.permutations(PARTNERS, 2)))
def test_data_and_model_of_two_kinds_are_one_clear_error(data, model):
    data, model = PARTNERS[data][0], PARTNERS[model][1]
    with pytest.raises(ValueError, match=r"data are .*, the model learns from .*: choose both of one kind"):
        build_task(compose_config(data, model), {})


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_opens_with_a_comment(path):
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiments_header_says_how_long_it_takes_and_a_command_that_runs_it(experiment):
    first, *rest = (CONFIGS / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    header = " ".join(line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), rest))
    assert first == "# @package _global_"
    assert re.search(r"\b(minutes?|hours?|days?)\b", header.lower())
    command = header.partition("Run: ")[2]
    assert command
    wanted = f"make study NAME={experiment}" if experiment in studies() else f"experiment={experiment}"
    assert ("make demo" if experiment == "demo" else wanted) in command
    makefile = CONFIGS.parent / "Makefile"
    for target in re.findall(r"make ([\w-]+)", command):
        assert f"\n{target}:" in makefile.read_text()


def test_the_paper_experiments_train_as_the_paper_says():
    for name in ("table1_cifar10", "table1_cifar100", "table2_cifar10", "bits_cifar10"):
        cfg = compose_config(f"experiment={name}")
        net, optimizer = cfg.model.net, cfg.optimizer
        assert (net.width, net.depth, net.heads, net.head_dim, net.mlp_hidden) == (512, 6, 8, 64, 512)
        assert (net.patch_size, net.dropout) == (4, 0.1)
        assert (optimizer._target_, optimizer.lr, list(optimizer.betas)) == ("bdia.optim.SetAdam", 1e-4, [0.9, 0.999])
        assert (cfg.data.batch_size, cfg.data.val_fraction, cfg.data.train_per_class) == (128, 0, None)
        assert (cfg.scheduler._target_, cfg.trainer.max_epochs) == ("bdia.optim.cosine", 300)


@pytest.mark.slow
def test_every_regulariser_has_three_trials_alone_and_with_bdia():
    """A condition: its stack, gamma, dropout, stochastic depth, weight decay, label smoothing."""
    found = set()
    for choices in jobs_of([*overrides_of("regularisers_cifar10", "few"), "seed=0"]):
        cfg = compose_config(*choices)
        law, net = cfg.stack.get("gamma"), cfg.model.net
        assert cfg.optimizer._target_ == "torch.optim.AdamW" and cfg.data.val_fraction > 0
        settings = (net.dropout, net.drop_path, cfg.optimizer.weight_decay, cfg.model.label_smoothing)
        found.add((cfg.stack._target_.rpartition(".")[2], law and law.value, *settings))
    trials = ((0.1, 0.3, 0.5), (0.1, 0.3, 0.5), (0.05, 0.3, 1.0), (0.05, 0.1, 0.2))
    beside = {tuple(value if at == place else 0.0 for at in range(4)) for place in range(4) for value in trials[place]}
    nothing = (0.0,) * 4
    wanted = {("StandardStack", None, *one) for one in beside | {nothing}}
    wanted |= {("BdiaStack", "1/2", *one) for one in beside} | {("BdiaStack", g, *nothing) for g in ("1/4", "1/2", "1")}
    assert found == wanted


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stack=standard", "stack.bits=7"], r"stack\.bits=7: bdia\.reversible\.StandardStack reads no bits"),
        (["stack=checkpoint", "gamma@stack.gamma=quarter"], r"stack reads no gamma in this choice"),
        (
            ["stack=checkpoint", "stack.gamma=1/4"],
            r"stack\.gamma=1/4: bdia\.reversible\.CheckpointStack reads no gamma",
        ),
        (["stack=standard", "stack.keep=2"], r"stack\.keep=2: bdia\.reversible\.StandardStack reads no keep"),
        (["stack=revvit", "gamma@stack.gamma=quarter"], r"stack reads no gamma in this choice"),
        (
            ["optimizer=adamw", "optimizer.eps_inside=1"],
            r"optimizer\.eps_inside=1: torch\S+AdamW reads no eps_inside",
        ),
        (["stack=nonesuch"], r"stack=nonesuch: no such file in configs/stack"),
    ],
)
def test_a_knob_that_the_choice_does_not_read_is_refused_when_composing(overrides, message):
    with pytest.raises(InvalidValueError, match=message):
        compose_config(*overrides)


@pytest.mark.parametrize("gamma", ["zero", "uniform"])
def test_a_law_without_inverse_is_refused_with_the_key_to_change(gamma):
    cfg = compose_config(f"gamma@stack.gamma={gamma}")
    for refuse in (check_run, lambda cfg: build_task(cfg, {"num_classes": 10})):
        with pytest.raises(InvalidValueError, match=r"has no inverse: set stack\.backward=stored"):
            refuse(cfg)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("stack.bits=99", "stack.bits"),
        ("stack.backward=maybe", "stack.backward"),
        ("stack.keep=-1", "stack.keep"),
        ("model.net.patch_size=5", "model.net.patch_size"),
    ],
)
def test_a_value_out_of_range_names_its_config_key(override, key):
    with pytest.raises(InvalidValueError, match=re.escape(key)):
        check_run(compose_config(override))  # neither data nor model are there


def test_timms_model_trains_on_revvit_with_the_mean_of_the_streams(places, one_thread):
    small = ["+model.net.depth=2", "+model.net.embed_dim=24", "+model.net.num_heads=2", "logger=csv"]
    short = [
        "trainer.max_epochs=1",
        "data.train_per_class=2",
        "data.batch_size=10",
        "trainer.enable_progress_bar=false",
    ]
    overrides = ["model=timm_vit", "stack=revvit", "stack.merge=mean", "trainer.accelerator=cpu"]
    record = train(compose_config(*overrides, *small, *short, *places, "optimizer.lr=0.001"))
    blocks = load_run(run_dir(compose_config(*places)) / "final.ckpt").net.blocks
    assert (type(blocks), blocks.merge, len(blocks)) == (RevVitStack, "mean", 2)
    for block in blocks.blocks:  # timm starts biases at 0: gradients have reached both branches of every block
        assert block.attn.proj.bias.all() and block.mlp.fc2.bias.all()
    assert record.final("loss", "test") == pytest.approx(math.log(10), abs=0.5)  # two steps from chance


def test_timms_model_with_revvits_two_streams_is_refused_with_the_key_to_change():
    with pytest.raises(InvalidValueError, match=r"set stack\.merge=mean"):
        build_task(compose_config("model=timm_vit", "stack=revvit"), {"num_classes": 10})


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm"])
def test_the_optional_launchers_can_be_selected(launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher", reason="extra `launchers`")
    cfg = compose([f"hydra/launcher={launcher}"], return_hydra_config=True)
    assert launcher.partition("_")[0] in cfg.hydra.launcher._target_.lower()


def test_sweep_folders_name_the_job_and_its_overrides_and_runs_carry_microseconds():
    cfg = compose([], return_hydra_config=True)
    raw = OmegaConf.to_container(cfg.hydra, resolve=False)
    assert raw["sweep"]["subdir"] == '${bdia.short:"${hydra.job.num}_${hydra.job.override_dirname}"}'
    assert "%f" in raw["run"]["dir"] and "%f" in raw["sweep"]["dir"]
    assert not raw["job"]["chdir"]


def test_the_data_folder_is_taken_from_the_environment(monkeypatch):
    monkeypatch.setenv("BDIA_DATA", "elsewhere")
    assert Path(compose_config("data=cifar10").data.data_dir) == Path("elsewhere")
