"""Image transforms against slow per-image loops."""

import pytest
import torch

from bdia.data.images.augment import AUGMENTATIONS, Compose, Normalize, RandomCropFlip


def make_images(count=16, side=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def reference_crop_flip(images, padding, top, left, mirrored):
    """One image, one padded copy and one slice at a time."""
    side, out = images.shape[-1], []
    for image, row, column, mirror in zip(images, top.tolist(), left.tolist(), mirrored.tolist(), strict=True):
        padded = torch.zeros(3, side + 2 * padding, side + 2 * padding, dtype=torch.uint8)
        padded[:, padding : padding + side, padding : padding + side] = image
        window = padded[:, row : row + side, column : column + side]
        out.append(torch.stack([window[:, :, side - 1 - i] for i in range(side)], 2) if mirror else window)
    return torch.stack(out)


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("side", [8, 32])
def test_crop_flip_equals_a_loop_over_images(padding, side):
    images, transform = make_images(side=side), RandomCropFlip(padding)
    drawn = transform.draw(len(images), torch.Generator().manual_seed(3))
    found = transform(images, torch.Generator().manual_seed(3))
    assert found.dtype == torch.uint8
    assert torch.equal(found, reference_crop_flip(images, padding, *drawn))


def test_offsets_cover_their_whole_range_and_half_of_the_images_are_mirrored():
    top, left, mirrored = RandomCropFlip(padding=4).draw(10_000, torch.Generator().manual_seed(0))
    assert set(top.tolist()) == set(left.tolist()) == set(range(9))
    assert 0.48 < mirrored.float().mean() < 0.52
    assert not torch.equal(top, left)


def test_the_same_generator_seed_gives_the_same_batch_and_another_seed_another():
    images, transform = make_images(), RandomCropFlip()
    first, again, other = (transform(images, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_transform_leaves_its_input_unchanged():
    images = make_images()
    Compose(RandomCropFlip(), Normalize((0.5,) * 3, (0.2,) * 3))(images, torch.Generator().manual_seed(0))
    assert torch.equal(images, make_images())


def test_normalize_gives_zero_mean_and_unit_deviation_per_channel():
    images = make_images(64)
    scaled = images.double() / 255
    mean, std = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3))
    found = Normalize(mean.tolist(), std.tolist())(images)
    wanted = (scaled - mean[:, None, None]) / std[:, None, None]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted.float(), rtol=0, atol=1e-6)  # float32: values up to 2, two roundings


def test_augmentation_none_keeps_the_pixels():
    assert torch.equal(Compose(*AUGMENTATIONS["none"])(make_images(), None), make_images())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_crop_flip_on_cuda_equals_a_loop_over_images():
    images, transform = make_images().cuda(), RandomCropFlip()
    drawn = transform.draw(len(images), torch.Generator("cuda").manual_seed(3))
    found = transform(images, torch.Generator("cuda").manual_seed(3))
    assert torch.equal(found.cpu(), reference_crop_flip(images.cpu(), 4, *drawn))
