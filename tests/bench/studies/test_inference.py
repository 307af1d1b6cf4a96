"""The study of trained classifiers: what varies at inference, on what weights, and what a score is."""

import math

import pytest
import torch

from bdia.bench.studies import inference
from bdia.bench.studies.corruptions import CORRUPTIONS
from bdia.train.job import train

ARGUMENTS = {"gammas": [-0.5, 0.0, 0.5], "bits": [4, 9], "paths": 2, "images": 60}


@pytest.fixture
def measured(tiny, tmp_path):
    """measured(stack): the rows of a tiny run on the digits, and the accuracy of its record on those images."""

    def measure(stack):
        cfg = tiny(f"stack={stack}")
        train(cfg)
        (rows,) = inference.measure(inference.Arguments(runs=str(tmp_path / "runs" / cfg.name), **ARGUMENTS))
        return rows

    return measure


def of(rows, part):
    return {row["value"]: row for row in rows if row["part"] == part}


def numbers(row):
    return {key: row[key] for key in ("accuracy", "loss", "ece")}


@pytest.mark.parametrize("stack", ["standard", pytest.param("bdia", marks=pytest.mark.slow)])
def test_gamma_0_on_the_trained_grid_is_the_model_as_it_is_and_other_gammas_are_not(stack, measured):
    rows = measured(stack)
    clean, gammas = of(rows, "clean")[""], of(rows, "gamma, grid")
    own = "gamma, grid" if stack == "bdia" else "gamma, float"
    assert numbers(of(rows, own)[0.0]) == numbers(clean)
    assert list(gammas) == [-0.5, 0.0, 0.5] and len({row["loss"] for row in gammas.values()}) == 3
    assert numbers(of(rows, "bits")[9]) == numbers(gammas[0.0])
    assert of(rows, "bits")[4]["loss"] != clean["loss"]
    assert set(of(rows, "corruption")) == set(CORRUPTIONS)
    assert list(of(rows, "paths")) == [1, 2]
    assert all(row["seed"] == 0 and math.isfinite(row["loss"]) for row in rows)


@pytest.mark.slow
def test_revvit_has_no_gamma(measured):
    rows = measured("revvit")
    assert {row["part"] for row in rows} == {"clean", "corruption"}


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no <run>/final.ckpt in it; set runs"):
        next(inference.measure(inference.Arguments(runs=str(tmp_path))))


def test_scores_are_accuracy_loss_and_the_gap_between_confidence_and_accuracy():
    logits = torch.tensor([[0.0, math.log(9)], [0.0, math.log(9)], [0.0, math.log(9)], [0.0, math.log(9)]])
    found = inference.scores(logits, torch.tensor([1, 1, 1, 0]))
    assert found["accuracy"] == 75.0
    assert found["loss"] == pytest.approx(-(3 * math.log(0.9) + math.log(0.1)) / 4, abs=1e-4)
    assert found["ece"] == pytest.approx(15.0, abs=1e-2)  # confidence 90 %, right 75 %


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_repeats_keeps_shape_and_type_and_is_the_worse_the_stronger(name):
    images = torch.randint(0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    corrupted = CORRUPTIONS[name](images)
    assert corrupted.shape == images.shape and corrupted.dtype == torch.uint8
    assert torch.equal(corrupted, CORRUPTIONS[name](images))
    kind = name.split()[0]
    weak, strong = (CORRUPTIONS[other](images) for other in CORRUPTIONS if other.startswith(kind))

    def off(found):
        return (found.float() - images.float()).square().mean()

    assert 0 < off(weak) < off(strong)
