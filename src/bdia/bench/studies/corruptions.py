"""Corruptions of test images: noise, blur and JPEG, each at two strengths.

Shapes: N images of 3 x 32 x 32, uint8.
"""

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

Corruption = Callable[[Tensor], Tensor]  # images (N, 3, 32, 32) uint8 -> the same shape and type
SEED = 0  # of the noise: every model sees the same


def _noise(std: float) -> Corruption:
    def corrupt(images: Tensor) -> Tensor:
        drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(SEED))
        return (images + 255 * std * drawn).round().clamp(0, 255).to(torch.uint8)

    return corrupt


def _blur(sigma: float) -> Corruption:
    return lambda images: gaussian_blur(images, [5, 5], [sigma, sigma])


def _jpeg(quality: int) -> Corruption:
    def through_a_file(image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file)).transpose(2, 0, 1)

    return lambda images: torch.from_numpy(np.stack([through_a_file(image) for image in images.numpy()]))


# Name -> corruption. Noise in units of the full range, blur in pixels, JPEG by its quality.
CORRUPTIONS: dict[str, Corruption] = {
    "noise 0.04": _noise(0.04),
    "noise 0.10": _noise(0.10),
    "blur 0.7": _blur(0.7),
    "blur 1.2": _blur(1.2),
    "JPEG 50": _jpeg(50),
    "JPEG 15": _jpeg(15),
}
