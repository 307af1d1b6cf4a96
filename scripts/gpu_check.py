"""Memory and time of a forward and backward on one GPU. Run: python scripts/gpu_check.py --out results/gpu/h100

Two models: a Llama-like Hugging Face decoder made reversible by `bdia.convert`, trained in full and with matrices added
as in LoRA, and the paper's ViT on its stacks. No optimizer step. Memory is what torch's allocator counts above weights
and batch. Variants take turns in every round. `--device cpu --tiny` only shows that the script runs: no records.
"""

import argparse
import copy
import gc
import json
import platform
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bdia
from bdia.models import VisionTransformer
from bdia.profiling.sizes import MIB
from bdia.reversible import BdiaStack, CheckpointStack, RevVitStack, StandardStack

DECODER = {"width": 1024, "heads": 16, "mlp": 4096, "tokens": 2048, "batch": 4, "vocabulary": 4096}
TINY_DECODER = {"width": 32, "heads": 2, "mlp": 64, "tokens": 16, "batch": 2, "vocabulary": 32}
VIT = {"width": 512, "heads": 8, "head_dim": 64, "mlp_hidden": 512}
TINY_VIT = {"width": 32, "heads": 2, "head_dim": 16, "mlp_hidden": 32}
RANK = 8
CONVERSIONS = {
    "BDIA, gamma 1/2": {"gamma": "1/2"},
    "BDIA, gamma 1/16": {"gamma": "1/16"},
    "BDIA, gamma 1/2, nested": {"gamma": "1/2", "nested": ["self_attn", "mlp"]},
}
STACKS = {
    "standard": StandardStack,
    "checkpointing": CheckpointStack,
    "BDIA, keep 0": partial(BdiaStack, keep=0),
    "BDIA, keep 1": partial(BdiaStack, keep=1),
    "RevViT, 9 bits": partial(RevVitStack, grid_bits=9),
}


class AddedMatrices(nn.Module):
    """A frozen linear layer plus a trained product of two thin matrices, as in LoRA."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Linear(linear.in_features, RANK, bias=False)
        self.up = nn.Linear(RANK, linear.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both."""
        return self.linear(x) + self.up(self.down(x))


def decoder(depth: int, sizes: dict[str, int], added: bool) -> nn.Module:
    """Build an ordinary Llama with random weights; `added`: only matrices added to the q and v projections train."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=sizes["vocabulary"], hidden_size=sizes["width"], intermediate_size=sizes["mlp"],
        num_hidden_layers=depth, num_attention_heads=sizes["heads"], num_key_value_heads=sizes["heads"],
        max_position_embeddings=sizes["tokens"], use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    if added:
        model.requires_grad_(False)
        for layer in model.model.layers:
            for name in ("q_proj", "v_proj"):
                setattr(layer.self_attn, name, AddedMatrices(getattr(layer.self_attn, name)))
    return model.train()


def checkpointed(model: nn.Module) -> None:
    """Switch on transformers' own activation checkpointing, the non-reentrant kind, under its name of the version."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def decoder_steps(depth: int, sizes: dict[str, int], added: bool, device: str) -> Iterator[tuple[str, Callable]]:
    """Yield variants of one decoder, all on the same bfloat16 weights: label, builder of (module, loss)."""
    with torch.device(device):
        model = decoder(depth, sizes, added).to(torch.bfloat16)
        ids = torch.randint(sizes["vocabulary"], (sizes["batch"], sizes["tokens"]))
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}

    def build(prepare: Callable[[nn.Module], object]) -> tuple[nn.Module, Callable[[], Tensor]]:
        variant = copy.deepcopy(model, dict(shared))
        prepare(variant)
        return variant, lambda: variant(input_ids=ids, labels=ids).loss

    yield "standard", partial(build, lambda variant: None)
    yield "transformers' checkpointing", partial(build, checkpointed)
    for label, settings in CONVERSIONS.items():
        yield label, partial(build, lambda variant, settings=settings: bdia.convert(variant, keep=0, **settings))


def vit_steps(
    depth: int, sizes: dict[str, int], batch: int, autocast: bool, device: str
) -> Iterator[tuple[str, Callable]]:
    """Yield the paper's ViT on each stack: label, builder of (module, loss)."""
    with torch.device(device):
        images, labels = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))

    def build(stack: Callable) -> tuple[nn.Module, Callable[[], Tensor]]:
        torch.manual_seed(0)
        model = VisionTransformer(stack, depth=depth, **sizes).to(device).train()

        def loss() -> Tensor:
            with torch.autocast(device, torch.bfloat16, enabled=autocast):
                return nn.functional.cross_entropy(model(images), labels)

        return model, loss

    for label, stack in STACKS.items():
        yield label, partial(build, stack)


def memory_of_step(model: nn.Module, loss: Callable[[], Tensor]) -> dict[str, float]:
    """Run one step; MiB above what was allocated before: the peak, and what is held between forward and backward."""
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    value = loss()
    held = torch.cuda.memory_allocated() - before
    value.backward()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    model.zero_grad(set_to_none=True)
    return {"peak_mib": peak / MIB, "held_mib": held / MIB}


