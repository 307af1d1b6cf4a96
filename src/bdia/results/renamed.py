"""Names of classes in configs: what older records and checkpoints call them, and what they are called now.

A config names a class in `_target_`. Up to commit 5bfc52e that was the module inside the package, which moved later.
Readers of records and checkpoints go through `with_public_names`. A config's hash is taken over `with_hashed_names`, so
that the hash of an old config is the one in its record, and a finished run is not run again because a file moved.
"""

from collections.abc import Callable, Mapping
from typing import Any

PUBLIC_NAME = {  # old name -> public name; one to one
    "bdia.data.cifar.CifarDataModule": "bdia.data.CifarDataModule",
    "bdia.data.digits.DigitsDataModule": "bdia.data.DigitsDataModule",
    "bdia.data.documents.Pydoc": "bdia.data.Pydoc",
    "bdia.data.documents.TextFiles": "bdia.data.TextFiles",
    "bdia.data.documents.TokenFile": "bdia.data.TokenFile",
    "bdia.data.e2e.E2eFiles": "bdia.data.E2eFiles",
    "bdia.data.hub.HubPairs": "bdia.data.HubPairs",
    "bdia.data.hub.HubText": "bdia.data.HubText",
    "bdia.data.numbers.Numbers": "bdia.data.Numbers",
    "bdia.data.pairs.ParallelFiles": "bdia.data.ParallelFiles",
    "bdia.data.pairs.TabSeparated": "bdia.data.TabSeparated",
    "bdia.data.prompts.PromptDataModule": "bdia.data.PromptDataModule",
    "bdia.data.restaurants.MadeUpRestaurants": "bdia.data.MadeUpRestaurants",
    "bdia.data.text.TokenDataModule": "bdia.data.TokenDataModule",
    "bdia.data.tokenizer.Bytes": "bdia.data.Bytes",
    "bdia.data.tokenizer.CorpusBpe": "bdia.data.CorpusBpe",
    "bdia.data.tokenizer.Gpt2Bpe": "bdia.data.Gpt2Bpe",
    "bdia.data.tokenizer.SavedTokenizer": "bdia.data.SavedTokenizer",
    "bdia.data.translation.TranslationDataModule": "bdia.data.TranslationDataModule",
    "bdia.loggers.csv": "bdia.train.csv_logger",
    "bdia.loggers.wandb": "bdia.train.wandb_logger",
    "bdia.measure.History": "bdia.callbacks.History",
    "bdia.measure.PeakMemory": "bdia.callbacks.PeakMemory",
    "bdia.measure.ReversibilityCheck": "bdia.callbacks.ReversibilityCheck",
    "bdia.measure.StepTimer": "bdia.callbacks.StepTimer",
    "lightning.pytorch.callbacks.ModelCheckpoint": "bdia.callbacks.Checkpoint",
}
HASHED_NAME = {public: old for old, public in PUBLIC_NAME.items()}


def with_public_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config (plain dicts and lists) in which every `_target_` is a public name."""
    return _renamed(config, lambda name: PUBLIC_NAME.get(name, name))


def with_hashed_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config whose `_target_`s are the names that its hash is taken over."""
    return _renamed(config, lambda name: HASHED_NAME.get(name, name))


def _renamed(node: Any, rename: Callable[[str], str]) -> Any:
    if isinstance(node, Mapping):
        return {
            key: rename(value) if key == "_target_" and isinstance(value, str) else _renamed(value, rename)
            for key, value in node.items()
        }
    return [_renamed(value, rename) for value in node] if isinstance(node, list | tuple) else node
