"""1,797 real images of handwritten digits that come with scikit-learn, for demos and tests without a network.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998),
the part that `sklearn.datasets.load_digits` embeds.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits

from bdia.data.images.module import Arrays, ImageDataModule, check_images, pick_per_class
from bdia.data.loader import seeded_generator

COUNT = 1797
TEST_FRACTION = 0.2


class DigitsDataModule(ImageDataModule):
    """The digits as 3 x 32 x 32: grey levels 0..16 scaled to 0..255, each pixel repeated 4 x 4, three equal channels.

    The test set is a fifth of every class, the same for every `seed`. Mirrored digits are no digits: `augmentation` is
    "none" unless it is set.
    """

    name = "digits"
    class_names = tuple("0123456789")
    mean = (0.3054,) * 3  # of the 1,438 images that are not test images
    std = (0.3758,) * 3

    def __init__(self, augmentation: str = "none", **protocol):
        """Set the protocol: the keywords of `ImageDataModule`."""
        super().__init__(augmentation=augmentation, **protocol)

    def load(self) -> tuple[Arrays, Arrays]:
        """Build both splits from the package's copy."""
        raw = load_digits()
        grey = np.round(raw.images * (255 / 16)).astype(np.uint8)
        images = np.repeat(grey.repeat(4, axis=1).repeat(4, axis=2)[:, None], 3, axis=1)
        labels = raw.target.astype(np.int64)
        check_images(images, labels, COUNT, self.num_classes, "sklearn.datasets.load_digits")
        test = self._test_images(torch.from_numpy(labels)).numpy()
        return (images[~test], labels[~test]), (images[test], labels[test])

    def _test_images(self, labels: torch.Tensor) -> torch.Tensor:
        counts = (torch.bincount(labels) * TEST_FRACTION).round().long()
        return pick_per_class(labels, counts, seeded_generator("digits test set"))