def time_of_step(model: nn.Module, loss: Callable[[], Tensor], cuda: bool) -> float:
    """Run one step; milliseconds between CUDA events around it."""
    if cuda:
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        loss().backward()
        end.record()
        torch.cuda.synchronize()
        elapsed = start.elapsed_time(end)
    else:
        begin = time.perf_counter()
        loss().backward()
        elapsed = 1e3 * (time.perf_counter() - begin)
    model.zero_grad(set_to_none=True)
    return elapsed


def busy_time(model: nn.Module, loss: Callable[[], Tensor]) -> float:
    """Run one step under torch's profiler; milliseconds that the GPU's kernels and copies take together."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        loss().backward()
        torch.cuda.synchronize()
    model.zero_grad(set_to_none=True)
    return sum(event.self_device_time_total for event in profiler.key_averages()) / 1e3


def measure(steps: Iterator[tuple[str, Callable]], rounds: int, cuda: bool) -> dict[str, dict[str, Any]]:
    """Measure all variants: memory and the GPU's busy time after two warm-up steps, then the times, interleaved."""
    rows, ready = {}, {}
    for label, build in steps:
        try:
            model, loss = build()
            for _ in range(2):
                time_of_step(model, loss, cuda)
            rows[label] = memory_of_step(model, loss) | {"busy_ms": busy_time(model, loss)} if cuda else {}
            ready[label] = model, loss
        except torch.OutOfMemoryError:
            rows[label] = {"out_of_memory": True}
            model = loss = None
            gc.collect()
            torch.cuda.empty_cache()
    times: dict[str, list[float]] = {label: [] for label in ready}
    order = list(ready)
    for number in range(rounds):
        for label in order[number % len(order) :] + order[: number % len(order)]:
            times[label].append(time_of_step(*ready[label], cuda))
    first = next(iter(rows))
    for label, found in times.items():
        rows[label] |= {"ms": statistics.median(found), "rounds_ms": found}
        if first in times:
            rows[label]["time_ratio"] = statistics.median(a / b for a, b in zip(found, times[first], strict=True))
            if cuda:
                rows[label]["peak_ratio"] = rows[label]["peak_mib"] / rows[first]["peak_mib"]
    return rows


