"""Gamma laws."""

import copy
import math
import pickle
import warnings
from fractions import Fraction

import pytest
import torch

from bdia.reversible import Constant, Discrete, Gamma, TwoPoint, Uniform
from bdia.reversible.arithmetic.gamma import GammaMeanWarning, as_fraction


def quiet(law, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GammaMeanWarning)
        return law(*args, **kwargs)


@pytest.mark.parametrize("value", ["1/2", "-3/5", "2", 1, 3, Fraction(7, 9)])
def test_fractions_are_read_exactly(value):
    assert as_fraction(value) == Fraction(value)


@pytest.mark.parametrize(
    ("value", "wanted"), [(0.5, "1/2"), (0.6, "3/5"), (1 / 3, "1/3"), (-0.25, "-1/4"), (1.5, "3/2"), (0.1, "1/10")]
)
def test_floats_stand_for_the_fraction_they_were_written_as(value, wanted):
    assert as_fraction(value) == Fraction(wanted)


@pytest.mark.parametrize(
    "value", [0.123456, 0.0012345, math.pi, math.nan, math.inf, "half", "1/0", None, "1/257", 1e-9]
)
def test_values_without_a_small_fraction_are_refused_by_config_key(value):
    with pytest.raises(ValueError, match=r"gamma value.*stack\.gamma"):
        as_fraction(value)


@pytest.mark.parametrize(
    ("law", "values"),
    [
        (TwoPoint(), {0.5, -0.5}),
        (TwoPoint("3/4"), {0.75, -0.75}),
        (quiet(Constant, "1/4"), {0.25}),
        (TwoPoint(2), {2.0, -2.0}),
    ],
    ids=str,
)
def test_samples_take_the_law_s_values_only(law, values):
    gamma = law.sample(400, torch.Generator().manual_seed(0))
    assert isinstance(gamma, Gamma)
    assert set(gamma.value.tolist()) == values


def test_gamma_is_integer_fractions_of_shape_b_with_positive_denominators():
    gamma = TwoPoint("3/5").sample(7)
    assert gamma.numerator.shape == gamma.denominator.shape == gamma.value.shape == (7,)
    assert not gamma.numerator.is_floating_point() and gamma.value.dtype == torch.float32
    assert (gamma.denominator == 5).all() and (gamma.numerator.abs() == 3).all()


def test_two_points_are_equally_likely_and_independent_per_sample():
    positive = TwoPoint().sample(10_000, torch.Generator().manual_seed(0)).numerator > 0
    assert abs(positive.float().mean() - 0.5) < 0.02  # four standard deviations
    repeats = (positive[1:] == positive[:-1]).float().mean()
    assert abs(repeats - 0.5) < 0.02


def test_discrete_weights_are_the_frequencies():
    law = quiet(Discrete, {"1/2": 0.7, "-1/2": 0.2, "1/4": 0.1})
    value = law.sample(10_000, torch.Generator().manual_seed(0)).value
    assert [abs((value == v).float().mean().item() - w) < 0.02 for v, w in ((0.5, 0.7), (-0.5, 0.2), (0.25, 0.1))] == [
        True
    ] * 3


def test_uniform_stays_in_its_interval_with_its_mean():
    value = Uniform(-0.5, 0.5).sample(10_000, torch.Generator().manual_seed(0))
    assert value.dtype == torch.float32 and value.shape == (10_000,)
    assert value.min() >= -0.5 and value.max() <= 0.5
    assert abs(value.mean()) < 0.012 and abs(value.var() - 1 / 12) < 0.01


