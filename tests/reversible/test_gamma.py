"""Gamma laws."""

import copy
import math
import pickle
import warnings
from fractions import Fraction

import pytest
import torch

from bdia.reversible import Constant, Discrete, Gamma, Growing, PerBlock, Ramp, TwoPoint, Uniform
from bdia.reversible.arithmetic.gamma import GammaMeanWarning, as_fraction, as_law


def quiet(law, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GammaMeanWarning)
        return law(*args, **kwargs)


def after(passes, law):
    for _ in range(passes):
        law.begin_pass()
    return law


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
        (Ramp(["1/8", "1/2"], every=1), {0.125, -0.125}),
        (after(1, Ramp(["1/8", "1/2"], every=1)), {0.125, -0.125}),
        (after(2, Ramp(["1/8", "1/2"], every=1)), {0.5, -0.5}),
        (PerBlock(["1/2", "1/4"]).at(0), {0.5, -0.5}),
        (PerBlock(["1/2", "1/4"]).at(1), {0.25, -0.25}),
        (PerBlock(["1/2", after(9, Ramp(["1/8", "1/2"], every=4))]).at(1), {0.5, -0.5}),
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


@pytest.mark.parametrize("law", [TwoPoint(), Uniform(-0.5, 0.5), Ramp(["1/4"], every=1)], ids=str)
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


@pytest.mark.parametrize(
    "law", [TwoPoint(per="batch"), Uniform(-0.5, 0.5, per="batch"), Ramp(["1/4"], 1, "batch")], ids=str
)
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


@pytest.mark.parametrize(
    "law",
    [
        TwoPoint,
        lambda per: quiet(Constant, "1/2", per),
        lambda per: Uniform(-1, 1, per),
        lambda per: Ramp(["1/2"], 1, per),
    ],
)
def test_an_unknown_per_is_refused_by_config_key(law):
    with pytest.raises(ValueError, match=r"token.*stack\.gamma\.per"):
        law(per="token")


@pytest.mark.parametrize(("low", "high"), [(1, 1), (1, 0), (math.nan, 1)])
def test_an_empty_interval_is_refused_by_config_key(low, high):
    with pytest.raises(ValueError, match=r"stack\.gamma\.low"):
        Uniform(low, high)


@pytest.mark.parametrize(
    "law",
    [
        TwoPoint("3/5"),
        Uniform(-0.5, 0.5),
        Constant(0),
        after(3, Ramp(["1/8", "1/2"], every=2)),
        after(3, PerBlock(["1/2", Ramp(["1/8", "1/2"], every=2), "1/4"])),
    ],
    ids=str,
)
def test_laws_survive_pickle_and_deepcopy_and_print_themselves(law):
    for twin in (copy.deepcopy(law), pickle.loads(pickle.dumps(law))):
        assert repr(twin) == repr(law) and type(law).__name__ in repr(law)
        assert twin.state_dict() == law.state_dict() and twin.side_bits == law.side_bits


def test_a_ramp_goes_through_its_values_and_stays_at_the_last():
    law, seen = Ramp(["1/16", "1/4", "1/2"], every=2), []
    for _ in range(8):
        law.begin_pass()
        seen.append((abs(law.sample(1).value.item()), law.side_bits))
    assert seen == [(1 / 16, 4)] * 2 + [(1 / 4, 2)] * 2 + [(1 / 2, 1)] * 4


def test_sampling_alone_does_not_move_a_ramp():
    law = after(1, Ramp(["1/16", "1/2"], every=1))
    assert {abs(law.sample(3).value[0].item()) for _ in range(20)} == {1 / 16}


def test_a_ramp_with_one_value_draws_what_two_point_draws():
    ramp, fixed = after(5, Ramp(["1/4"], every=1)), TwoPoint("1/4")
    first, again = (law.sample(64, torch.Generator().manual_seed(3)) for law in (ramp, fixed))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("values", "every", "key"),
    [([], 1, "values"), ("1/2", 1, "values"), (["1/2"], 0, "every"), (["1/2"], 1.5, "every")],
)
def test_a_ramp_without_values_or_passes_is_refused_by_config_key(values, every, key):
    with pytest.raises(ValueError, match=rf"stack\.gamma\.{key}"):
        Ramp(values, every)


