"""Made-up runs of the study, with final losses that a test chooses."""


def run(cell, law, seed, final, side_bits=((1, 1.0),), best=None):
    curve = [(0, 3.0), (10, final if best is None else best), (20, final)]
    return {
        "cell": cell, "law": law, "seed": seed, "bits": 13, "val": curve,
        "side_bits": [list(pair) for pair in side_bits],
        "loss_after_conversion": 2.0, "pretrain_loss_after_conversion": 1.5, "seconds": 1.0,
    }  # fmt: skip


def runs(cells, laws, seeds=(0, 1, 2)):
    """Runs of a standard model with loss 1 + seed / 10; laws {name: (side bits of each pass, {cell: cost})}."""
    made = []
    for cell in cells:
        for seed in seeds:
            made.append(run(cell, "standard", seed, 1 + seed / 10, [(1, None)]))
            for name, (bits, cost) in laws.items():
                made.append(run(cell, name, seed, 1 + seed / 10 + cost[cell], list(enumerate(bits, start=1))))
    return made


def document(made, cells=("one", "two")):
    described = {
        "model": "tiny", "method": "full", "lr": 0.001, "steps": 20, "batch": 4, "epochs": 1.5, "train_text": "train",
        "val_text": "val",
    }  # fmt: skip
    return {
        "git": {"sha": "0123456789", "dirty": False}, "versions": {"torch": "2"}, "wall_s": 90.0,
        "settings": {"cells": [{"name": name, "in_rule": name != "extra", **described} for name in cells]},
        "models": {"tiny": {"layers": 3, "width": 8, "parameters": 1234, "pretrain_text": "old", "pretrain_loss": 1.5}},
        "checks": [{"cell": "one", "law": "A", "steps": 5, "equal": False}],
        "rates": [{"cell": "one", "lr": 0.001, "val": [[0, 3.0], [20, 1.25]], "chosen": True}],
        "grids": [
            {"model": "tiny", "stream_rms": 0.5, "bits": 9, "gamma": "0", "loss": 1.5, "loss_change": 0.25,
             "logit_error": 0.0125}
        ],
        "runs": made,
    }  # fmt: skip
