"""Batches by length: whole epochs, budget, padding, constant number, resumption."""

import random

import pytest
import torch

from bdia.data.text.buckets import BucketLoader, cut, halved
from bdia.data.text.table import TokenTable
from helpers.cuda_waits import refused_waits

COUNT, BUDGET = 500, 400


def make_sequences(count=COUNT, seed=0):
    """Source and target sequences of related lengths 1..40, of ids 1..99."""
    rng = random.Random(seed)
    sources = [[rng.randint(1, 99) for _ in range(min(40, 1 + int(rng.expovariate(0.1))))] for _ in range(count)]
    targets = [[rng.randint(1, 99) for _ in range(max(1, len(ids) + rng.randint(-3, 4)))] for ids in sources]
    return sources, targets


def make_loader(budget=BUDGET, shuffle_seed=0, count=COUNT, device="cpu", rank=0, world_size=1):
    source, target = (TokenTable.of(side).to(device) for side in make_sequences(count))
    return BucketLoader(source, target, budget, shuffle_seed, "data.token_budget", rank, world_size)


def make_ranks(world_size, **settings):
    return [make_loader(rank=rank, world_size=world_size, **settings) for rank in range(world_size)]


def epoch_of(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return list(loader)


def numbers(batches):
    return [number for *_, index in batches for number in index.tolist()]


def assert_same_batches(found, wanted):
    assert len(found) == len(wanted)
    for tensors, others in zip(found, wanted, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(tensors, others, strict=True))


@pytest.mark.parametrize("shuffle_seed", [0, 1, None])
def test_every_epoch_holds_every_pair_once_in_equally_many_batches(shuffle_seed):
    loader = make_loader(shuffle_seed=shuffle_seed)
    for epoch in range(6):
        batches = epoch_of(loader, epoch)
        assert len(batches) == len(loader)
        assert sorted(numbers(batches)) == list(range(COUNT))


@pytest.mark.parametrize("shuffle_seed", [0, None])
def test_a_batch_is_its_pairs_padded_on_the_right_with_zeros(shuffle_seed):
    sequences = make_sequences()
    for *sides, index in epoch_of(make_loader(shuffle_seed=shuffle_seed), 1):
        assert index.dtype == torch.int64
        for side, texts in zip(sides, sequences, strict=True):
            wanted = [torch.tensor(texts[number]) for number in index.tolist()]
            assert side.dtype == torch.int64
            assert torch.equal(side, torch.nn.utils.rnn.pad_sequence(wanted, batch_first=True))


@pytest.mark.parametrize("shuffle_seed", [0, None])
@pytest.mark.parametrize("budget", [84, 100, 1000, 10**6])
def test_no_batch_exceeds_the_budget_in_any_epoch(shuffle_seed, budget):
    loader = make_loader(budget, shuffle_seed)
    for epoch in range(3):
        assert all(source.numel() + target.numel() <= budget for source, target, _ in epoch_of(loader, epoch))


def test_training_batches_are_well_filled():
    batches = list(make_loader(budget=1000, count=3000))
    held = sum(source.numel() + target.numel() for source, target, _ in batches)
    tokens = sum(int((side != 0).sum()) for *sides, _ in batches for side in sides)
    assert tokens / held > 0.75
    assert tokens / len(batches) > 0.8 * 1000


def test_epochs_differ_in_the_order_of_batches_and_in_the_pairs_that_meet():
    loader = make_loader(count=3000)
    first, second = (epoch_of(loader, epoch) for epoch in (0, 1))
    assert numbers(first) != numbers(second)
    together = [{frozenset(index.tolist()) for *_, index in batches} for batches in (first, second)]
    # Long pairs are rare: theirs meet again.
    assert len(together[0] & together[1]) < 0.1 * len(loader)
    again = sum(max(len(batch & other) for other in together[1]) for batch in together[0])
    assert again < 0.5 * 3000
    lengths = [source.shape[1] for source, *_ in first]
    assert lengths != sorted(lengths)


def test_the_order_depends_on_seed_and_epoch_alone():
    wanted = epoch_of(make_loader(), 3)
    torch.manual_seed(99)
    loader = make_loader()
    epoch_of(loader, 0)
    torch.rand(7)
    assert_same_batches(epoch_of(loader, 3), wanted)
    assert numbers(epoch_of(make_loader(shuffle_seed=1), 3)) != numbers(wanted)


def test_evaluation_comes_in_order_of_length_and_can_be_repeated():
    loader = make_loader(shuffle_seed=None)
    first, second = epoch_of(loader, 0), epoch_of(loader, 1)
    assert_same_batches(first, second)
    lengths = [source.shape[1] for source, *_ in first]
    assert lengths == sorted(lengths)


@pytest.mark.parametrize("used", [0, 1, 7, -1])
def test_a_loaded_position_continues_with_the_next_batch_bit_for_bit(used):
    wanted = epoch_of(make_loader(), 2)
    used %= len(wanted)
    interrupted = make_loader()
    interrupted.sampler.set_epoch(2)
    batches = iter(interrupted)
    for _ in range(used):
        next(batches)
    resumed = make_loader()
    resumed.load_state_dict(interrupted.state_dict())
    assert_same_batches(epoch_of(resumed, 2), wanted[used:])
    assert_same_batches(epoch_of(resumed, 3), epoch_of(make_loader(), 3))


@pytest.mark.parametrize("world_size", [5, 7, 8])
def test_training_ranks_take_turns_at_the_batches_of_one_device(world_size):
    loaders = make_ranks(world_size)
    shares = [epoch_of(loader, 2) for loader in loaders]
    assert {len(share) for share in shares} == {len(loader) for loader in loaders}
    alone = epoch_of(make_loader(), 2)
    assert len(alone) % world_size  # else nothing wraps around
    dealt = [batch for turn in zip(*shares, strict=True) for batch in turn]
    assert_same_batches(dealt, alone + alone[: len(dealt) - len(alone)])
    assert len(dealt) - len(alone) < world_size


def test_more_ranks_than_batches_take_some_twice():
    shares = [epoch_of(loader, 0) for loader in make_ranks(5, budget=10**6)]
    assert [len(share) for share in shares] == [1] * 5
    assert all(sorted(numbers(share)) == list(range(COUNT)) for share in shares)


@pytest.mark.parametrize("budget", [84, BUDGET, 10**6])
@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_evaluation_ranks_hold_every_pair_once_in_equally_many_batches(world_size, budget):
    loaders = make_ranks(world_size, shuffle_seed=None, budget=budget)
    shares = [epoch_of(loader, 0) for loader in loaders]
    assert sorted(number for share in shares for number in numbers(share)) == list(range(COUNT))
    assert {len(share) for share in shares} == {len(loader) for loader in loaders}
    assert all(source.numel() + target.numel() <= budget for share in shares for source, target, _ in share)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_continues_with_its_next_batch_bit_for_bit(rank):
    wanted = epoch_of(make_loader(rank=rank, world_size=2), 2)
    first = make_loader(rank=0, world_size=2)  # whose position is saved for all
    first.sampler.set_epoch(2)
    batches = iter(first)
    for _ in range(5):
        next(batches)
    resumed = make_loader(rank=rank, world_size=2)
    resumed.load_state_dict(first.state_dict())
    assert_same_batches(epoch_of(resumed, 2), wanted[5:])


def test_a_position_saved_before_batches_were_dealt_is_that_of_one_device():
    loader = make_loader()
    next(iter(loader))
    state = {key: value for key, value in loader.state_dict().items() if key != "world_size"}
    resumed = make_loader()
    resumed.load_state_dict(state)
    assert_same_batches(epoch_of(resumed, 0), epoch_of(make_loader(), 0)[1:])


@pytest.mark.parametrize(
    ("sizes", "count", "wanted"),
    [
        ([5, 3], 1, [5, 3]),
        ([5, 3], 2, [5, 3]),
        ([5, 3], 3, [3, 2, 3]),
        ([1, 2, 1], 4, [1, 1, 1, 1]),
        ([7], 3, [2, 2, 3]),
    ],
)
def test_the_largest_batches_are_halved_until_all_ranks_have_as_many(sizes, count, wanted):
    assert halved(sizes, count, "data.eval_token_budget") == wanted


def test_pairs_that_cannot_be_shared_out_evenly_are_refused_by_key():
    with pytest.raises(ValueError, match=r"3 batches of one pair for 2 devices.*data\.eval_token_budget higher"):
        halved([1, 1, 1], 2, "data.eval_token_budget")


@pytest.mark.parametrize("change", [{"budget": 500}, {"shuffle_seed": 1}, {"count": 499}, {"world_size": 2}])
def test_resuming_inside_an_epoch_with_another_plan_is_refused_by_key(change):
    loader = make_loader()
    next(iter(loader))
    resumed = make_loader(**change)
    resumed.load_state_dict(loader.state_dict())
    with pytest.raises(ValueError, match=r"cannot resume inside epoch 0.*data\.token_budget.*data\.seed"):
        next(iter(resumed))


def test_a_pair_longer_than_the_budget_is_refused_by_number_and_key():
    sides = TokenTable.of([[1], [1] * 7, [1]]), TokenTable.of([[1], [1] * 8, [1]])
    assert len(BucketLoader(*sides, 15, 0, "data.token_budget")) == 2
    message = (
        r"pair 1 has 15 tokens, more than token_budget=14: set data\.token_budget to at least 15 or data\.max_length"
    )
    with pytest.raises(ValueError, match=message):
        BucketLoader(*sides, 14, 0, "data.token_budget")
    with pytest.raises(ValueError, match=r"set data\.eval_token_budget to at least 15$"):
        BucketLoader(*sides, 14, None, "data.eval_token_budget")


@pytest.mark.parametrize(
    ("lengths", "budget", "sizes"),
    [
        ([(1, 1)] * 5, 4, [2, 2, 1]),
        ([(1, 1), (1, 3)], 8, [2]),
        ([(1, 1), (1, 3)], 7, [1, 1]),
        ([(1, 3), (2, 1)], 10, [2]),  # both sides are padded to their own longest
        ([(1, 3), (2, 1)], 9, [1, 1]),
        ([(9, 9), (9, 9)], 4, [1, 1]),
    ],
)
def test_a_batch_takes_pairs_while_both_padded_sides_fit(lengths, budget, sizes):
    assert cut(lengths, budget) == sizes


def test_a_table_keeps_the_sequences_where_it_is_told_to():
    table = TokenTable.of([[1, 2], [3], [4, 5, 6]]).where(torch.tensor([True, False, True]))
    assert table.padded(torch.tensor([1, 0]), 3).tolist() == [[4, 5, 6], [1, 2, 0]]
    assert table.nbytes == 5 * 4 + 2 * (8 + 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_cuda_equal_those_on_the_cpu():
    found = epoch_of(make_loader(device="cuda"), 1)
    assert all(tensor.is_cuda for batch in found for tensor in batch)
    assert_same_batches([[tensor.cpu() for tensor in batch] for batch in found], epoch_of(make_loader(), 1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_batch_waits_for_the_device():
    batches = iter(make_loader(device="cuda"))
    next(batches)  # the order of the epoch is moved before it
    with refused_waits():
        assert len(list(batches)) > 5
