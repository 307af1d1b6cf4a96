"""Made-up restaurants in the form of the E2E data: a stand-in without files, for tests and smoke runs.

Attributes and sentences are written here; nothing of the E2E data is among them.
"""

from itertools import product
from pathlib import Path

import torch

from bdia import InvalidValueError
from bdia.data.loader import seeded_generator
from bdia.data.text.splits import SPLITS, Pair, Pairs

NAMES = ("The Green Door", "Bella Riva", "The Old Mill", "Golden Spoon", "Casa Luna", "The Anchor")
KINDS = ("restaurant", "pub", "cafe")
FOODS = ("Italian", "French", "Indian", "Japanese", "English")
PRICES = ("cheap", "moderate", "high")
AREAS = ("harbour", "old town", "station")
TEMPLATES = (
    "{name} is a {kind} near the {area}. It serves {food} food at {price} prices.",
    "Near the {area} you find {name}, a {kind} with {food} food. Its prices are {price}.",
    "The {kind} {name} serves {food} food near the {area}; prices are {price}.",
)


class MadeUpRestaurants:
    """Every combination of the attributes is one meaning representation; it has as many sentences as TEMPLATES.

    A meaning representation is in one split only, and a smaller size is the beginning of a larger one.

    Args:
        train, val, test: meaning representations per split.
        seed: of the split.
    Raises:
        ValueError: a size below 1, or more than there are; names the config key.
    """

    def __init__(self, train: int = 200, val: int = 20, test: int = 20, seed: int = 0) -> None:
        self.sizes, self.seed = {"train": train, "val": val, "test": test}, seed
        self.combinations = list(product(NAMES, KINDS, FOODS, PRICES, AREAS))
        room = len(self.combinations) // len(SPLITS)
        for split, size in self.sizes.items():
            if not 1 <= size <= room:
                raise InvalidValueError(
                    f"{split}={size}: wanted 1..{room} made-up restaurants; set data.source.{split}"
                )

    def load(self, data_dir: Path) -> Pairs:
        """Make the pairs; `data_dir` is not looked at."""
        order = torch.randperm(len(self.combinations), generator=seeded_generator("restaurants", self.seed))
        parts = dict(zip(SPLITS, order.chunk(len(SPLITS)), strict=True))
        return {
            split: [pair for number in parts[split][:size].tolist() for pair in _pairs(*self.combinations[number])]
            for split, size in self.sizes.items()
        }


def _pairs(name: str, kind: str, food: str, price: str, area: str) -> list[Pair]:
    meaning = f"name[{name}], eatType[{kind}], food[{food}], priceRange[{price}], near[{area}]"
    return [(meaning, text.format(name=name, kind=kind, food=food, price=price, area=area)) for text in TEMPLATES]
