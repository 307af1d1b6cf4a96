"""The embedded digits."""

import numpy as np
import torch
from sklearn.datasets import load_digits

from bdia.data.images.digits import DigitsDataModule


def make_digits(**protocol):
    module = DigitsDataModule(**protocol)
    module.setup()
    return module


def test_digits_are_1797_images_of_ten_classes_in_three_splits():
    module = make_digits(val_fraction=0.1)
    assert module.sizes == {"train": 1295, "val": 143, "test": 359}
    assert sum(module.sizes.values()) == 1797
    assert module.num_classes == 10
    for images, labels in module.splits.values():
        assert (images.shape[1:], images.dtype) == ((3, 32, 32), torch.uint8)
        assert sorted(set(labels.tolist())) == list(range(10))


def test_a_digit_is_its_grey_levels_scaled_and_each_pixel_repeated():
    (train, _), (test, _) = DigitsDataModule().load()
    found = np.concatenate([train, test])
    assert found.max() == 255
    assert np.array_equal(found[:, 0], found[:, 1])
    blocks = found[:, 0].reshape(-1, 8, 4, 8, 4)
    assert np.array_equal(blocks, np.broadcast_to(blocks[:, :, :1, :, :1], blocks.shape))
    levels = np.round(blocks[:, :, 0, :, 0] * (16 / 255))
    wanted = load_digits().images
    assert sorted(map(bytes, levels.astype(np.uint8))) == sorted(map(bytes, wanted.astype(np.uint8)))


def test_the_test_set_is_the_same_for_every_seed_and_balanced():
    first, second = make_digits(seed=0), make_digits(seed=1)
    assert torch.equal(first.splits["test"][0], second.splits["test"][0])
    assert not torch.equal(first.splits["val"][0], second.splits["val"][0])
    assert torch.bincount(first.splits["test"][1]).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]


def test_normalised_training_digits_have_zero_mean_and_unit_deviation():
    images = torch.cat([batch for batch, _ in make_digits(val_fraction=0).train_dataloader()])
    assert abs(images.mean()) < 1e-3
    assert abs(images.std() - 1) < 1e-3
