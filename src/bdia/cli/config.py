"""Show the config that choices compose to, as YAML. Nothing runs and torch is not imported.

Usage: bdia config [group=file ...] [key=value ...]

Keys are those of `bdia train`.

Examples:
  bdia config
  bdia config experiment=table1_cifar10 stack=revvit
"""

from collections.abc import Sequence


def run(argv: Sequence[str]) -> None:
    """Print it."""
    from omegaconf import OmegaConf

    from bdia.build import compose

    print(OmegaConf.to_yaml(compose(argv)), end="")
