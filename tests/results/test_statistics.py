"""Runs gathered into variants and experiments: what is averaged, what is never mixed."""

import math
from dataclasses import replace

import pytest

from bdia.results import Metric, Spread, gather
from helpers.synthetic_records import (
    BDIA,
    GAMMA,
    REVVIT,
    STANDARD,
    make_config,
    make_metrics,
    make_record,
    make_study,
    make_text_record,
)


def labels(records) -> list[str]:
    (experiment,) = gather(records)
    return [variant.label for variant in experiment.variants]


def test_spread_is_mean_and_sample_deviation():
    spread = Spread.of([1.0, 2.0, 6.0])  # squared distances from 3: 4 + 1 + 9 = 14; 14 / (3 - 1) = 7
    assert (spread.mean, spread.n) == (3.0, 3)
    assert spread.std == pytest.approx(math.sqrt(7))


def test_a_single_run_has_no_deviation():
    assert math.isnan(Spread.of([5.0]).std)
    assert Spread.of([5.0]).text() == "5.00 ± \N{EN DASH} (n=1)"


def test_a_run_that_is_not_finite_makes_the_mean_nan_and_is_not_dropped():
    spread = Spread.of([1.0, math.nan])
    assert math.isnan(spread.mean)
    assert spread.n == 2


def test_seeds_of_one_stack_are_one_variant_and_stacks_are_ordered():
    (experiment,) = gather(make_study())
    assert [variant.label for variant in experiment.variants] == ["standard (ViT)", "RevViT", "BDIA"]
    assert all(variant.spread("accuracy", "test").n == 3 for variant in experiment.variants)


def test_experiments_are_never_mixed():
    records = [make_record(experiment=name, at=at) for at, name in enumerate(["b", "a", "b"])]
    assert [(experiment.name, len(experiment.records)) for experiment in gather(records)] == [("a", 1), ("b", 2)]


def test_bits_and_gamma_separate_variants():
    quarter = {**GAMMA, "value": "1/4"}
    stacks = [BDIA, {**BDIA, "bits": 7}, {**BDIA, "bits": 11}, {**BDIA, "bits": 7, "gamma": quarter}, STANDARD]
    records = [make_record(stack, at=at) for at, stack in enumerate(stacks)]
    assert labels(records) == [
        "standard (ViT)",  # has no bits, and is not called a variant for it
        "BDIA, gamma ±1/2, bits 7",
        "BDIA, gamma ±1/4, bits 7",
        "BDIA, gamma ±1/2, bits 9",
        "BDIA, gamma ±1/2, bits 11",
    ]


def test_gamma_laws_of_other_classes_are_named():
    laws = [
        {"_target_": "bdia.reversible.Constant", "value": 0},
        {"_target_": "bdia.reversible.Discrete", "probabilities": {"1/2": 1 / 3, "0": 2 / 3}, "per": "sample"},
        {"_target_": "bdia.reversible.Ramp", "values": ["1/4", "1/2"], "steps": 640},
    ]
    records = [make_record({**BDIA, "gamma": law}, at=at) for at, law in enumerate([GAMMA, *laws])]
    assert sorted(labels(records)) == [
        "BDIA, gamma constant 0",
        "BDIA, gamma discrete 1/2: 0.333, 0: 0.667",
        "BDIA, gamma ramp [1/4, 1/2], 640",
        "BDIA, gamma ±1/2",
    ]


def test_settings_outside_the_stack_separate_variants_too():
    records = [make_record(at=at) for at in range(2)]
    records[1].config["optimizer"] = {"_target_": "torch.optim.AdamW", "lr": 1e-4, "weight_decay": 0.1}
    assert sorted(labels(records)) == ["standard (ViT), optimizer AdamW", "standard (ViT), optimizer SetAdam"]


def test_paths_and_seeds_do_not_separate_variants():
    records = [make_record(seed=seed, at=seed) for seed in range(2)]
    records[1].config["data"]["data_dir"] = "elsewhere"
    records[1].config["logger"] = {"name": "other"}
    assert labels(records) == ["standard (ViT)"]


