"""Translation and language modelling in the report: columns, claims, notes, figures."""

import json
import math
from dataclasses import replace

import pytest

from bdia.results import Metric, table_text
from bdia.results.figures import curves, figure_of, memory_by_category, result_against_memory
from bdia.results.published import data_name, setting_differences
from bdia.results.report import failure_reason, notes, provenance
from bdia.results.statistics import result_of
from bdia.results.tables import details_table, summary_table
from bdia.results.verdicts import verdict_lines
from helpers.synthetic_records import (
    BDIA,
    SIGNATURE,
    STANDARD,
    make_language_metrics,
    make_language_study,
    make_record,
    make_study,
    make_text_record,
    make_translation_study,
    only,
)


def rows_of(records) -> dict[str, dict[str, str]]:
    """Return {variant: {column: cell}} of the summary."""
    table = summary_table(only(records))
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


@pytest.mark.parametrize(
    ("records", "name", "higher"),
    [
        (make_study(), "accuracy", True),
        (make_translation_study(), "bleu", True),
        (make_language_study(), "perplexity", False),
        ([make_text_record("Translation", BDIA, [], status="failed")], "bleu", True),  # known before it is measured
        ([make_text_record("Bilingual", BDIA, make_translation_study()[0].metrics)], "bleu", True),
        ([make_text_record("Recurrent", BDIA, make_language_metrics([3.0, 2.0]))], "perplexity", False),
    ],
)
def test_each_task_has_its_result(records, name, higher):
    result = result_of(records)
    assert (result.name, result.higher) == (name, higher)


def test_translation_shows_bleu_and_what_stands_beside_it():
    row = rows_of(make_translation_study())["BDIA"]
    assert row["test BLEU (mean ± std, n)"] == "21.00 ± 0.10 (n=3)"
    assert row["test chrF"] == "42.00 ± 0.20"
    assert row["test exact match %"] == "5.00 ± 0.00"
    assert row["val loss at end, nat"] == "1.900 ± 0.010"
    assert row["peak memory MiB (ratio to standard)"] == "200.0 (1.00x)"
    assert not {"paper", "Δ"} & set(row)


def test_a_column_without_numbers_is_left_out():
    records = make_translation_study()
    kept = [replace(record, metrics=[row for row in record.metrics if row.name != "chrf"]) for record in records]
    assert "test chrF" not in rows_of(kept)["BDIA"]


def test_language_model_shows_the_best_epoch_and_the_end():
    row = rows_of(make_language_study())["standard, dropout 0.1"]  # validation loss 4.0, 3.5, 4.5 at 100, 200, 300
    assert row["val perplexity at best (mean ± std, n)"].startswith(f"{math.exp(3.5):.1f}")
    assert row["step of best"] == "200 of 300"
    assert row["val perplexity at end"].startswith(f"{math.exp(4.5):.1f}"[:4])
    assert row["unigram perplexity"] == "512.0"


def test_the_step_of_the_best_shows_its_spread():
    losses = {0: [3.0, 2.0, 2.5], 1: [3.0, 2.5, 2.0]}
    records = [
        make_text_record("LanguageModeling", STANDARD, make_language_metrics(losses[s]), seed=s, at=s) for s in (0, 1)
    ]
    assert rows_of(records)["standard"]["step of best"] == "250 ± 71 of 300"


def test_text_rows_never_name_the_vit():
    for records in (make_translation_study(), make_language_study()):
        assert "ViT" not in table_text(records)
    assert "standard (ViT)" in table_text(make_study())


def lines_of(records):
    return verdict_lines(only(records))


@pytest.mark.parametrize(("val", "outcome"), [(1.9, "REPRODUCED"), (2.1, "CONTRADICTED")])
def test_fig_4_is_judged_by_validation_loss_either_way(val, outcome):
    line = lines_of(make_translation_study(bdia_val=val))[0]
    assert line.startswith(
        "Fig. 4, BDIA's validation loss ends below standard's (paper: curves, no numbers): " + outcome
    )
    assert f"after 100 epochs, validation loss at the end {val:.3f} against 2.000" in line


