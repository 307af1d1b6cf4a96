"""Which published figures belong to a run, and which of its settings are not the paper's."""

import pytest

from bdia.results.published import TABLE_2, paper_row, setting_differences
from bdia.results.report import notes
from helpers.synthetic_records import BDIA, GAMMA, REVVIT, STANDARD, make_config, make_study, only

FLOAT = {**BDIA, "bits": None}
ZERO = {"_target_": "bdia.reversible.Constant", "value": "0"}


@pytest.mark.parametrize(
    ("stack", "data", "accuracy"),
    [
        (STANDARD, "cifar10", 88.15),
        (REVVIT, "cifar10", 86.22),
        (BDIA, "cifar10", 89.10),
        (STANDARD, "cifar100", 61.86),
        (REVVIT, "cifar100", 61.89),
        (BDIA, "cifar100", 66.09),
        (FLOAT, "cifar10", 89.12),
        ({**FLOAT, "gamma": ZERO}, "cifar10", 88.15),
    ],
)
def test_published_accuracy_belongs_to_data_and_stack(stack, data, accuracy):
    assert paper_row(make_config(stack, data=data)).accuracy == accuracy


@pytest.mark.parametrize("change", [{"bits": 7}, {"gamma": {**GAMMA, "value": "1/4"}}, {"gamma": ZERO}])
def test_what_the_paper_did_not_run_has_no_published_figure(change):
    assert paper_row(make_config(BDIA | change)) is None


def test_gamma_half_as_a_decimal_is_the_same_law():
    assert paper_row(make_config(FLOAT | {"gamma": {**GAMMA, "value": 0.5}})).source == TABLE_2


def test_a_smaller_setting_is_said_to_be_not_the_papers():
    note, of_the_data = notes(only(make_study()))
    assert "97 of its 60,000 images are decoded JPEGs" in of_the_data
    assert note.startswith("Not the paper's setting: width 128 (paper: 512)")
    assert "train_per_class 200 (paper: all 50,000 images)" in note
    assert "max_epochs 100 (paper: 300 to 400)" in note
    assert "lr" not in note  # agrees


def test_the_papers_setting_needs_no_note():
    config = make_config()
    config["model"]["net"] |= {"width": 512, "patch_size": 4, "heads": 8}
    config["data"]["train_per_class"] = None
    config["trainer"]["max_epochs"] = 400
    assert setting_differences(config) == []
    del config["model"]["net"]["width"]
    assert setting_differences(config) == ["width not recorded (paper: 512)"]


@pytest.mark.parametrize(
    "change",
    [
        {"model.net.dropout": 0.0},
        {"model.net.attention._target_": "timm.layers.Attention"},
        {"data.augmentation": "none"},
        {"scheduler._target_": "bdia.optim.constant"},
        {"trainer.precision": "bf16-mixed"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_departure_from_the_papers_setting_is_named(change):
    config = make_config()
    for key, value in change.items():
        *path, last = key.split(".")
        node = config
        for part in path:
            node = node[part]
        node[last] = value
    assert len(setting_differences(config)) == len(setting_differences(make_config())) + 1


def test_published_figures_stand_beside_the_published_form_only():
    assert paper_row(make_config(BDIA)) is not None
    assert paper_row(make_config(BDIA | {"gamma": GAMMA | {"per": "batch"}})) is None
    assert paper_row(make_config(REVVIT | {"grid_bits": 9})) is None


@pytest.mark.parametrize("value", ["abc", "1/0", None])
def test_a_config_that_failed_on_its_gamma_still_reports(value):
    assert paper_row(make_config(BDIA | {"gamma": GAMMA | {"value": value}})) is None
    assert paper_row(make_config(BDIA | {"gamma": value})) is None
