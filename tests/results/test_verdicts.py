"""The rule that judges the paper's claims, on records with known differences and on simulated studies."""

import math
from dataclasses import replace

import numpy as np
import pytest

from bdia.results import gather
from bdia.results.claims import CLAIMS
from bdia.results.claims_table import ClaimRow, behind, claims_markdown, claims_table
from bdia.results.paired import Paired, holm
from bdia.results.published import data_name
from bdia.results.verdicts import (
    CONTRADICTED,
    NOT_RESOLVED,
    NOT_RUN,
    REPRODUCED,
    judge,
    outcome,
    verdict_lines,
    verdicts,
)
from helpers.synthetic_records import BDIA, REVVIT, STANDARD, make_metrics, make_record, make_study, only

BETTER, _, _ = (claim for claim in CLAIMS if claim.study == "Table 1, CIFAR-10")
MEMORY = next(claim for claim in CLAIMS if claim.study == "Table 1, memory")
OFFSETS = (0.0, 0.1, -0.1, 0.2)  # of the differences of the pairs, so that they have a spread


def study(bdia, standard=60.0, revvit=None, experiment="table1_cifar10_cpu", seeds=range(4)):
    rows = [(STANDARD, standard), (BDIA, bdia), *([(REVVIT, revvit)] if revvit is not None else [])]
    return [
        make_record(
            stack, seed, at=10 * place + seed, experiment=experiment,
            metrics=make_metrics(accuracy + seed + place * OFFSETS[seed]),
        )
        for place, (stack, accuracy) in enumerate(rows)
        for seed in seeds
    ]  # fmt: skip


def of_claim(records, claim=BETTER):
    return [verdict for verdict in judge(only(records)) if verdict.claim == claim]


@pytest.mark.parametrize(("bdia", "wanted"), [(61.0, REPRODUCED), (59.0, CONTRADICTED), (60.0, NOT_RESOLVED)])
def test_a_claim_is_judged_by_the_differences_seed_by_seed(bdia, wanted):
    # the seeds differ by points, the pairs by tenths: means over the seeds alone would resolve nothing
    (verdict,) = of_claim(study(bdia))
    assert verdict.outcome == wanted
    assert verdict.found.n == 4
    assert verdict.found.mean == pytest.approx(bdia - 60.0 + 0.05)


def test_two_standard_errors_of_three_pairs_resolve_nothing():
    records = study(60.3, seeds=range(3))  # differences 0.3, 0.4, 0.2: t = 5.2, p = 0.035
    (verdict,) = of_claim(records)
    assert verdict.found.p < 0.05 and verdict.corrected_p == pytest.approx(3 * verdict.found.p)  # of three claims
    assert verdict.outcome == NOT_RESOLVED
    records += study(60.3, revvit=60.3, seeds=range(3))[6:]
    assert of_claim(records)[0].outcome == NOT_RESOLVED


def test_a_single_pair_resolves_nothing():
    (verdict,) = of_claim(study(70.0, seeds=[0]))
    assert verdict.outcome == NOT_RESOLVED
    assert "one pair of runs: no interval" in verdict_lines(only(study(70.0, seeds=[0])))[0]


def test_runs_of_other_seeds_are_no_pairs():
    records = study(61.0)
    assert not of_claim([*records[:2], *records[6:]])  # standard has seeds 0 and 1, BDIA 2 and 3


def test_the_newest_run_of_a_seed_counts_once():
    again = make_record(STANDARD, 0, at=50, experiment="table1_cifar10_cpu", metrics=make_metrics(50.0))
    (verdict,) = of_claim([*study(61.0), again])
    assert verdict.found.n == 4
    assert verdict.found.second.mean == pytest.approx((50 + 61 + 62 + 63) / 4)


def test_memory_repeats_and_needs_no_test():
    def pair(mine):
        rows = ((STANDARD, 100.0), (BDIA, mine))
        return [make_record(stack, at=at, experiment="memory_paper", metrics=make_metrics(60.0, memory))
                for at, (stack, memory) in enumerate(rows)]  # fmt: skip

    outcomes = [of_claim(pair(memory), MEMORY)[0].outcome for memory in (40.0, 97.0, 140.0)]
    assert outcomes == [REPRODUCED, NOT_RESOLVED, CONTRADICTED]


def test_a_loss_that_is_not_finite_is_not_resolved():
    records = study(61.0)
    records[-1] = replace(records[-1], metrics=make_metrics(math.nan))
    assert of_claim(records)[0].outcome == NOT_RESOLVED
    assert any("a value is not finite" in line for line in verdict_lines(only(records)))


