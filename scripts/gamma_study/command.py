"""Run the study and write its document and its table."""

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from bdia.data.files import write_whole
from bdia.results.identity import git_state
from gamma_study.bits import grid_rows, with_small_stream
from gamma_study.laws import Variant, variants
from gamma_study.models import CONTEXT, all_windows, pretrained
from gamma_study.settings import LLAMA, MODELS, Cell, Settings, full_settings, quick_settings
from gamma_study.table import markdown
from gamma_study.texts import Texts
from gamma_study.training import Budget, best_learning_rate, evaluation_loss, finetune

ROOT = Path(__file__).resolve().parents[2]


class Study:
    """One run of the study: its settings, its pretrained models and the document that grows."""

    def __init__(self, settings: Settings, data_dir: Path, cache_dir: Path) -> None:
        self.settings, self.data_dir, self.started = settings, data_dir, time.perf_counter()
        self.variants = variants(settings.bits, settings.coarse_bits)
        self.models, self.old_windows = {}, {}
        self.document: dict[str, Any] = {
            "schema": 1, "study": "finetune_gamma", "status": "running", "git": git_state(ROOT),
            "versions": {
                "Python": platform.python_version(), "torch": torch.__version__,
                "transformers": transformers.__version__, "peft": peft.__version__,
            },
            "started_utc": datetime.now(UTC).isoformat(), "wall_s": 0.0, "settings": _plain(settings),
            "models": {}, "rates": [], "runs": [], "grids": [], "checks": [],
        }  # fmt: skip
        for name in dict.fromkeys(cell.model for cell in settings.cells):
            self._pretrain(name, cache_dir)

    def run(self, path: Path) -> None:
        """Run everything; the document is written after every part and after every seed of a cell."""
        cells = [self._with_rate(cell) for cell in self.settings.cells]
        self.document["settings"]["cells"] = [described for _, described in cells]
        for seed in self.settings.seeds:
            for cell, described in cells:
                for variant in self.variants:
                    if cell.laws is None or variant.name in cell.laws:
                        self._finetune(cell, variant, seed, described["lr"])
                self._write(path)
        self._check()
        self._measure_grids()
        self.document["status"] = "ok"
        self._write(path)

    def _pretrain(self, name: str, cache_dir: Path) -> None:
        s, model = self.settings, MODELS[name]
        text = model.texts(self.data_dir, s.cells[0].train_size, s.val_size).pretrain
        net, _ = pretrained(model.make, text, s.pretrain_steps, s.pretrain_batch, s.pretrain_rate, cache_dir)
        self.models[name], self.old_windows[name] = net, all_windows(text.tokens())[-s.old_windows :]
        self.document["models"][name] = {
            "layers": net.config.num_hidden_layers, "width": net.config.hidden_size,
            "parameters": sum(p.numel() for p in net.parameters()), "pretrain_text": text.source,
            "pretrain_sha256": text.sha256, "pretrain_loss": evaluation_loss(net, self.old_windows[name]),
        }  # fmt: skip

    def _with_rate(self, cell: Cell) -> tuple[Cell, dict[str, Any]]:
        """Choose the learning rate of a cell for the standard model."""
        rows = []
        for lr in cell.rates:
            row, _ = self._train(cell, self.variants[0], self.settings.tuning_seed, lr, cell.budget)
            rows.append({"cell": cell.name, "lr": lr, "val": row["val"]})
            _say(f"{cell.name}: learning rate {lr:g}: {row['val'][-1][1]:.4f}")
        chosen = best_learning_rate(rows)
        self.document["rates"] += [{**row, "chosen": row["lr"] == chosen} for row in rows]
        texts, budget = self._texts(cell), cell.budget
        described = {
            "name": cell.name, "model": cell.model, "method": cell.method, "in_rule": cell.in_rule, "lr": chosen,
            **budget._asdict(), "train_text": texts.train.source, "val_text": texts.val.source,
            "train_sha256": texts.train.sha256, "val_sha256": texts.val.sha256,
            "epochs": budget.steps * budget.batch * CONTEXT / len(texts.train.tokens()),
        }  # fmt: skip
        return cell, described

    def _finetune(self, cell: Cell, variant: Variant, seed: int, lr: float) -> None:
        row, _ = self._train(cell, variant, seed, lr, cell.budget)
        self.document["runs"].append(
            {"cell": cell.name, "law": variant.name, "seed": seed, "bits": variant.bits, **row}
        )
        _say(f"{cell.name}, {variant.name}, seed {seed}: {row['val'][-1][1]:.4f} ({row['seconds']:.1f} s)")

    def _check(self) -> None:
        """Train a few steps with backward="reversible" and "stored"; note whether all weights are equal."""
        for cell in self.settings.cells:
            for variant in self.variants:
                if cell.in_rule and variant.name in self.settings.check_laws:
                    self.document["checks"].append(self._compare(cell, variant))

    def _compare(self, cell: Cell, variant: Variant) -> dict[str, Any]:
        steps = self.settings.check_steps
        budget = cell.budget._replace(steps=steps, eval_every=steps)
        weights = []
        for backward in ("stored", "reversible"):
            _, model = self._train(cell, variant, 0, cell.rates[0], budget, backward)
            weights.append(model.state_dict())
        equal = all(torch.equal(a, b) for a, b in zip(*(state.values() for state in weights), strict=True))
        return {"cell": cell.name, "law": variant.name, "steps": steps, "equal": equal}

    def _measure_grids(self) -> None:
        models = dict(self.models)
        if LLAMA in models:
            small = self.settings.small_rms
            models[f"{LLAMA}, stream scaled to {small:g}"] = with_small_stream(models[LLAMA], small)
        for name, model in models.items():
            windows = self.old_windows[name.split(", ")[0]]
            self.document["grids"] += grid_rows(name, model, windows, self.settings.grids)

    def _train(
        self, cell: Cell, variant: Variant, seed: int, lr: float, budget: Budget, backward: str = "stored"
    ) -> tuple[dict[str, Any], torch.nn.Module]:
        model, old_windows = self.models[cell.model], self.old_windows[cell.model]
        return finetune(model, self._texts(cell), cell.method, variant, seed, lr, budget, old_windows, backward)

    def _texts(self, cell: Cell) -> Texts:
        return MODELS[cell.model].texts(self.data_dir, cell.train_size, self.settings.val_size)

    def _write(self, path: Path) -> None:
        self.document["wall_s"] = time.perf_counter() - self.started
        write_whole(path, json.dumps(self.document, indent=1, ensure_ascii=False) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, run the study or only make the table."""
    parser = argparse.ArgumentParser(description="Fine-tune pretrained models with several laws of gamma.")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("BDIA_DATA", "data")), help="folder of data")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it runs, not what it finds")
    parser.add_argument("--table", type=Path, help="a document: make its table again, run nothing")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of documents and tables")
    parser.add_argument("--cache", type=Path, default=ROOT / "runs" / "pretrained", help="folder of pretrained models")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    path = options.table
    if path is None:
        study = Study(quick_settings() if options.quick else full_settings(), options.data, options.cache)
        sha = study.document["git"]["sha"][:7]
        path = options.results / "finetune_gamma" / f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}_{sha}.json"
        study.run(path)
    table = options.results / "tables" / "finetune_gamma.md"
    write_whole(table, markdown(json.loads(path.read_text(encoding="utf-8"))))
    _say(f"{path}\n{table}")


def _plain(settings: Settings) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(settings)))


def _say(text: str) -> None:
    print(text, flush=True)
