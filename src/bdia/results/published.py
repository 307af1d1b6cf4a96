"""What others published, as data: accuracies and peak memory by data set and stack, and the setting behind them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any

from bdia.results.variants import class_name, stack_class, task_class
from bdia.reversible.stacks import registry

TABLE_1 = "paper, Table 1"
TABLE_2 = "paper, Table 2"
STUDENT = "student implementation"  # independent, RTX 4060 laptop, float32, 400 epochs, one seed, best epoch

# The forms of the stacks that have published figures; for BDIA (class, gamma law, gamma, bits).
HALF_ON_GRID = (registry.BDIA.class_name, "TwoPoint", Fraction(1, 2), 9)
HALF_IN_FLOAT = (registry.BDIA.class_name, "TwoPoint", Fraction(1, 2), None)
ZERO_IN_FLOAT = (registry.BDIA.class_name, "Constant", Fraction(0), None)
STANDARD, REVVIT = (registry.STANDARD.class_name,), (registry.REVVIT.class_name,)
# The form that a stack has with the settings of its YAML file.
FORM_OF_STACK = {
    registry.STANDARD.name: STANDARD,
    registry.REVVIT.name: REVVIT,
    registry.BDIA.name: HALF_ON_GRID,
}


@dataclass(frozen=True)
class Published:
    """A published figure: accuracy in %, peak memory as text with its unit (the sources mix MB and MiB)."""

    data: str
    form: tuple[Any, ...]
    accuracy: float
    memory: str | None
    source: str


PUBLISHED = (
    Published("cifar10", STANDARD, 88.15, "1570.6 MB", TABLE_1),
    Published("cifar10", REVVIT, 86.22, "572.7 MB", TABLE_1),
    Published("cifar10", HALF_ON_GRID, 89.10, "693.4 MB", TABLE_1),
    Published("cifar100", STANDARD, 61.86, "1570.6 MB", TABLE_1),
    Published("cifar100", REVVIT, 61.89, "572.7 MB", TABLE_1),
    Published("cifar100", HALF_ON_GRID, 66.09, "693.4 MB", TABLE_1),
    Published("cifar10", ZERO_IN_FLOAT, 88.15, None, TABLE_2),
    Published("cifar10", HALF_IN_FLOAT, 89.12, None, TABLE_2),
    Published("cifar10", STANDARD, 88.52, "1508 MiB", STUDENT),
    Published("cifar10", REVVIT, 86.87, "730 MiB", STUDENT),
    Published("cifar10", HALF_ON_GRID, 88.97, "909 MiB", STUDENT),
)


@dataclass(frozen=True)
class Wanted:
    """One entry of the paper's setting: the config key, the wanted value as text, and a test of a value."""

    key: str
    text: str
    agrees: Callable[[Any], bool]


def _equals(key: str, value: Any) -> Wanted:
    return Wanted(key, str(value), lambda seen: seen == value)


IMAGE_SETTING = (
    _equals("model.net.width", 512),
    _equals("model.net.patch_size", 4),
    _equals("model.net.depth", 6),
    _equals("model.net.heads", 8),
    _equals("model.net.head_dim", 64),
    _equals("model.net.mlp_hidden", 512),
    _equals("model.net.dropout", 0.1),
    Wanted("model.net.tokenizer._target_", "shifted patches", lambda seen: seen == "ShiftedPatchEmbed"),
    Wanted("model.net.attention._target_", "locality self-attention", lambda seen: seen == "LocalitySelfAttention"),
    Wanted("data.train_per_class", "all 50,000 images", lambda seen: seen is None),
    _equals("data.val_fraction", 0),
    _equals("data.batch_size", 128),
    _equals("data.augmentation", "crop_flip"),
    Wanted("trainer.max_epochs", "300 to 400", lambda seen: isinstance(seen, int) and seen >= 300),
    Wanted("optimizer._target_", "SET-Adam", lambda seen: str(seen).endswith("SetAdam")),
    _equals("optimizer.lr", 1e-4),
    Wanted("scheduler._target_", "cosine to zero", lambda seen: seen == "cosine"),
    Wanted("trainer.precision", "float32", lambda seen: str(seen) in ("32-true", "32")),
)
PAPER_SETTING = {
    "ImageClassification": IMAGE_SETTING,
    "Translation": (_equals("model.net.encoder_depth", 6), _equals("model.net.decoder_depth", 6)),
    "LanguageModeling": (_equals("model.net.depth", 12),),
}
# Tasks for which the paper shows curves and no numbers.
CURVES_ONLY = {
    "Translation": "The paper's translation (Fig. 4): 6 + 6 blocks, English to French, data set not named, no numbers.",
    "LanguageModeling": "The paper's GPT-2 (Fig. 5): 12 blocks on 0.05 % of OpenWebText, no numbers.",
}