@pytest.mark.parametrize(
    "make",
    [lambda: Ramp(["1/16", "1/4", "1/2"], every=2), lambda: PerBlock(["1/2", Ramp(["1/16", "1/2"], every=2), "1/4"])],
    ids=["ramp", "per block"],
)
def test_a_resumed_law_goes_on_where_the_saved_one_was(make):
    whole, first, resumed = make(), make(), make()
    after(3, first)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    assert after(3, whole).at(1).side_bits == resumed.at(1).side_bits != make().at(1).side_bits
    for law in (whole, resumed):
        after(2, law)
    assert whole.state_dict() == resumed.state_dict() and whole.at(1).side_bits == resumed.at(1).side_bits


@pytest.mark.parametrize("law", [TwoPoint(), Uniform(-0.5, 0.5), Ramp(["1/2"], every=1)], ids=str)
def test_a_law_for_all_blocks_is_the_law_of_each(law):
    assert law.at(0) is law and law.at(7) is law


def test_a_law_that_never_changes_has_nothing_to_save_and_ignores_passes():
    law = after(3, TwoPoint("1/4"))
    assert law.state_dict() == {} and law.side_bits == 2


def test_one_ramp_for_several_blocks_counts_a_pass_once():
    ramp = Ramp(["1/16", "1/2"], every=1)
    law = after(2, PerBlock([ramp, ramp, ramp, "1/4"]))
    assert ramp.passes == 2 and law.state_dict() == {"laws": [{"passes": 2}, {}]}


def test_laws_per_block_need_what_the_blocks_that_draw_need():
    law = PerBlock(["1/256", "1/2", TwoPoint("1/8")])  # block 0 takes an Euler step
    assert [law.at(k).side_bits for k in range(3)] == [8, 1, 3] and law.side_bits == 3
    assert PerBlock(["0", "1/2"]).reversible and not PerBlock(["1/2", Uniform(-1, 1)]).reversible


def test_a_block_without_a_law_is_refused_by_config_key():
    with pytest.raises(ValueError, match=r"block 2 .*2 were given; set stack\.gamma\.laws"):
        PerBlock(["1/2", "1/4"]).at(2)


@pytest.mark.parametrize("laws", [[], "1/2"])
def test_no_law_per_block_is_refused_by_config_key(laws):
    with pytest.raises(ValueError, match=r"stack\.gamma\.laws"):
        PerBlock(laws)


def test_laws_per_block_do_not_draw_without_a_block():
    with pytest.raises(TypeError, match=r"at\(k\)"):
        PerBlock(["1/2", "1/4"]).sample(3)


def test_a_fraction_stands_for_two_points_and_a_class_is_no_law():
    law = Constant(0)
    assert as_law(law) is law and repr(as_law("1/4")) == repr(TwoPoint("1/4"))
    with pytest.raises(TypeError, match="wanted a law"):
        as_law(TwoPoint)


@pytest.mark.parametrize(
    "make",
    [TwoPoint, lambda: Constant(0), lambda: Ramp(["1/4"], every=1), lambda: PerBlock(["1/2", "1/4"]).at(1)],
    ids=["two points", "constant", "ramp", "per block"],
)
def test_laws_made_on_the_meta_device_still_draw(make):
    with torch.device("meta"):
        law = make()
    gamma = law.sample(8, torch.Generator().manual_seed(0), device="cpu")
    wanted = make().sample(8, torch.Generator().manual_seed(0), device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(gamma, wanted, strict=True))


# --- a law that grows with the block ---


def test_growing_goes_up_in_powers_of_two_and_stays_at_the_last():
    law = Growing(6)
    assert [str(next(iter(law.at(k).weights))) for k in range(1, 8)] == [
        "1/32",
        "1/16",
        "1/8",
        "1/8",
        "1/4",
        "1/4",
        "1/4",
    ]
    assert law.side_bits == 5 and [law.at(k).side_bits for k in (1, 5)] == [5, 2]
    assert repr(law) == "Growing(1/32 at block 1 to 1/4 at block 5)"
    assert Growing(1).at(3).side_bits == Growing(2).at(1).side_bits == 5


@pytest.mark.parametrize(
    "settings", [{"blocks": 0}, {"blocks": 3, "first": "1/3"}, {"blocks": 3, "last": "3/4"}], ids=str
)
def test_growing_refuses_what_is_no_power_of_two(settings):
    with pytest.raises(ValueError, match=r"stack\.gamma"):
        Growing(**settings)
