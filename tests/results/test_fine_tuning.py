"""Fine-tuning in the report: compared at equal steps, with no figure of the paper beside it."""

from dataclasses import replace

import pytest

from bdia.results import gather
from bdia.results.figures import curves
from bdia.results.published import published
from bdia.results.report import notes
from bdia.results.tables import summary_table
from bdia.results.verdicts import verdict_lines
from helpers.synthetic_records import (
    BDIA,
    STANDARD,
    make_metrics,
    make_record,
    make_text_record,
    make_translation_study,
)

WEIGHTS = {"from": None, "folder": None, "found": None, "pretrain": {"trainer": {"max_epochs": 8}}}


def fine_tuned(records, experiment="finetune_cpu"):
    changed = [
        replace(record, config=record.config | {"weights": WEIGHTS}, experiment=experiment) for record in records
    ]
    (found,) = gather(changed)
    return found


def images():
    return [
        make_record(
            stack, seed=seed, at=10 * seed + 100 * (stack is BDIA), metrics=make_metrics(accuracy + seed, memory)
        )
        for stack, accuracy, memory in ((STANDARD, 60.0, 100.0), (BDIA, 61.0, 50.0))
        for seed in range(3)
    ]


def test_images_are_compared_with_standard_at_equal_steps_and_memory():
    experiment = fine_tuned(images())
    accuracy, memory = verdict_lines(experiment)
    opening = "Fine-tuned from the same weights: BDIA minus standard (ViT), after 100 epochs,"
    assert accuracy.startswith(f"{opening} test accuracy 62.00 against 61.00: +1.00 points")
    assert memory == f"{opening} peak memory of a step 50.0 against 100.0: -50.0 MiB (0.50 times)."


def test_no_figure_of_the_paper_stands_beside_them():
    plain, (record, *_) = gather(images())[0], fine_tuned(images()).records
    assert published(plain.records[0].config) and not published(record.config)
    assert "88.15" not in str(summary_table(fine_tuned(images())))
    assert not [line for line in notes(fine_tuned(images())) if "paper" in line]
    assert "the paper's Fig. 3" in curves(plain).caption
    assert "the paper's" not in curves(fine_tuned(images())).caption


@pytest.mark.parametrize("task", ["DataToText"])
def test_prompts_are_compared_by_bleu(task):
    records = [make_text_record(task, record.config["stack"], record.metrics, seed=record.seed)
               for record in make_translation_study()]  # fmt: skip
    experiment = fine_tuned(records)
    assert experiment.result.name == "bleu"
    assert any("test BLEU 21.00 against 20.00" in line for line in verdict_lines(experiment))
    assert "Fig. 4" not in " ".join([*verdict_lines(experiment), *notes(experiment)])
