"""Paired differences, the rule for the default, and the table, on numbers made up for it."""

import math

import pytest
from gamma_study.statistics import Paired, by_seed, chosen_law, costs
from gamma_study.table import markdown

from bdia.results.statistics import NONE
from helpers.scripts_helpers import document, run, runs


def same(cost, cells=("one", "two")):
    return dict.fromkeys(cells, cost)


def test_a_difference_is_paired_by_seed_with_a_t_interval():
    found = Paired.of({0: 1.1, 1: 2.1, 2: 3.4}, {2: 3.0, 1: 2.0, 0: 1.0})  # differences 0.1, 0.1, 0.4
    assert found.mean == pytest.approx(0.2) and found.n == 3
    assert found.half_width == pytest.approx(4.302653 * math.sqrt(0.03) / math.sqrt(3))  # t of 2 degrees of freedom
    assert found.sign == 0


def test_the_spread_over_seeds_does_not_widen_the_interval_of_pairs():
    found = Paired.of({0: 1.1, 1: 2.11, 2: 3.12}, {0: 1.0, 1: 2.0, 2: 3.0})
    assert found.half_width < 0.03 and found.sign == 1
    assert Paired.of({0: 1.0, 1: 2.0, 2: 3.0}, {0: 1.1, 1: 2.11, 2: 3.12}).sign == -1


def test_one_pair_has_no_interval_and_resolves_nothing():
    found = Paired.of({0: 2.0, 1: 5.0}, {0: 1.0, 2: 5.0})
    assert found.mean == 1 and found.n == 1 and math.isnan(found.half_width) and found.sign == 0


def test_runs_without_a_common_seed_are_refused():
    with pytest.raises(ValueError, match="no common seed"):
        Paired.of({0: 1.0}, {1: 1.0})


def test_final_and_best_losses_are_read_from_the_curve():
    made = [run("one", "A", 0, 1.5, best=1.25)]
    assert by_seed(made, "one", "A") == {0: 1.5} and by_seed(made, "one", "A", "best") == {0: 1.25}
    assert by_seed(made, "one", "A", "loss_after_conversion") == {0: 2.0}


@pytest.mark.parametrize(
    ("laws", "wanted"),
    [
        # the fewest bits within the margin, not the lowest loss
        ({"A": ([1.0], same(0.05)), "B": ([2.0], same(0.009)), "C": ([5.0], same(-0.1))}, ("B", True)),
        # one cell outside the margin is enough
        ({"A": ([1.0], {"one": -1.0, "two": 0.011}), "B": ([4.0], same(0.0))}, ("B", True)),
        # a ramp counts with the pass that needs most bits
        ({"ramp": ([5.0, 3.0, 1.0], same(0.0)), "B": ([4.0], same(0.0))}, ("B", True)),
        # equal bits: the lower mean
        ({"A": ([2.0], same(0.004)), "B": ([2.0], same(0.003))}, ("B", True)),
        # none within the margin: the one whose worst cell costs least
        ({"A": ([1.0], {"one": 0.0, "two": 0.3}), "B": ([4.0], same(0.2))}, ("B", False)),
        # a loss that is not finite is never within
        ({"A": ([1.0], same(math.nan)), "B": ([4.0], same(0.5))}, ("B", False)),
    ],
    ids=["fewest bits", "every cell", "ramp", "equal bits", "none", "not finite"],
)
def test_the_rule_takes_the_fewest_bits_within_the_margin_in_every_cell(laws, wanted):
    assert chosen_law(runs(("one", "two"), laws), ("one", "two")) == wanted


def test_cells_outside_the_rule_do_not_change_its_answer():
    laws = {"A": ([1.0], {"one": 0.0, "two": 0.0, "extra": 0.5}), "B": ([4.0], same(0.0, ("one", "two", "extra")))}
    page = markdown(document(runs(("one", "two", "extra"), laws), ("one", "two", "extra")))
    assert "The rule chooses **A**." in page and "## extra" in page
    assert "A (extra)" in page.split("## Which differences are resolved")[1]  # but it is reported


def test_a_law_that_ran_in_some_cells_only_is_reported_for_those():
    made = runs(("one", "two"), {"A": ([1.0], same(0.0)), "B": ([1.0], same(0.5))})
    made = [row for row in made if (row["cell"], row["law"]) != ("two", "B")]
    assert {law: list(of) for law, of in costs(made, ("one", "two")).items()} == {"A": ["one", "two"], "B": ["one"]}


def test_a_law_that_did_not_run_in_every_cell_is_not_chosen():
    made = runs(("one", "two"), {"A": ([4.0], same(0.0)), "B": ([1.0], same(0.0))})
    made = [row for row in made if (row["cell"], row["law"]) != ("two", "B")]
    assert chosen_law(made, ("one", "two")) == ("A", True)


def test_the_table_shows_means_deviations_and_paired_differences():
    laws = {"A": ([3.0, 1.0], same(0.25)), "B": ([4.0], same(0.0))}
    page = markdown(document(runs(("one", "two"), laws)))
    row = "| A | 3.00, at the end 1.00 | 1.5000 ± 0.0000 | 2.0000 ± 0.0000 | 1.3500 ± 0.1000 | +0.2500 ± 0.0000 * |"
    assert row in page
    assert f"| standard | {NONE} | 1.5000 ± 0.0000 | 2.0000 ± 0.0000 | 1.1000 ± 0.1000 | {NONE} | {NONE} |" in page
    assert "The rule chooses **B**." in page and "| A | +0.2500 | +0.2500 | no |" in page
    assert "higher than standard, by more than the 95 % interval: A (one); A (two)." in page
    assert "gave DIFFERENT weights" in page and "| tiny | 0.5 | 9 | 0 | 1.5000 | +0.2500 | 1.25 % |" in page


def test_the_same_document_gives_the_same_text():
    made = document(runs(("one", "two"), {"A": ([1.0], same(0.0))}))
    assert markdown(made) == markdown(made)


def test_a_law_that_never_stays_within_the_margin_is_named_as_such():
    page = markdown(document(runs(("one", "two"), {"A": ([1.0], same(0.5))})))
    assert "No law stays within the margin. The one whose worst cell costs least is **A**." in page