def data_name(config: Mapping[str, Any]) -> str:
    """Return the name of the data set: a text's source, `data.name`, or the data module's class ("digits")."""
    data = config.get("data") or {}
    if isinstance(data.get("source"), Mapping):
        return _source_name(data["source"])
    return str(data.get("name") or class_name(data).removesuffix("DataModule").lower() or "unknown data")


def _source_name(source: Mapping[str, Any]) -> str:
    """Return what the source reads, e.g. "Helsinki-NLP/opus_books"; the name of its class if it reads nothing."""
    paths = source.get("paths") or [source[key] for key in ("name", "folder", "file", "path") if source.get(key)]
    if isinstance(paths, str) or not paths:
        return str(paths or class_name(source))
    return ", ".join("/".join(PurePosixPath(str(path)).parts[-2:]) for path in paths)


def published(config: Mapping[str, Any]) -> list[Published]:
    """Return the published figures for a config's data and stack, the paper's own first; [] if there are none.

    There are none for runs that start from trained weights.
    """
    if config.get("weights"):
        return []
    return [row for row in PUBLISHED if (row.data, row.form) == (data_name(config), form_of(config))]


def paper_row(config: Mapping[str, Any]) -> Published | None:
    """Return the paper's own figure for a config, or None."""
    own = [row for row in published(config) if row.source != STUDENT]
    return own[0] if own else None


def setting_differences(config: Mapping[str, Any]) -> list[str]:
    """Return what differs from the paper's setting of the same task, e.g. "width 128 (paper: 512)"; [] at its scale."""
    found = [(wanted, _entry(config, wanted.key)) for wanted in PAPER_SETTING.get(task_class(config), ())]
    return [
        f"{_short(wanted.key)} {'not recorded' if seen is None else seen} (paper: {wanted.text})"
        for wanted, seen in found
        if not wanted.agrees(seen)
    ]


def form_of(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the form of a config's stack, to compare with `STANDARD`, `HALF_ON_GRID` and the others."""
    if stack_class(config) != registry.BDIA.class_name:
        on_grid = config["stack"].get("grid_bits") is not None  # RevViT as published is in float
        return (stack_class(config), "on a grid") if on_grid else (stack_class(config),)
    gamma = config["stack"].get("gamma")
    if not isinstance(gamma, Mapping):  # the config of a run that failed on it
        return (registry.BDIA.class_name, None)
    law = class_name(gamma) if gamma.get("per", "sample") == "sample" else None  # the paper draws per sample
    return (registry.BDIA.class_name, law, _fraction(gamma.get("value")), config["stack"].get("bits"))


def _fraction(value: Any) -> Fraction | None:
    try:
        return Fraction(str(value))
    except (ValueError, ZeroDivisionError):  # the config of a run that failed on it
        return None


def _entry(config: Mapping[str, Any], key: str) -> Any:
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return str(node).rpartition(".")[2] if key.endswith("._target_") and node else node


def _short(key: str) -> str:
    return key.removesuffix("._target_").rpartition(".")[2]
