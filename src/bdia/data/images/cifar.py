"""CIFAR-10 and CIFAR-100: 50,000 training and 10,000 test images of 3 x 32 x 32, in official order.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009).
"""

import http.client
import zipfile
import zlib
from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from bdia import InvalidValueError
from bdia.data.errors import DataCorruptError, DataNotFoundError
from bdia.data.images.module import Arrays, ImageDataModule, check_images

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# fmt: off
CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
    "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
    "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
    "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
    "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
)
# fmt: on
# Per data set: torchvision's reader (with the official file names and md5 sums), class names, mean and std per channel.
DATA_SETS = {
    "cifar10": (CIFAR10, CIFAR10_CLASSES, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": (CIFAR100, CIFAR100_CLASSES, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
COUNTS = {"train": 50_000, "test": 10_000}


class CifarDataModule(ImageDataModule):
    """CIFAR-10 or CIFAR-100 (fine labels), from the first of these that is there:

    1. `<data_dir>/<name>.npz` with arrays train_x, train_y, test_x, test_y;
    2. the official files, unpacked in `<data_dir>/cifar-10-batches-py` or `cifar-100-python`, md5 checked;
    3. the official archive in `data_dir`, md5 checked, unpacked by `prepare_data`;
    4. the official archive from the network, if `download` is true.
    A damaged npz file is an error. Damaged official files, as an interrupted download leaves them, are unpacked or
    fetched again where the archive or `download` allows it, and are an error otherwise.
    """

    def __init__(self, name: str, data_dir: str | Path = "data", download: bool = True, **protocol):
        """Set the source.

        Args:
            name: "cifar10" or "cifar100".
            data_dir: folder of the sources above, and of the download.
            download: whether `prepare_data` may use the network.
            protocol: keywords of `ImageDataModule`.
        Raises:
            ValueError: an unknown name.
        """
        super().__init__(**protocol)
        if name not in DATA_SETS:
            raise InvalidValueError(f"name is {name!r}, wanted one of {', '.join(DATA_SETS)}: change data.name")
        self.name, self.data_dir, self.download = name, Path(data_dir), download
        self.reader, self.class_names, self.mean, self.std = DATA_SETS[name]
        self.npz = self.data_dir / f"{name}.npz"
        self.folder = self.data_dir / self.reader.base_folder
        self.archive = self.data_dir / self.reader.filename

    def prepare_data(self) -> None:
        """Unpack the official archive, fetching it first if that is allowed and needed.

        Raises:
            DataNotFoundError: the download failed.
        """
        if self.npz.exists() or self._official_files_are_whole():
            return
        if self.download or check_integrity(str(self.archive), self.reader.tgz_md5):
            try:
                self.reader(self.data_dir, train=False, download=True)
            except (OSError, http.client.HTTPException, RuntimeError) as error:
                raise DataNotFoundError(f"the download of {self.reader.url} failed: {error}. {self._help()}") from error

    def load(self) -> tuple[Arrays, Arrays]:
        """Read both splits from the npz file or the unpacked official files.

        Raises:
            DataNotFoundError: neither is there. DataCorruptError: what is there is damaged.
        """
        if self.npz.exists():
            source, splits = self.npz, self._read_npz()
        elif self._official_files_are_whole():
            source, splits = self.folder, self._read_official_files()
        else:
            raise self._missing()
        try:
            for (images, labels), count in zip(splits, COUNTS.values(), strict=True):
                check_images(images, labels, count, self.num_classes, source)
        except DataCorruptError as error:
            raise DataCorruptError(f"{error}. {self._help()}") from error
        return splits

    def _official_files_are_whole(self) -> bool:
        meta = [self.reader.meta["filename"], self.reader.meta["md5"]]
        files = [*self.reader.train_list, *self.reader.test_list, meta]
        return all(check_integrity(str(self.folder / name), md5) for name, md5 in files)

    def _read_official_files(self) -> tuple[Arrays, Arrays]:
        train, test = (self.reader(self.data_dir, train=flag) for flag in (True, False))
        return tuple(
            (np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.asarray(part.targets)) for part in (train, test)
        )

    def _read_npz(self) -> tuple[Arrays, Arrays]:
        try:
            with self.npz.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return (stored["train_x"], stored["train_y"]), (stored["test_x"], stored["test_y"])
        except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise DataCorruptError(f"{self.npz} cannot be read: {error}. {self._help()}") from error

    def _missing(self) -> Exception:
        for path, part in ((self.folder, "a file"), (self.archive, "the archive")):
            if path.exists():
                return DataCorruptError(f"{path}: {part} is missing, cut off or has a wrong md5 sum. {self._help()}")
        return DataNotFoundError(f"{self.name} was not found. {self._help()}")

    def _help(self) -> str:
        arrays = [f"{k}_x ({n}, 3, 32, 32) uint8, {k}_y ({n},) integers" for k, n in COUNTS.items()]
        return (
            f"Looked in {str(self.data_dir)!r} for {self.npz.name}, {self.folder.name}/ and {self.archive.name}. "
            "Provide the data in one of three ways: "
            f"(1) allow the download: a network and data.download=true (now {str(self.download).lower()}); "
            f"(2) put the official archive {self.archive.name} (md5 {self.reader.tgz_md5}) there; "
            f"(3) put {self.npz.name} there, with arrays {', '.join(arrays)}. "
            "The folder is set by data.data_dir or the environment variable BDIA_DATA."
        )
