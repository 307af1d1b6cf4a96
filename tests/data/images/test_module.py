"""Splits, subsets and checks of the image data modules, on small made-up data sets; every data config."""

import hydra
import lightning
import numpy as np
import pytest
import torch

from bdia.data.errors import DataCorruptError
from bdia.data.images.module import ImageDataModule, check_images
from helpers.places import CONFIGS


class NumberedDataModule(ImageDataModule):
    """Three unequal classes; the first two pixels of an image hold its number, so that images can be told apart."""

    name = "numbered"
    class_names = ("few", "more", "most")
    mean, std = (0.0,) * 3, (1 / 255,) * 3

    def load(self):
        return make_numbered([20, 40, 60], 0), make_numbered([5, 5, 5], 1000)


def make_numbered(counts, first):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    images = np.zeros((len(labels), 3, 32, 32), np.uint8)
    number = first + np.arange(len(labels))
    images[:, 0, 0, 0], images[:, 0, 0, 1] = number % 256, number // 256
    return images, labels


def make_module(**protocol):
    module = NumberedDataModule(**{"augmentation": "none", "batch_size": 8, **protocol})
    module.setup()
    return module


def numbers(images):
    pixels = images[:, 0, 0, :2].round().long()
    return (pixels[:, 0] + 256 * pixels[:, 1]).tolist()


def split_numbers(module, split):
    return numbers(module.splits[split][0])


def class_counts(module, split):
    return torch.bincount(module.splits[split][1]).tolist()


def test_train_and_validation_part_the_training_set_and_test_is_left_whole():
    module = make_module(val_fraction=0.1)
    train, val, test = (split_numbers(module, split) for split in ("train", "val", "test"))
    assert sorted(train + val) == list(range(120))
    assert test == list(range(1000, 1015))
    assert module.sizes == {"train": 108, "val": 12, "test": 15}


def test_validation_takes_the_same_share_of_every_class():
    assert class_counts(make_module(val_fraction=0.1), "val") == [2, 4, 6]


def test_images_keep_their_labels_through_split_subset_and_shuffle():
    images, labels = make_numbered([20, 40, 60], 0)
    label_of = dict(zip(numbers(torch.from_numpy(images)), labels.tolist(), strict=True))
    module = make_module(train_per_class=10)
    for loader in (module.train_dataloader(), module.val_dataloader()):
        for batch, batch_labels in loader:
            assert [label_of[number] for number in numbers(batch)] == batch_labels.tolist()


@pytest.mark.parametrize("per_class", [1, 7, 18])
def test_a_subset_has_exactly_that_many_images_of_every_class_and_the_same_validation(per_class):
    whole, subset = make_module(), make_module(train_per_class=per_class)
    assert class_counts(subset, "train") == [per_class] * 3
    assert set(split_numbers(subset, "train")) <= set(split_numbers(whole, "train"))
    assert split_numbers(subset, "val") == split_numbers(whole, "val")


@pytest.mark.parametrize("per_class", [19, 0])
def test_a_subset_larger_than_a_class_names_value_class_and_key(per_class):
    with pytest.raises(ValueError, match=rf"train_per_class is {per_class}.*1\.\.18.*'few'.*data\.train_per_class"):
        make_module(train_per_class=per_class)


def test_the_seed_decides_the_subset_where_nothing_is_held_out():
    first, again, other = (make_module(train_per_class=10, val_fraction=0, seed=seed) for seed in (0, 0, 1))
    assert split_numbers(first, "train") == split_numbers(again, "train") != split_numbers(other, "train")