@pytest.mark.parametrize(("train", "outcome"), [(1.2, "REPRODUCED"), (0.8, "CONTRADICTED")])
def test_fig_4_is_judged_by_training_loss_too(train, outcome):
    assert (
        f"training loss ends above standard's (paper: curves, no numbers): {outcome}"
        in (lines_of(make_translation_study(bdia_train=train))[1])
    )


@pytest.mark.parametrize(("bleu", "difference"), [(21.0, "+1.00"), (19.0, "-1.00")])
def test_the_difference_in_bleu_is_paired(bleu, difference):
    line = lines_of(make_translation_study(bdia_bleu=bleu))[2]
    assert line.startswith("Not in the paper: BDIA minus standard, after 100 epochs, test BLEU")
    assert f"{difference} points (95 % interval" in line


def test_fig_5_is_judged_by_the_end_and_by_the_rise():
    end, rise = lines_of(make_language_study())[:2]
    assert "BDIA, dropout 0.1 minus standard, dropout 0.1" in end
    assert "REPRODUCED" in end and "validation loss at the end 3.700 against 4.500: -0.800 nat" in end
    assert "REPRODUCED" in rise and "from its least value 0.100 against 1.000: -0.900 nat" in rise


def test_fig_5_is_contradicted_where_bdia_ends_higher_and_rises_more():
    end, rise = lines_of(make_language_study(bdia=(4.2, 3.0, 4.6)))[:2]
    assert "CONTRADICTED" in end and "CONTRADICTED" in rise


def test_fig_5_is_not_resolved_where_nothing_over_fits():
    rise = lines_of(make_language_study(bdia=(4.0, 3.5, 3.4), standard=(4.0, 3.6, 3.5)))[1]
    assert "NOT RESOLVED" in rise and "0.000 against 0.000: +0.000 nat" in rise


def test_a_loss_that_is_not_finite_has_no_difference():
    line = lines_of(make_language_study(bdia=(4.2, 3.6, math.nan)))[0]
    assert "NOT RESOLVED" in line and "unknown, a value is not finite" in line


def test_the_standard_stack_with_more_dropout_is_a_rival_too():
    rivals = [line for line in lines_of(make_language_study()) if "minus standard, dropout 0.3" in line]
    assert len(rivals) == 2 and all(line.startswith("Not in the paper: BDIA, dropout 0.1") for line in rivals)


def test_a_standard_stack_with_less_dropout_or_other_data_is_no_rival():
    less = make_language_study()
    more = make_language_study()
    for record in less[3:6]:
        record.config["model"]["net"]["dropout"] = 0.5  # BDIA's own
    for record in more[6:]:
        record.config["data"]["batch_size"] = 16
    assert lines_of(less) == []
    assert not [line for line in lines_of(more) if "batch_size 16" in line]


def test_the_vits_setting_is_not_held_against_text():
    translation, language = make_translation_study()[0], make_language_study()[0]
    assert setting_differences(translation.config) == ["encoder_depth 2 (paper: 6)", "decoder_depth 2 (paper: 6)"]
    assert setting_differences(language.config) == ["depth 4 (paper: 12)"]
    (about, differs) = notes(only([language]))
    assert "Fig. 5" in about
    assert differs == "Not the paper's setting: depth 4 (paper: 12)."


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ({"_target_": "bdia.data.HubPairs", "name": "Helsinki-NLP/opus_books"}, "Helsinki-NLP/opus_books"),
        ({"_target_": "bdia.data.ParallelFiles", "folder": "multi30k", "files": {}}, "multi30k"),
        ({"_target_": "bdia.data.TextFiles", "paths": ["/home/someone/books/a.txt"]}, "books/a.txt"),
        ({"_target_": "bdia.data.Numbers", "train": 6000}, "Numbers"),
    ],
)
def test_text_is_named_by_its_source(source, name):
    assert data_name({"data": {"_target_": "bdia.data.TranslationDataModule", "source": source}}) == name


