r"""Carry only the CIFAR images that some runs read, as lossless WebP sheets; the arrays keep their full shape.

    python scripts/gpu_kit/cifar_part.py pack --runs "table1_cifar10 long 0,5" "bits_cifar10 few 0,1" \
        --data FULL --sheets OUT
    python scripts/gpu_kit/cifar_part.py unpack --sheets OUT --data PART
    python scripts/gpu_kit/cifar_part.py check --runs "table1_cifar10 long 0,5" --data FULL --part PART

`pack` writes every test image and those training images that the runs, given as study, scale and seeds, train or
validate on; they are of one data set. `unpack` writes `<name>.npz`: all other training images are zero. `check`
compares what the runs read.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bdia.build import build_data, compose
from bdia.data.images.module import ImageDataModule
from bdia.train.studies import overrides_of

SIDE, ROW, SHEET = 32, 100, 10_000  # pixels of an image, images in a row, images on a sheet


def modules(runs: Sequence[str], folder: Path) -> Iterator[tuple[str, ImageDataModule]]:
    """Yield the name and the data module of each run; nothing is read yet."""
    for words in runs:
        study, scale, seeds = words.split()
        for seed in seeds.split(","):
            choices = [*overrides_of(study, scale), f"seed={seed}", f"data.data_dir={folder}", "data.download=false"]
            yield f"{study} {scale} {seed}", build_data(compose(choices))


def needed(runs: Sequence[str], folder: Path, labels: torch.Tensor) -> np.ndarray:
    """Return the numbers of the training images that any of the runs trains or validates on."""
    wanted = torch.zeros(len(labels), dtype=torch.bool)
    for _, data in modules(runs, folder):
        held_out = data._held_out(labels)
        wanted |= held_out | data._kept(labels, ~held_out)
    return wanted.nonzero().flatten().numpy()


def write_sheets(images: np.ndarray, folder: Path, name: str) -> None:
    """Write images (N, 3, 32, 32) as `<name>_<i>.webp`, 10,000 a sheet; the last row is filled up with black."""
    for i, part in enumerate(np.split(images, range(SHEET, len(images), SHEET))):
        rows = -(-len(part) // ROW)
        padded = np.zeros((rows * ROW, 3, SIDE, SIDE), np.uint8)
        padded[: len(part)] = part
        sheet = padded.reshape(rows, ROW, 3, SIDE, SIDE).transpose(0, 3, 1, 4, 2).reshape(rows * SIDE, ROW * SIDE, 3)
        Image.fromarray(sheet).save(folder / f"{name}_{i}.webp", lossless=True, quality=90, method=4)


def read_sheets(folder: Path, name: str, count: int) -> np.ndarray:
    """Read back the first `count` images that `write_sheets` wrote."""
    parts = []
    for i in range(-(-count // SHEET)):
        with Image.open(folder / f"{name}_{i}.webp") as file:
            sheet = np.asarray(file.convert("RGB"))
        rows = len(sheet) // SIDE
        parts.append(sheet.reshape(rows, SIDE, ROW, SIDE, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, SIDE, SIDE))
    return np.concatenate(parts)[:count]


def pack(runs: Sequence[str], full: Path, sheets: Path) -> None:
    """Write the sheets and `<name>_index.npz`: the labels, and which training image each tile is."""
    name = next(modules(runs, full))[1].name
    sheets.mkdir(parents=True, exist_ok=True)
    with np.load(full / f"{name}.npz") as stored:
        labels = {key: stored[key] for key in ("train_y", "test_y")}
        index = needed(runs, full, torch.from_numpy(labels["train_y"]).long())
        write_sheets(stored["train_x"][index], sheets, f"{name}_train")
        write_sheets(stored["test_x"], sheets, f"{name}_test")
    np.savez_compressed(sheets / f"{name}_index.npz", index=index, **labels)
    size = sum(path.stat().st_size for path in sheets.glob(f"{name}_*")) / 2**20
    print(f"{name}: {len(index)} of {len(labels['train_y'])} training images, {size:.1f} MiB")


def unpack(sheets: Path, part: Path) -> None:
    """Write `<name>.npz` of every data set that was packed; not compressed, so that many runs read it quickly."""
    part.mkdir(parents=True, exist_ok=True)
    for path in sorted(sheets.glob("*_index.npz")):
        name = path.name.removesuffix("_index.npz")
        with np.load(path) as stored:
            index, train_y, test_y = stored["index"], stored["train_y"], stored["test_y"]
        train_x = np.zeros((len(train_y), 3, SIDE, SIDE), np.uint8)
        train_x[index] = read_sheets(sheets, f"{name}_train", len(index))
        test_x = read_sheets(sheets, f"{name}_test", len(test_y))
        np.savez(part / f".{name}.npz", train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y)
        (part / f".{name}.npz").replace(part / f"{name}.npz")
        print(f"unpacked {part / name}.npz")


def check(runs: Sequence[str], full: Path, part: Path) -> None:
    """Raise SystemExit unless every split of every run is equal in both folders."""
    for (name, whole), (_, packed) in zip(modules(runs, full), modules(runs, part), strict=True):
        whole.setup()
        packed.setup()
        for split in ("train", "val", "test"):
            for wanted, found in zip(whole.splits[split], packed.splits[split], strict=True):
                if not torch.equal(wanted, found):
                    raise SystemExit(f"{name}: the {split} split differs")
        print(f"{name}: equal, {whole.sizes}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("pack", "unpack", "check"))
    parser.add_argument("--runs", nargs="+", help="study, scale and seeds of each, in quotes")
    parser.add_argument("--data", type=Path, required=True, help="folder of the npz files")
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--part", type=Path)
    asked = parser.parse_args()
    if asked.verb == "pack":
        pack(asked.runs, asked.data, asked.sheets)
    elif asked.verb == "unpack":
        unpack(asked.sheets, asked.data)
    else:
        check(asked.runs, asked.data, asked.part)


if __name__ == "__main__":
    main()