def test_the_seed_decides_split_subset_and_order():
    first, again, other = (make_module(train_per_class=10, seed=seed) for seed in (0, 0, 1))
    for split in ("train", "val"):
        assert split_numbers(first, split) == split_numbers(again, split)
        assert split_numbers(first, split) != split_numbers(other, split)
    orders = [torch.cat([labels for _, labels in module.train_dataloader()]) for module in (first, again, other)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_no_validation_share_trains_on_everything_and_has_no_validation_loader():
    module = make_module(val_fraction=0)
    assert module.sizes == {"train": 120, "val": 0, "test": 15}
    assert split_numbers(module, "train") == list(range(120))
    assert module.val_dataloader() == []


def test_only_training_batches_are_augmented():
    module = make_module(augmentation="crop_flip", val_fraction=0.5)
    whole = {split: module.splits[split][0].float().sum().item() for split in ("train", "val")}
    found = {
        "train": sum(images.sum().item() for images, _ in module.train_dataloader()),
        "val": sum(images.sum().item() for images, _ in module.val_dataloader()),
    }
    assert found["val"] == pytest.approx(whole["val"])
    assert found["train"] != pytest.approx(whole["train"])  # crops cut the numbered corner off


def test_setup_reads_the_images_once():
    module = make_module()
    kept = module.splits["train"][0]
    module.setup("test")
    assert module.splits["train"][0] is kept


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ({"val_fraction": 1.0}, r"1\.0.*data\.val_fraction"),
        ({"val_fraction": -0.1}, r"-0\.1.*data\.val_fraction"),
        ({"augmentation": "mixup"}, r"'mixup'.*crop_flip, none.*data\.augmentation"),
    ],
)
def test_values_out_of_range_name_value_and_key(protocol, message):
    with pytest.raises(ValueError, match=message):
        NumberedDataModule(**protocol)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((4, 32, 32, 3), np.uint8), np.zeros(4, int), r"images are \(4, 32, 32, 3\)"),
        (np.zeros((4, 3, 32, 32), np.float32), np.zeros(4, int), r"float32, wanted"),
        (np.zeros((3, 3, 32, 32), np.uint8), np.zeros(3, int), r"wanted \(4, 3, 32, 32\)"),
        (np.zeros((4, 3, 32, 32), np.uint8), np.zeros(3, int), r"labels are \(3,\)"),
        (np.zeros((4, 3, 32, 32), np.uint8), np.zeros(4, float), r"float64, wanted \(4,\) integers"),
        (np.zeros((4, 3, 32, 32), np.uint8), np.array([0, 1, 2, 10]), r"0\.\.10, wanted 0\.\.9"),
        (np.zeros((4, 3, 32, 32), np.uint8), np.array([0, 1, 2, -1]), r"-1\.\.2, wanted 0\.\.9"),
    ],
)
def test_wrong_arrays_are_corrupt_data_and_the_file_is_named(images, labels, message):
    with pytest.raises(DataCorruptError, match="some/file.npz.*" + message):
        check_images(images, labels, 4, 10, "some/file.npz")


class Counter(lightning.LightningModule):
    """Counts images per stage."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.counts = {"train": 0, "val": 0, "test": 0}

    def training_step(self, batch, batch_idx):
        self.counts["train"] += len(batch[1])
        return self.layer(batch[0].mean().view(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        self.counts["val"] += len(batch[1])

    def test_step(self, batch, batch_idx):
        self.counts["test"] += len(batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.parametrize("val_fraction", [0, 0.1])
@pytest.mark.filterwarnings("ignore")
def test_a_trainer_fits_and_tests_on_the_sizes_stated(val_fraction):
    module, model = NumberedDataModule(batch_size=8, val_fraction=val_fraction), Counter()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", num_sanity_val_steps=0, enable_model_summary=False, **quiet
    )
    trainer.fit(model, datamodule=module)
    trainer.test(model, datamodule=module, verbose=False)
    sizes = module.sizes
    assert model.counts == {"train": 2 * sizes["train"], "val": 2 * sizes["val"], "test": sizes["test"]}


def build(config):
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = hydra.compose(overrides=[f"+data={config}", "+seed=3", "+paths.runs=runs"])
    return hydra.utils.instantiate(composed.data)


@pytest.mark.parametrize("config", sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml")))
def test_every_data_config_builds(config):
    assert isinstance(build(config), lightning.LightningDataModule)


@pytest.mark.parametrize("config", ["cifar10", "cifar100", "digits"])
def test_image_configs_take_the_seed_of_the_run(config):
    assert build(config).seed == 3