def test_signatures_are_shown_with_their_number_of_runs():
    assert f"bleu signature {SIGNATURE}: 6 run(s)" in provenance(only(make_translation_study()))


def test_details_name_every_text_metric_with_its_unit():
    heads = [row[0] for row in details_table(only(make_translation_study())).rows]
    wanted = ["test BLEU, points", "test chrF, points", "test exact match, %", "token throughput, tokens/s"]
    assert set(wanted) | {"train pairs", "val perplexity", "peak loss head, MiB"} <= set(heads)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            "InstantiationException: Error in call to target 'bdia.Gpt2':\nValueError('heads=3')\nfull_key: model.net",
            "InstantiationException: Error in call to target 'bdia.Gpt2': ValueError('heads=3') (config: model.net)",
        ),
        (
            "InstantiationException: Error in call to target 'x': ValueError('y')\nfull_key: data",
            "InstantiationException: Error in call to target 'x': ValueError('y') (config: data)",
        ),
        (
            "AcceleratorError: CUDA error: assert\nCompile with `TORCH_USE_CUDA_DSA`.",
            "AcceleratorError: CUDA error: assert",
        ),
        ("Traceback (most recent call last):\n  File x\nValueError: bad", "ValueError: bad"),
        ("full_key: model", "no reason recorded (config: model)"),
        ("", "no reason recorded"),
        (None, "no reason recorded"),
    ],
)
def test_the_reason_of_a_broken_run_is_its_telling_line(error, reason):
    assert failure_reason(error) == reason


@pytest.mark.parametrize(
    ("records", "named", "axis"),
    [
        (make_study(), "Fig. 3", "test accuracy, %"),
        (make_translation_study(), "Fig. 4", "test BLEU"),
        (make_language_study(), "Fig. 5", "val perplexity at its best"),
    ],
)
def test_figures_name_the_papers_and_show_the_tasks_result(records, named, axis):
    assert named in curves(only(records)).caption
    assert axis in result_against_memory(only(records)).json


def test_text_curves_are_training_and_validation_loss_alone():
    drawn = curves(only(make_language_study())).json
    assert "train loss, nat" in drawn
    assert "val loss, nat" in drawn
    assert "perplexity" not in drawn


def test_the_loss_head_is_drawn_beside_the_activations_not_twice():
    drawn = json.loads(memory_by_category(only(make_language_study())).json)["data"]
    widths = {trace["name"]: trace["x"] for trace in drawn}
    assert widths["loss head"] == pytest.approx([90.0] * 3)
    assert widths["activations"] == pytest.approx([60.0] * 3)  # recorded: 150, the loss head's 90 among them
    assert sum(values[0] for values in widths.values()) == pytest.approx(300.0)
    assert "gradients" not in widths  # not recorded


@pytest.mark.parametrize(("count", "caption"), [(2, "Curves"), (20, "Result of each setting")])
def test_many_variants_are_a_sweep_with_a_height_for_each_line_of_their_names(count, caption):
    records = []
    for place in range(count):
        record = make_record(BDIA if place % 2 else STANDARD, at=place)
        record.config["optimizer"] |= {f"a_rather_long_setting_{number}": place * 1000 for number in range(6)}
        records.append(record)
    plot = figure_of(only(records))
    assert plot.caption.startswith(caption)
    assert plot.height > 14 * plot.json.count("\\u003cbr\\u003e") / 2 - 1  # a label is there as category and name


def test_a_language_model_that_was_never_validated_is_still_a_row():
    records = [make_text_record("LanguageModeling", STANDARD, [Metric("loss", 5.0, "nat", "train", 1)])]
    (row,) = summary_table(only(records)).rows
    assert row[:2] == ["standard", "\N{EN DASH}"]
    assert verdict_lines(only(records)) == []