def test_where_text_lies_does_not_separate_variants_but_tokenizer_and_source_do():
    def make(**data):
        record = make_text_record("Translation", STANDARD, [], at=len(data))
        record.config["data"] |= data
        return record

    assert labels([make(), make(data_dir="elsewhere", cache_dir="tokens")]) == ["standard"]
    source = make().config["data"]["source"]
    assert labels([make(), make(source=source | {"cache_dir": "elsewhere"})]) == ["standard"]
    larger = {"_target_": "bdia.data.CorpusBpe", "vocab_size": 16000}
    assert labels([make(), make(tokenizer=larger)]) == ["standard, vocab_size 8000", "standard, vocab_size 16000"]
    found = labels([make(), make(tokenizer={"_target_": "bdia.data.Bytes"})])
    assert found == ["standard, tokenizer Bytes", "standard, tokenizer CorpusBpe"]


def test_the_newest_ok_run_of_a_seed_counts():
    old, new = make_record(at=0, metrics=make_metrics(10.0)), make_record(at=1, metrics=make_metrics(20.0))
    broken = make_record(at=2, status="failed", metrics=[], error="boom")
    other_seed = make_record(seed=1, at=3, metrics=make_metrics(30.0))
    (experiment,) = gather([new, broken, other_seed, old])
    (variant,) = experiment.variants
    assert variant.spread("accuracy", "test").mean == 25.0
    assert variant.older == [old]
    assert variant.broken == [broken]
    assert variant.status == "2 ok, 1 failed"


def test_an_interrupted_try_counts_until_its_run_has_ended_well():
    cut_off = make_record(at=2, status="interrupted", metrics=[], error="SIGTERM")
    (experiment,) = gather([cut_off])
    assert experiment.variants[0].broken == [cut_off]
    (experiment,) = gather([cut_off, make_record(at=3)])
    assert experiment.variants[0].broken == [] and experiment.variants[0].status == "1 ok"


def test_a_variant_whose_runs_all_broke_is_still_there():
    (experiment,) = gather([make_record(), make_record(BDIA, at=1, status="oom", metrics=[], error="out of memory")])
    assert [variant.status for variant in experiment.variants] == ["1 ok", "1 oom"]
    assert experiment.variants[1].spread("accuracy", "test") is None


def test_a_curve_has_the_steps_that_all_its_runs_share():
    short = [Metric("loss", value, "nat", "val", step) for step, value in ((1, 2.0), (2, 4.0))]
    long = [Metric("loss", value, "nat", "val", step) for step, value in ((1, 4.0), (2, 4.0), (3, 9.0))]
    (experiment,) = gather([make_record(metrics=short), make_record(seed=1, at=1, metrics=long)])
    curve = experiment.variants[0].curve("loss", "val")
    assert [(step, spread.mean, spread.n) for step, spread in curve] == [(1, 3.0, 2), (2, 4.0, 2)]
    assert curve[0][1].std == pytest.approx(math.sqrt(2))


def test_the_baseline_has_the_same_setting_beside_the_stack():
    deep = make_config()
    deep["model"]["net"]["depth"] = 12
    deep_bdia = make_config(BDIA)
    deep_bdia["model"]["net"]["depth"] = 12
    records = [make_record(), make_record(BDIA, at=1), make_record(config=deep, at=2), make_record(BDIA, at=3)]
    records[3] = replace(records[3], config=deep_bdia)
    (experiment,) = gather(records)
    found = {variant.label: experiment.baseline(variant).label for variant in experiment.variants}
    assert found["BDIA, depth 12"] == "standard (ViT), depth 12"
    assert found["BDIA, depth 6"] == "standard (ViT), depth 6"


def test_without_a_standard_run_there_is_no_baseline():
    (experiment,) = gather([make_record(REVVIT), make_record(STANDARD, at=1, status="failed", metrics=[])])
    assert all(experiment.baseline(variant) is None for variant in experiment.variants)


def test_time_and_memory_are_of_the_device_that_most_runs_have_accuracies_of_all():
    measured = enumerate((10.0, 30.0, 900.0))
    records = [make_record(seed=n, at=n, metrics=make_metrics(60.0 + n, ms, ms)) for n, ms in measured]
    records[2].device["name"] = "a slow one"
    (experiment,) = gather(records)
    (variant,) = experiment.variants
    assert (variant.label, variant.spread("accuracy", "test").mean) == ("standard (ViT)", 61.0)
    for name in ("step_time", "peak_allocated"):
        assert (variant.spread(name).mean, variant.spread(name).n) == (20.0, 2)
