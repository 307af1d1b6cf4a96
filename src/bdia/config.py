"""Where the configs lie, and how a command or a test gets one that `python -m bdia.train` would have."""

from collections.abc import Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig

CONFIGS = Path(__file__).parents[2] / "configs"


def compose(overrides: Sequence[str], return_hydra_config: bool = False) -> DictConfig:
    """Return configs/train.yaml with Hydra overrides, such as "model=vit_paper" and "stack.keep=0".

    Args:
        return_hydra_config: with Hydra's own node, in which a sweep stands.
    Raises:
        hydra.errors.ConfigCompositionException, hydra.errors.MissingConfigException: no such group, file or key.
    """
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose("train", overrides=list(overrides), return_hydra_config=return_hydra_config)