def test_every_claim_is_listed_and_the_largest_scale_with_two_pairs_counts():
    records = [*study(61.0), *study(59.0, experiment="table1_cifar10_long", seeds=[0, 1])]
    found = verdicts(gather(records))
    assert [verdict.claim for verdict in found] == list(CLAIMS)
    by_claim = {verdict.claim: verdict for verdict in found}
    assert by_claim[BETTER].experiment.name == "table1_cifar10_long"
    assert by_claim[MEMORY].outcome == NOT_RUN
    one_pair = [*study(61.0), *study(59.0, experiment="table1_cifar10_long", seeds=[0])]
    assert next(v for v in verdicts(gather(one_pair)) if v.claim == BETTER).experiment.name == "table1_cifar10_cpu"


def test_the_table_has_one_row_per_claim_and_says_what_it_rests_on():
    found = verdicts(gather(study(61.0)))
    table = claims_table([*map(ClaimRow.of, found)])
    assert len(table.rows) == len(CLAIMS)
    assert table.rows[0][-3:] == ["4", table.rows[0][5], REPRODUCED]
    text = " ".join(behind(found[0]))
    assert "make study NAME=table1_cifar10 SCALE=cpu" in text and "width 128 (paper: 512)" in text
    assert "abcdef012345" in text and found[0].runs[0].run_id in text
    assert behind(found[-1]) == ["No experiment with records measures it yet."]
    again = verdicts(gather(study(61.0)[::-1]))
    assert claims_markdown([*map(ClaimRow.of, found)]) == claims_markdown([*map(ClaimRow.of, again)])


def test_a_line_gives_means_interval_both_ps_and_the_power():
    told, power = verdict_lines(only(study(61.0)))[:2]
    assert told.startswith(
        "Table 1, CIFAR-10, BDIA is more accurate than the standard ViT (paper: 89.10 against 88.15 %, n = 3): "
        "REPRODUCED. BDIA minus standard (ViT), after 100 epochs, test accuracy 62.55 against 61.50: +1.05 points "
        "(95 % interval +0.84"
    )
    assert "after Holm, by sign flips 0.12" in told
    assert power.startswith("A difference of the paper's size (+0.95 points) would be found with probability 1.00")


def test_on_data_without_published_figures_the_difference_is_told_without_a_verdict():
    records = study(61.0, experiment="demo")
    for record in records:
        record.config["data"] = {"_target_": "bdia.data.DigitsDataModule", "batch_size": 64}
    assert data_name(records[0].config) == "digits"
    (line,) = verdict_lines(only(records))
    assert line.startswith(
        "Not in the paper: BDIA minus standard (ViT), after 100 epochs, test accuracy 62.55 against 61.50: +1.05"
    )


def test_the_standard_stack_with_label_smoothing_is_a_rival_of_bdia_without():
    records = [make_record(BDIA), make_record(STANDARD)]
    records[1].config["model"]["label_smoothing"] = 0.1
    lines = verdict_lines(only(records))
    assert any("BDIA minus standard (ViT), label_smoothing 0.1" in line and "rise of" in line for line in lines)


def test_a_smoke_run_says_nothing():
    assert verdict_lines(only(study(61.0, experiment="table1_cifar10_smoke"))) == [
        "A smoke run: too short to say anything on the paper's claims."
    ]


@pytest.mark.parametrize("draw", ["normal", "heavy tails"])
def test_at_most_one_null_study_in_twenty_claims_anything(draw):
    rng, studies, seeds, claims = np.random.default_rng(0), 600, 6, 3

    def values():
        return dict(enumerate(rng.normal(0, 1, seeds) if draw == "normal" else rng.standard_t(3, seeds)))

    false = 0
    for _ in range(studies):
        found = [Paired.of(values(), values()) for _ in range(claims)]
        corrected = holm([pairs.p for pairs in found])
        results = [outcome(BETTER, pairs, p) for pairs, p in zip(found, corrected, strict=True)]
        false += any(result != NOT_RESOLVED for result in results)
    # 5 % of 600 are 30, with a standard error of 5.3: an honest rule stays below 30 + 3 x 5.3
    assert false <= 46


def test_two_standard_errors_would_claim_more_null_differences():
    """The rule that this one replaced: it called 11 % of null differences of three runs real."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(0, 1, (20_000, 2, 3))
    error = np.sqrt((drawn.var(axis=2, ddof=1) / 3).sum(axis=1))
    assert (abs(drawn.mean(axis=2) @ [1, -1]) > 2 * error).mean() > 0.1


def test_the_study_of_three_stacks_says_all_three_differences():
    lines = verdict_lines(only(make_study(bdia=64.0, standard=60.0, revvit=57.0)))
    wanted = ("BDIA minus standard (ViT)", "BDIA minus RevViT", "standard (ViT) minus RevViT")
    assert all(any(text in line for line in lines) for text in wanted)
