"""Compose a config from `key=value` choices; what Hydra says of a wrong one becomes one line of ours."""

import re
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bdia import InvalidValueError
from bdia.build.keys import check_keys
from bdia.build.quoting import quoted
from bdia.build.signature import signature

# The files of configs/hydra/launcher have the names of the plugins' own settings, and are checked against their types.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")

_PACKAGED = Path(__file__).parents[1] / "configs"  # in an installed package; a checkout has them at its top
CONFIGS = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[3] / "configs"

# `stack.gamma=1/4` is replaced by the node of configs/gamma/quarter.yaml.
_LAW = {"_target_": "bdia.reversible.TwoPoint", "per": "sample"}
_NO_GAMMA = {"_target_": "bdia.reversible.Constant", "per": "sample"}


def compose(overrides: Sequence[str], return_hydra_config: bool = False) -> DictConfig:
    """Return configs/train.yaml with Hydra overrides, such as "model=vit_paper", "stack.keep=0" and "stack.gamma=1/4".

    Args:
        return_hydra_config: with Hydra's own node, in which a sweep stands.
    Raises:
        ValueError: no such group, file or key; a value of the wrong type. One line, which names it.
    """
    overrides = quoted(overrides)
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            cfg = hydra.compose("train", overrides=overrides, return_hydra_config=return_hydra_config)
        return completed(cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise InvalidValueError(" ".join(_plainly(error, overrides).split())) from error
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        given = next((o for o in overrides if re.fullmatch(r"\w+=[-+.\d]*", o)), overrides[0])
        group = given.partition("=")[0]
        raise InvalidValueError(f"{given}: wanted the name of a file of configs/{group}") from error


def completed(cfg: DictConfig) -> DictConfig:
    """Return a composed config with a gamma law in the place of a fraction, once all its keys are known to be read.

    Raises:
        ValueError: as `compose`.
    """
    stack = cfg.get("stack")
    gamma = stack.get("gamma") if OmegaConf.is_dict(stack) else None
    is_fraction = isinstance(gamma, str | int | float) and not isinstance(gamma, bool)
    if is_fraction and "gamma" in signature(str(stack.get("_target_")), "stack._target_").annotations:
        cfg = cfg.copy()
        cfg.stack.gamma = _law(gamma)
    check_keys(cfg)
    return cfg


def _law(gamma: str | float) -> dict[str, str]:
    """Return the node of a fraction, as the file of configs/gamma would have it: both are then the same condition."""
    if gamma in (files := sorted(path.stem for path in (CONFIGS / "gamma").glob("*.yaml"))):
        raise InvalidValueError(
            f"stack.gamma={gamma}: that is a file of configs/gamma; write gamma@stack.gamma={gamma}"
        )
    from bdia.reversible.arithmetic.gamma import as_fraction  # here: it imports torch

    try:
        fraction = as_fraction(gamma)
    except ValueError as error:
        raise InvalidValueError(f"{error}, or gamma@stack.gamma to one of {', '.join(files)}") from error
    return {**(_LAW if fraction else _NO_GAMMA), "value": str(abs(fraction))}


def _plainly(error: Exception, overrides: list[str]) -> str:
    """Return what is wrong with which override, without advice of Hydra's that does not apply here."""
    text = str(error).partition("Config search path:")[0]
    for pattern, say in _SAYINGS:
        if found := re.search(pattern, text):
            return say(found, overrides, text)
    cause = error.__cause__
    inner = str(cause).partition("\n")[0] if isinstance(cause, OmegaConfBaseException) else ""
    said = re.sub(r"Error merging override (\S+)", r"\1", text.partition("\nSee https:")[0])
    return " ".join(": ".join(filter(None, [said.strip(), inner])).split())


def _of_key(key: str, overrides: list[str]) -> str:
    """Return the last override of a key as it was given."""
    return next((o for o in reversed(overrides) if o.lstrip("+~").partition("=")[0] == key), key)


def _unknown_key(found: re.Match, overrides: list[str], text: str) -> str:
    """The key is in no file. Compose again with `+`, to see whether a class reads it."""
    given = _of_key(found[1], overrides)
    if given not in overrides:
        return f"{found[1]}: there is no such key"
    try:
        compose([f"+{given}" if o == given else o for o in overrides])
    except InvalidValueError as error:
        return str(error)
    if given.startswith("hydra."):  # Hydra's own part, which `check_keys` leaves to it
        return f"{given}: no file of configs/ has this key; write +{given} if {found[1].rpartition('.')[0]} reads it"
    return f"{given}: no file of configs/ has this key, but something reads it; write +{given}"


def _unknown_choice(found: re.Match, overrides: list[str], text: str) -> str:
    group, _, name = found[1].rpartition("/")
    keys = [o for o in overrides if o.endswith(f"={name}") and o.lstrip("+").split("=")[0].split("@")[0] == group]
    options = re.findall(r"\n\t(\S+)", text)
    near = get_close_matches(name, options, n=1)
    meant = f"did you mean {near[0]}? There are " if near else "wanted one of "
    return f"{keys[-1] if keys else found[1]}: no such file in configs/{group}; {meant}{', '.join(options) or 'none'}"


def _no_place(found: re.Match, overrides: list[str], text: str) -> str:
    given, (group, _, package) = _of_key(found[1], overrides), found[1].partition("@")
    meant = re.search(r"Did you mean to override (\S+)\?", text)
    if meant:
        return f"{given}: there is no such place; did you mean {meant[1]}?"
    part = (package or group).rpartition(".")[0] or "what was chosen"
    return f"{given}: {part} reads no {group} in this choice; leave it out or choose another {part}"


def _chosen_twice(found: re.Match, overrides: list[str], text: str) -> str:
    """The file is chosen already. Hydra names its group or a group inside it: `gamma@stack.gamma` for a stack."""
    wanted = found[1], found[1].partition("@")[2].partition(".")[0]
    given = [o for o in overrides if o.startswith("+") and o.lstrip("+").partition("=")[0] in wanted]
    return f"{given[0] if given else '+' + found[1]}: it is chosen already; leave the + out"


def _not_read(found: re.Match, overrides: list[str], text: str) -> str:
    shapeless = [o for o in overrides if not re.match(r"~|[+]{0,2}[\w./@:-]+=", o)]
    wrong = (shapeless or [o for o in overrides if f"'{o.partition('=')[2]}'" in text] or overrides)[0]
    return f"{wrong}: wanted key=value; a value with special characters is quoted, key='[a'"


_SAYINGS = (
    (r"Could not find '(\S+)'", _unknown_choice),
    (r"Could not override '(\S+@\S+)'\.", _no_place),
    (r"Could not override '(\S+)'\. No match in the defaults list", _no_place),
    (r"Could not override '(\S+)'\.", _unknown_key),
    (r"(?s)Error parsing override.*|.*override_grammar.*", _not_read),
    (r"An item is already at '(\S+)'", lambda found, *_: f"+{found[1]}: it is in the config already; leave the + out"),
    (r"Ambiguous value for argument '([^']+)'", lambda found, *_: (
        f"{found[1]}: several values are a sweep, `bdia sweep`; one list is written [a,b]"
    )),
    (r"Could not delete from config. '(\S+)'", lambda found, *_: f"~{found[1]}: there is no such key"),
    (r"(\S+) appears more than once", _chosen_twice),
    (r"Multiple values for (\S+?)\.", _chosen_twice),
)  # fmt: skip
