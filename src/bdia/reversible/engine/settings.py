"""What a recomputed block keeps, and which of its submodules are recomputed once more or run in parts."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from bdia import InvalidValueError
from bdia.reversible.engine.recompute import saved_operations
from bdia.reversible.engine.token_wise import check_token_wise


@dataclass(frozen=True)
class RecomputeSettings:
    """What blocks keep for backward instead of being recomputed, and what is recomputed once more.

    Args:
        keep: number of trailing blocks that keep their activations (the last one's backward runs first anyway), or
            the indices of the blocks that do.
        memory_budget: peak memory of a whole training step that `keep` is to be chosen for, such as "12GiB", or a
            fraction of the standard stack's; `bdia.profiling.fit_to_memory` does that before training.
        save: kinds of operations ("attention", "matmul") whose outputs a recomputed block keeps.
        nested: names of a block's submodules ("attn", "mlp") that are recomputed once more, one at a time, while the
            block's gradients are computed: less memory than one whole block, for a second recomputation.
        tile: name -> number of parts of a submodule, which run one after another and are recomputed one at a time.
            Parts are tiles of tokens, so the submodule must work token by token; or what a module makes of it in a
            method `forward_in_parts`, as this project's attention does with its heads. All blocks run in parts in
            training, those that keep their activations too, so that `keep` changes no bit.

    In `nested` and `tile`, "norm2+mlp" names the submodule mlp with the norm before it: the norm's input is kept, and
    its output computed again.
    """

    keep: int | Collection[int] = 1
    memory_budget: str | float | None = None
    save: Sequence[str] = ()
    nested: Sequence[str] = ()
    tile: Mapping[str, int] | None = None

    def checked(self, layers: Sequence[nn.Module], prefix: str = "stack.") -> "RecomputeSettings":
        """Return the settings as tuples and a dictionary of their own.

        Args:
            layers: of the chain.
            prefix: stands before a setting's name in messages: "stack." for config keys, "" for arguments.
        Raises:
            ValueError: no such block, operation or submodule; a submodule that cannot run in tiles of tokens.
        """
        kept_blocks(self.keep, len(layers), prefix)
        saved_operations(self.save, prefix)
        nested = check_names(layers, "nested", self.nested, self.nested, prefix)
        tile = check_tile(layers, self.tile, prefix)
        _check_same_names(nested, tile, prefix)
        return RecomputeSettings(self.keep, self.memory_budget, tuple(self.save), nested, tile)


def kept_blocks(keep: int | Collection[int], depth: int, prefix: str = "stack.") -> frozenset[int]:
    """Return the indices of the blocks that keep their activations.

    Args:
        keep: number of trailing blocks (more than there are: all), or the indices themselves.
        depth: number of blocks.
        prefix: stands before the setting's name in messages, here and below.
    Raises:
        ValueError: a negative number, or an index of no block.
    """
    if isinstance(keep, int) and not isinstance(keep, bool) and keep >= 0:
        return frozenset(range(max(0, depth - keep), depth))
    if (
        isinstance(keep, Collection)
        and not isinstance(keep, str)
        and all(type(k) is int and 0 <= k < depth for k in keep)
    ):
        return frozenset(keep)
    raise InvalidValueError(
        f"keep={keep!r}: wanted a number of blocks, or indices from 0 to {depth - 1}; set {prefix}keep"
    )


def check_names(
    blocks: Sequence[nn.Module], key: str, value: object, names: Collection[str], prefix: str = "stack."
) -> tuple[str, ...]:
    """Return the names of submodules, each once.

    Args:
        key, value: the setting, for messages.
    Raises:
        ValueError: a block has no such submodule; one of them lies in another, which already recomputes it.
    """
    for k, block in enumerate(blocks):
        held = {name for name, _ in block.named_modules() if name}
        if isinstance(names, str) or not {part for name in names for part in name.split("+", 1)} <= held:
            top = sorted(name for name in held if "." not in name)
            raise InvalidValueError(
                f'{key}={value!r}: wanted submodules of block {k}: {top}, or two of them such as "norm2+mlp"; '
                f"set {prefix}{key}"
            )
    last = [name.rpartition("+")[2] for name in dict.fromkeys(names)]
    for name in last:
        if any(name.startswith(f"{other}.") for other in last) or last.count(name) > 1:
            raise InvalidValueError(
                f"{key}={value!r}: {name} lies in another of them: name only one; set {prefix}{key}"
            )
    return tuple(dict.fromkeys(names))


def check_tile(blocks: Sequence[nn.Module], tile: Mapping[str, int] | None, prefix: str = "stack.") -> dict[str, int]:
    """Return name -> number of parts.

    Raises:
        ValueError: no mapping of numbers from 1 on; what `check_names` refuses; a submodule that mixes tokens.
    """
    tile = {} if tile is None else tile
    counts = dict(tile) if isinstance(tile, Mapping) else {}
    if not isinstance(tile, Mapping) or any(type(count) is not int or count < 1 for count in counts.values()):
        raise InvalidValueError(f"tile={tile!r}: wanted submodules with numbers of parts, {{mlp: 4}}; set {prefix}tile")
    check_names(blocks, "tile", counts, counts, prefix)
    for name in counts:
        for block in blocks:
            check_token_wise(name, block.get_submodule(name.rpartition("+")[2]), prefix)
    return counts


def _check_same_names(nested: Collection[str], tile: Collection[str], prefix: str) -> None:
    """Refuse "mlp" in one of the two beside "norm2+mlp" in the other."""
    for name in nested:
        last = name.rpartition("+")[2]
        others = [other for other in tile if other.rpartition("+")[2] == last and other != name]
        if others:
            raise InvalidValueError(
                f"nested={list(nested)!r} and tile name {last} differently, {others!r}: give both the same name; set "
                f"{prefix}nested"
            )
