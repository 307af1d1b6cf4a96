"""Order, resumption and sharing of the resident loader, alone and inside a Lightning fit."""

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from bdia.data.images.augment import Compose, Normalize, RandomCropFlip
from bdia.data.images.loader import ResidentLoader

COUNT = 45


def make_loader(count=COUNT, batch_size=8, shuffle_seed=0, **share):
    """Labels are image numbers, so that a test sees which images a batch holds."""
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    normalize = Normalize((0.5,) * 3, (0.25,) * 3)
    transform = normalize if shuffle_seed is None else Compose(RandomCropFlip(), normalize)
    return ResidentLoader(images, torch.arange(count), batch_size, shuffle_seed, transform, **share)


def epoch_of(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return list(loader)


def numbers(batches):
    return torch.cat([labels for _, labels in batches]).tolist()


def assert_same_batches(found, wanted):
    assert len(found) == len(wanted)
    for (images, labels), (wanted_images, wanted_labels) in zip(found, wanted, strict=True):
        assert torch.equal(images, wanted_images)
        assert torch.equal(labels, wanted_labels)


def test_the_same_seed_gives_the_same_batches_whatever_else_draws_random_numbers():
    wanted = epoch_of(make_loader(), 3)
    torch.manual_seed(99)
    found = []
    loader = make_loader()
    loader.sampler.set_epoch(3)
    for batch in loader:
        torch.rand(7)
        found.append(batch)
    assert_same_batches(found, wanted)


def test_every_epoch_holds_every_image_once_in_another_order_with_the_last_short_batch():
    loader = make_loader()
    epochs = [epoch_of(loader, epoch) for epoch in range(3)]
    assert [sorted(numbers(batches)) for batches in epochs] == [list(range(COUNT))] * 3
    assert len({tuple(numbers(batches)) for batches in epochs}) == 3
    assert [len(labels) for _, labels in epochs[0]] == [8, 8, 8, 8, 8, 5]
    assert len(loader) == 6


def test_another_seed_gives_another_order():
    assert numbers(epoch_of(make_loader(shuffle_seed=1), 0)) != numbers(epoch_of(make_loader(shuffle_seed=0), 0))


def test_every_seed_epoch_batch_and_rank_augments_with_its_own_random_numbers():
    def drawn(seed, epoch, rank):
        loader = make_loader(count=32, shuffle_seed=seed, rank=rank, world_size=2)
        loader.transform = lambda images, generator: torch.rand(1, generator=generator).item()
        return [number for number, _ in epoch_of(loader, epoch)]

    numbers = [number for seed in (0, 1) for epoch in (0, 1) for rank in (0, 1) for number in drawn(seed, epoch, rank)]
    assert len(set(numbers)) == len(numbers) == 16


def test_batches_are_float32_images_and_int64_labels():
    images, labels = next(iter(make_loader()))
    assert (images.shape, images.dtype) == ((8, 3, 32, 32), torch.float32)
    assert (labels.shape, labels.dtype) == ((8,), torch.int64)


def test_evaluation_keeps_the_stored_order_and_passes_can_be_repeated():
    loader = make_loader(shuffle_seed=None)
    assert numbers(loader) == list(range(COUNT))
    assert_same_batches(list(loader), list(loader))


@pytest.mark.parametrize("used", range(7))
def test_a_loaded_position_continues_with_the_next_batch_bit_for_bit(used):
    wanted = epoch_of(make_loader(), 2)
    interrupted = make_loader()
    interrupted.sampler.set_epoch(2)
    batches = iter(interrupted)
    for _ in range(used):
        next(batches)
    state = interrupted.state_dict()
    resumed = make_loader()
    resumed.load_state_dict(state)
    iter(resumed)  # Lightning calls iter() without taking a batch before it sets the epoch
    assert resumed.state_dict() == state
    assert_same_batches(epoch_of(resumed, 2), wanted[used:])
    assert_same_batches(epoch_of(resumed, 3), epoch_of(make_loader(), 3))


def test_a_position_at_the_end_of_an_epoch_resumes_at_the_start_of_the_next():
    loader = make_loader()
    epoch_of(loader, 4)
    resumed = make_loader()
    resumed.load_state_dict(loader.state_dict())
    assert_same_batches(epoch_of(resumed, 5), epoch_of(make_loader(), 5))


def test_resuming_inside_an_epoch_with_another_batch_size_is_refused_by_name():
    loader = make_loader()
    next(iter(loader))
    resumed = make_loader(batch_size=9)
    resumed.load_state_dict(loader.state_dict())
    with pytest.raises(ValueError, match=r"'batch_size': 8.*'batch_size': 9.*data\.batch_size"):
        next(iter(resumed))


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_training_ranks_cover_the_epoch_with_equally_many_images(world_size):
    shares = [numbers(epoch_of(make_loader(rank=rank, world_size=world_size), 1)) for rank in range(world_size)]
    assert {len(share) for share in shares} == {-(-COUNT // world_size)}
    everything = [number for share in shares for number in share]
    assert set(everything) == set(range(COUNT))
    assert len(everything) - len(set(everything)) == -COUNT % world_size


@pytest.mark.parametrize(("count", "world_size"), [(45, 2), (33, 2), (17, 2), (45, 3), (31, 3)])
def test_evaluation_ranks_hold_every_image_once_in_equally_many_batches(count, world_size):
    shares = [list(make_loader(count, shuffle_seed=None, rank=r, world_size=world_size)) for r in range(world_size)]
    assert sorted(number for share in shares for number in numbers(share)) == list(range(count))
    assert len({len(share) for share in shares}) == 1
    sizes = [len(numbers(share)) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert all(1 <= len(labels) <= 8 for share in shares for _, labels in share)


class Recorder(lightning.LightningModule):
    """Notes which batches it was trained on; saves a checkpoint where told."""

    def __init__(self, save_at=None, path=None):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen, self.save_at, self.path = [], save_at, path

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch_idx, batch[0].clone(), batch[1].clone()))
        return self.layer(batch[0].mean().view(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        pass

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.save_at == (self.current_epoch, batch_idx):
            self.trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self):
        if self.save_at == (self.current_epoch, "end"):
            self.trainer.save_checkpoint(self.path)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(model, val_loaders, checkpoint=None):
    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, make_loader(), val_loaders, ckpt_path=checkpoint)
    return model.seen


@pytest.mark.parametrize("validation", [True, False])
@pytest.mark.parametrize("save_at", [(0, 0), (1, 2), (0, 5), (1, 5), (0, "end"), (1, "end")])
@pytest.mark.filterwarnings("ignore")
def test_a_resumed_fit_sees_the_batches_that_the_uninterrupted_fit_saw(tmp_path, save_at, validation):
    val_loaders = DataLoader(torch.zeros(2, 1)) if validation else []
    path = tmp_path / "saved.ckpt"
    wanted = fit(Recorder(save_at, path), val_loaders)
    assert len(wanted) == 3 * 6
    epoch, batch = save_at
    used = epoch * 6 + (6 if batch == "end" else batch + 1)
    found = fit(Recorder(), val_loaders, path)
    assert [step[:2] for step in found] == [step[:2] for step in wanted[used:]]
    assert_same_batches([step[2:] for step in found], [step[2:] for step in wanted[used:]])
