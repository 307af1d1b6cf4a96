"""Synthetic records for the tests of the results layer and of the notebook."""

from typing import Any

from bdia.results import Metric, RunRecord

GAMMA = {"_target_": "bdia.reversible.TwoPoint", "value": "1/2", "per": "sample"}
BDIA = {"_target_": "bdia.reversible.BdiaStack", "_partial_": True, "gamma": GAMMA, "bits": 9}
STANDARD = {"_target_": "bdia.reversible.StandardStack", "_partial_": True}
REVVIT = {"_target_": "bdia.reversible.RevVitStack", "_partial_": True}
DATA = {"batch_size": 128, "val_fraction": 0, "train_per_class": 200, "augmentation": "crop_flip"}


def make_config(stack: dict[str, Any] = STANDARD, seed: int = 0, data: str = "cifar10") -> dict[str, Any]:
    """Return a resolved config at a scale far below the paper's."""
    net = {"_target_": "bdia.models.VisionTransformer", "width": 128, "patch_size": 8, "depth": 6, "heads": 4}
    net |= {"head_dim": 64, "mlp_hidden": 512, "dropout": 0.1}
    net |= {"tokenizer": {"_target_": "bdia.models.ShiftedPatchEmbed"}}
    net |= {"attention": {"_target_": "bdia.models.LocalitySelfAttention"}}
    return {
        "seed": seed,
        "experiment": "table1_cifar10_cpu",
        "data": {"_target_": "bdia.data.cifar.CifarDataModule", "name": data} | DATA,
        "model": {"_target_": "bdia.tasks.ImageClassification", "net": net | {"stack": stack}},
        "stack": stack,
        "optimizer": {"_target_": "bdia.optim.SetAdam", "_partial_": True, "lr": 1e-4},
        "scheduler": {"_target_": "bdia.optim.cosine", "_partial_": True},
        "trainer": {"max_epochs": 100, "precision": "32-true", "default_root_dir": f"outputs/{seed}"},
    }


def make_metrics(accuracy: float = 60.0, memory: float = 100.0, step_ms: float = 50.0) -> list[Metric]:
    """Return curves of four steps, final values and memory by category."""
    rows = []
    for step in (25, 50, 75, 100):
        share = step / 100
        rows.append(Metric("accuracy", accuracy * share, "%", "val", step))
        rows.append(Metric("loss", 2.3 - share, "nat", "train", step))
        rows.append(Metric("loss", 2.4 - share, "nat", "val", step))
    rows.append(Metric("accuracy", accuracy, "%", "test", 100))
    rows.append(Metric("peak_allocated", memory, "MiB", None, 100))
    shares = {"parameters": 0.1, "gradients": 0.1, "optimizer": 0.2, "activations": 0.5, "other": 0.1}
    rows += [Metric(f"peak_{part}", memory * share, "MiB", None, 100) for part, share in shares.items()]
    return [*rows, Metric("step_time", step_ms, "ms", None, 100)]


def make_record(stack: dict[str, Any] = STANDARD, seed: int = 0, at: int = 0, **changes: Any) -> RunRecord:
    """Return a record of the run started `at` seconds after midnight; `changes` replace its fields."""
    stamp = f"20261121T00{at // 60:02d}{at % 60:02d}000000Z"
    name = stack["_target_"].rpartition(".")[2]
    fields = {
        "run_id": f"{stamp}_abcdef0_{name}_s{seed}",
        "experiment": "table1_cifar10_cpu",
        "status": "ok",
        "seed": seed,
        "git": {"sha": "abcdef0123456789", "dirty": False},
        "config": make_config(stack, seed),
        "config_sha256": "0" * 64,
        "device": {"name": "CPU (test)", "count": 1, "torch": "2.14.0", "cuda": None},
        "precision": "fp32",
        "started_utc": f"2026-11-21T00:{at // 60:02d}:{at % 60:02d}+00:00",
        "wall_s": 12.5,
        "metrics": make_metrics(),
    }
    return RunRecord(**fields | changes)


def make_study(bdia: float = 61.0, standard: float = 60.0, revvit: float = 59.0) -> list[RunRecord]:
    """Return three seeds (accuracy -1, 0, +1 around the mean) of each stack in Table 1."""
    rows = [(STANDARD, standard, 100.0, 50.0), (REVVIT, revvit, 45.0, 70.0), (BDIA, bdia, 40.0, 65.0)]
    return [
        make_record(stack, seed, at=10 * place + seed, metrics=make_metrics(accuracy + seed - 1, memory, step_ms))
        for place, (stack, accuracy, memory, step_ms) in enumerate(rows)
        for seed in range(3)
    ]