@pytest.mark.parametrize("law", [TwoPoint(), Uniform(-0.5, 0.5)], ids=str)
def test_the_generator_decides_the_sample(law):
    first, again, other = (law.sample(64, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    value = [g.value if isinstance(g, Gamma) else g for g in (first, again, other)]
    assert torch.equal(value[0], value[1]) and not torch.equal(value[0], value[2])


@pytest.mark.parametrize("law", [TwoPoint(), Uniform(-0.5, 0.5)], ids=str)
def test_without_a_generator_the_global_seed_decides(law):
    torch.manual_seed(5)
    first = law.sample(64)
    torch.manual_seed(5)
    again = law.sample(64)
    assert all(torch.equal(a, b) for a, b in zip(tuple(first), tuple(again), strict=True))


@pytest.mark.parametrize("law", [TwoPoint(per="batch"), Uniform(-0.5, 0.5, per="batch")], ids=str)
def test_per_batch_draws_one_gamma_for_all_samples_and_a_new_one_each_time(law):
    generator, seen = torch.Generator().manual_seed(0), set()
    for _ in range(20):
        gamma = law.sample(9, generator)
        values = (gamma.value if isinstance(gamma, Gamma) else gamma).tolist()
        assert len(values) == 9 and len(set(values)) == 1
        seen.add(values[0])
    assert len(seen) > 1


@pytest.mark.parametrize(
    ("value", "side_bits"),
    [
        ("1/2", 1),
        ("1/4", 2),
        ("3/4", 2),
        ("3/5", 3),
        ("1/8", 3),
        ("1", 0),
        ("2", 0),
        ("1/3", 2),
        ("1/16", 4),
        ("1/255", 8),
        ("1/256", 8),
    ],
)
def test_side_bits_are_the_logarithm_of_the_denominator(value, side_bits):
    assert TwoPoint(value).side_bits == side_bits


def test_side_bits_serve_the_largest_denominator():
    assert Discrete({"1/2": 0.25, "-1/2": 0.25, "3/5": 0.25, "-3/5": 0.25}).side_bits == 3


def test_only_laws_that_never_draw_zero_or_a_continuum_are_reversible():
    assert TwoPoint().reversible and Constant(0).reversible is False and TwoPoint(0).reversible is False
    assert not Discrete({"0": 0.5, "1/2": 0.25, "-1/2": 0.25}).reversible
    assert not Uniform(-1, 1).reversible


@pytest.mark.parametrize(
    "make",
    [lambda: Constant("1/2"), lambda: Discrete({"1/2": 0.6, "-1/2": 0.4}), lambda: Uniform(0, 1)],
    ids=["constant", "discrete", "uniform"],
)
def test_a_mean_other_than_zero_warns(make):
    with pytest.warns(GammaMeanWarning, match="mean gamma is"):
        make()


@pytest.mark.parametrize(
    "make", [TwoPoint, lambda: Constant(0), lambda: Uniform(-0.3, 0.3), lambda: TwoPoint("3/5", per="batch")]
)
def test_a_mean_of_zero_does_not_warn(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make()


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"1/2": 0.5},
        {"1/2": 0.6, "-1/2": 0.6},
        {"1/2": 1.5, "-1/2": -0.5},
        {"1/2": 0.5, "2/4": 0.5},
        {"1/2": math.nan, "-1/2": 0.5},
    ],
)
def test_weights_that_are_no_distribution_are_refused_by_config_key(weights):
    with pytest.raises(ValueError, match=r"stack\.gamma\.weights"):
        quiet(Discrete, weights)


@pytest.mark.parametrize("law", [TwoPoint, lambda per: quiet(Constant, "1/2", per), lambda per: Uniform(-1, 1, per)])
def test_an_unknown_per_is_refused_by_config_key(law):
    with pytest.raises(ValueError, match=r"token.*stack\.gamma\.per"):
        law(per="token")


@pytest.mark.parametrize(("low", "high"), [(1, 1), (1, 0), (math.nan, 1)])
def test_an_empty_interval_is_refused_by_config_key(low, high):
    with pytest.raises(ValueError, match=r"stack\.gamma\.low"):
        Uniform(low, high)


@pytest.mark.parametrize("law", [TwoPoint("3/5"), Uniform(-0.5, 0.5), Constant(0)], ids=str)
def test_laws_survive_pickle_and_deepcopy_and_print_themselves(law):
    for twin in (copy.deepcopy(law), pickle.loads(pickle.dumps(law))):
        assert repr(twin) == repr(law) and type(law).__name__ in repr(law)