def attention_kernels(repeats: int = 10) -> list[dict[str, Any]]:
    """Whether each of torch's attention kernels repeats its output and its gradients in every bit."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    rows = []
    for backend in (
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ):
        for dtype in (torch.bfloat16, torch.float32):
            torch.manual_seed(0)
            q, k, v = (torch.randn(4, 16, 2048, 64, device="cuda", dtype=dtype, requires_grad=True) for _ in range(3))
            grad = torch.randn(4, 16, 2048, 64, device="cuda", dtype=dtype)
            row = {"kernel": backend.name, "dtype": str(dtype).removeprefix("torch.")}
            try:
                with sdpa_kernel(backend):
                    runs = []
                    for _ in range(repeats):
                        out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
                        runs.append([out.detach(), *torch.autograd.grad(out, (q, k, v), grad)])
                same = [all(torch.equal(run[i], runs[0][i]) for run in runs[1:]) for i in range(4)]
                row |= {"output_repeats": same[0], "gradients_repeat": all(same[1:]), "runs": repeats}
            except RuntimeError as error:
                row["refused"] = str(error).strip().splitlines()[0][:120]
            rows.append(row)
    return rows


def synchronisations() -> list[dict[str, Any]]:
    """How often a small decoder, ordinary and converted, waits for the GPU in forward and in backward."""

    def count(run: Callable[[], object]) -> tuple[int, Any]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                result = run()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("called a synchronizing" in str(entry.message) for entry in caught), result

    once, _ = count(torch.ones(2, device="cuda").tolist)  # one read may warn several times
    rows = []
    for depth in (4, 8):
        for label, settings in {"standard": None, "BDIA, gamma 1/2": {"gamma": "1/2"}}.items():
            model = decoder(depth, TINY_DECODER, added=False).cuda()
            if settings is not None:
                bdia.convert(model, **settings)
            ids = torch.randint(TINY_DECODER["vocabulary"], (2, TINY_DECODER["tokens"]), device="cuda")
            model(input_ids=ids).logits.square().sum().backward()
            in_forward, out = count(lambda model=model, ids=ids: model(input_ids=ids).logits)
            in_backward, _ = count(out.square().sum().backward)
            row = {"depth": depth, "label": label, "forward": in_forward, "backward": in_backward}
            rows.append(row | {"warnings_of_one_read": once})
    return rows


def described(device: str, sha: str | None) -> dict[str, Any]:
    """Say what the check runs on."""
    if sha is None:
        sha = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    import transformers

    found = {
        "sha": sha, "started_utc": datetime.now(UTC).isoformat(timespec="seconds"), "torch": torch.__version__,
        "transformers": transformers.__version__, "python": platform.python_version(), "cuda": torch.version.cuda,
    }  # fmt: skip
    if device == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
        properties = torch.cuda.get_device_properties(0)
        found |= {"device": properties.name, "device_mib": properties.total_memory // MIB, "driver": driver or None}
    return found


def cases(device: str, tiny: bool) -> Iterator[tuple[dict[str, Any], Callable[[], Iterator[tuple[str, Callable]]]]]:
    """Yield the cases: what each is, and its variants."""
    sizes, vit, batch = (TINY_DECODER, TINY_VIT, 4) if tiny else (DECODER, VIT, 128)
    for depth in (2, 3) if tiny else (6, 24):
        for autocast in (False, True):
            what = {"model": "vit", "depth": depth, "precision": "bf16 autocast" if autocast else "float32"}
            yield what | vit | {"batch": batch}, partial(vit_steps, depth, vit, batch, autocast, device)
    for depth in (2, 3) if tiny else (12, 24, 48):
        for added in (True, False):
            what = {"model": "llama", "depth": depth, "trained": "added matrices" if added else "full"}
            yield what | sizes, partial(decoder_steps, depth, sizes, added, device)


def title(case: dict[str, Any]) -> str:
    """Name a case in words."""
    return f"{case['model']}, depth {case['depth']}, {case.get('trained') or case['precision']}"


def markdown(record: dict[str, Any]) -> str:
    """Return the tables of a record."""
    about = record["about"]
    lines = [
        f"# One step on {about['device']}", "",
        f"Generated by `scripts/gpu_check.py` at {about['sha'][:7]}: torch {about['torch']}, CUDA {about['cuda']},",
        f"driver {about['driver']}, transformers {about['transformers']}. Memory in MiB above weights and batch:",
        "the peak of a forward and backward, and what is held between them. Ratios are to the first row; those of",
        "times are medians over rounds. Busy is the time that the GPU's kernels take in one step, under a profiler:",
        "where it is far below the time of a step, the GPU waits for Python.",
        "",
    ]  # fmt: skip
    for case in record["cases"]:
        lines += [
            f"## {title(case['case'])}",
            "",
            "| | peak MiB | ratio | held MiB | ms | ratio | busy ms |",
            "|---|---|---|---|---|---|---|",
        ]
        for label, row in case["rows"].items():
            if row.get("out_of_memory"):
                lines.append(f"| {label} | out of memory | | | | | |")
                continue
            ratios = [f"{row[name]:.3f}" if name in row else "" for name in ("peak_ratio", "time_ratio")]
            numbers = [f"{row[name]:.1f}" for name in ("peak_mib", "held_mib", "ms", "busy_ms")]
            lines.append(
                f"| {label} | {numbers[0]} | {ratios[0]} | {numbers[1]} | {numbers[2]} | {ratios[1]} | {numbers[3]} |"
            )
        lines.append("")
    lines += ["## Attention kernels: do the same inputs give the same bits?", ""]
    lines += ["| kernel | dtype | output | gradients |", "|---|---|---|---|"]
    for row in record["attention"]:
        words = ["repeats" if row.get(name) else "differs" for name in ("output_repeats", "gradients_repeat")]
        words = ["refused", ""] if "refused" in row else words
        lines.append(f"| {row['kernel']} | {row['dtype']} | {words[0]} | {words[1]} |")
    lines += ["", "## Warnings of torch's synchronisation debug mode, small decoder", ""]
    lines += ["| | depth | forward | backward | a read of one number |", "|---|---|---|---|---|"]
    for row in record["synchronisations"]:
        lines.append("| {label} | {depth} | {forward} | {backward} | {warnings_of_one_read} |".format(**row))
    if record["not_run"]:
        lines += ["", "Not run, for lack of time: " + "; ".join(record["not_run"]) + "."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write the record after each case, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for the JSON and the Markdown")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=600, help="start no case after that time")
    parser.add_argument("--sha", help="the commit, where git cannot tell")
    given = parser.parse_args()
    begin, cuda = time.monotonic(), given.device == "cuda"
    record = {
        "about": described(given.device, given.sha),
        "cases": [],
        "attention": [],
        "synchronisations": [],
        "not_run": [],
    }
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}_{record['about']['sha'][:7]}"
    if cuda:
        record |= {"attention": attention_kernels(), "synchronisations": synchronisations()}
    for case, steps in cases(given.device, given.tiny):
        if time.monotonic() - begin > given.seconds:
            record["not_run"].append(title(case))
            continue
        started = time.monotonic()
        rows = measure(steps(), given.rounds, cuda)
        record["cases"].append({"case": case, "rows": rows})
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
        print(f"{title(case)}: {time.monotonic() - started:.1f} s", flush=True)
        if cuda and given.out:
            given.out.mkdir(parents=True, exist_ok=True)
            (given.out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
            (given.out / f"{name}.md").write_text(markdown(record))
    if cuda:
        print(markdown(record))


if __name__ == "__main__":
    main()
