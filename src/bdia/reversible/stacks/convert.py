"""`convert` puts the BDIA update into the layers of any model, in place; `revert` takes it out again."""

import copy
import re
import warnings
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bdia import InvalidTypeError, InvalidValueError
from bdia.reversible.arithmetic.gamma import GammaLaw, Growing, as_law
from bdia.reversible.engine import checks
from bdia.reversible.engine.layers import Chain
from bdia.reversible.engine.settings import RecomputeSettings
from bdia.reversible.stacks.adapters import ChainSpec
from bdia.reversible.stacks.bdia import BdiaStack, BdiaUpdates
from bdia.reversible.stacks.chains import find_chains
from bdia.reversible.stacks.engage import disengage, engage, engaged

DEFAULT_BITS = 9


class ConvertedChain(BdiaUpdates):
    """The updates of one chain of a converted model.

    Attributes:
        name: where the chain stands in the model. layers: their number.
    """

    def __init__(
        self, spec: ChainSpec, root: nn.Module, gamma: GammaLaw, bits: int | Literal["auto"] | None, **settings: Any
    ) -> None:
        super().__init__(spec.layers, gamma, bits, batch_dim=spec.batch_dim, prefix="", **settings)
        self.name, self.layers = spec.name, len(spec.layers)
        self.chain = Chain(len(spec.layers) if len(spec.layers) > 1 else None)
        self._root = weakref.ref(root)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_root"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _root=lambda: None)

    def call_layer(
        self, layer: nn.Module, place: int, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """As `BdiaUpdates.call_layer`; frozen leading layers are not recomputed if no parameter needs the gradient."""
        if place == 0 and layer.training and torch.is_grad_enabled() and "input gradients" not in self.log.told:
            self._look_at_input_gradients(layer, [*args, *kwargs.values()])
        return super().call_layer(layer, place, original, args, kwargs)

    def _look_at_input_gradients(self, layer: nn.Module, given: list[Any]) -> None:
        """Notice `enable_input_require_grads()`: it is for another kind of checkpointing, and tapes frozen layers."""
        frozen = not any(parameter.requires_grad for parameter in layer.parameters())
        if frozen and given and isinstance(given[0], Tensor) and _needs_no_gradient(given[0]):
            root = self._root()
            off = root is not None and _switch_off_input_gradients(root)
            checks.tell(self.log.told, INPUT_GRADIENTS_OFF if off else INPUT_GRADIENTS_ON)

    def not_a_stream(
        self, layer: nn.Module, place: int, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Let a layer that changes the stream's shape be an ordinary one, and say so."""
        disengage(layer)
        warnings.warn(
            f"layer {place} ({type(layer).__name__}) of {self.name} returned no tensor of its first argument's shape, "
            "so that is no residual stream: it runs as an ordinary layer and stores its activations",
            checks.EngineWarning,
            stacklevel=2,
        )
        return original(*args, **kwargs)

    def __repr__(self) -> str:
        settings = f"gamma={self.gamma}, bits={self.bits}, {self.shown()}, batch_dim={self.batch_dim}"
        return f"{self.name}: {self.layers} layers, {settings}"


INPUT_GRADIENTS_OFF = (
    "input gradients: enable_input_require_grads() was switched off, from the next step on. It is meant for another "
    "kind of checkpointing, and would keep the streams of frozen leading layers"
)
INPUT_GRADIENTS_ON = (
    "input gradients: the stream asks for a gradient that reaches no parameter, so frozen leading layers are "
    "recomputed and hold their bits for it. Unless you read that gradient, call disable_input_require_grads()"
)


def _needs_no_gradient(x: Tensor, most: int = 64) -> bool:
    """Whether x asks for a gradient with no parameter behind it, as far as `most` nodes of its graph tell."""
    if not x.requires_grad:
        return False
    nodes = [x.grad_fn] if x.grad_fn is not None else []
    for node in nodes:
        if isinstance(getattr(node, "variable", None), nn.Parameter) or len(nodes) > most:
            return False
        nodes += [before for before, _ in node.next_functions if before is not None]
    return True


def _switch_off_input_gradients(root: nn.Module) -> bool:
    """Undo transformers' `enable_input_require_grads()`; whether it was on."""
    models: list[Any] = [
        module for module in root.modules() if getattr(module, "_require_grads_hook", None) is not None
    ]
    for model in models:
        model.disable_input_require_grads()
    return bool(models)


class Conversion:
    """What `convert` did.

    Attributes:
        chains: name of each chain -> number of its layers.
    """

    def __init__(self, chains: Sequence[ConvertedChain]) -> None:
        self._chains = list(chains)
        self.chains = {chain.name: chain.layers for chain in chains}

    @property
    def bits(self) -> dict[str, int | None]:
        """The grid of each chain."""
        return {chain.name: chain.bits for chain in self._chains}

    @property
    def freed_bytes(self) -> dict[str, int]:
        """Bytes of residual streams, per layer, that the last training forward did not hold for backward."""
        return {chain.name: chain.log.freed // max(chain.log.rebuilt, 1) for chain in self._chains}

    @property
    def side_bytes(self) -> dict[str, int]:
        """Bytes of side information that the last training forward held."""
        return {chain.name: chain.log.side_bytes for chain in self._chains}

    def __repr__(self) -> str:
        lines = []
        for chain in self._chains:
            freed = self.freed_bytes[chain.name]
            last = f"{freed:,} bytes freed per layer at the last input" if freed else "nothing freed yet"
            lines.append(f"  {chain!r}; {last}")
        return "\n".join(["converted to BDIA (bdia.revert undoes it):", *lines])


def convert(
    model: nn.Module,
    gamma: GammaLaw | str | float | Fraction | None = None,
    bits: int | Literal["auto"] | None = None,
    keep: int | Collection[int] = 0,
    backward: Literal["reversible", "stored"] = "reversible",
    layers: str | Sequence[str] | None = None,
    *,
    pretrained: bool = False,
    calibration: object = None,
    batch_dim: int | None = None,
    eval_gamma: float | str | Fraction = 0,
    quantize_eval: bool = False,
    verify: bool = True,
    kernel: Literal["auto", "compiled", "eager", "triton"] = "auto",
    stream: Literal["float32", "int32"] = "float32",
    save: Sequence[str] = (),
    nested: Sequence[str] = (),
    tile: Mapping[str, int] | None = None,
) -> Conversion:
    """Train the layers of a model through the BDIA update: reversibly, bit for bit. In place.

    The model's class, attributes, names and `state_dict` keys stay as they are, and so do its outputs in `eval()`. In
    training each layer takes one update when the model calls it; a layer whose stream is not what the last one
    returned starts anew. Key/value caches are off in training. Source: Zhang, Lewis, Kleijn, ICML 2025, section 4.3.

    Args:
        model: any model with a list of residual layers; with bfloat16 or float16 parameters too: see `stream`.
        gamma: a law, or a fraction for +- that value. Default: "1/2", the paper's; with `pretrained` `Growing`, from
            1/32 at the second layer to 1/4 at the last.
        bits: grid 2^-bits of the stream. Default 9, the paper's; with `pretrained` "auto": the finest grid that holds
            four times the largest value of the calibration batch, or else of the first training forward, which runs
            on 9 bits.
        keep: number of trailing layers that keep their activations, or the indices of the layers that do.
        backward: "reversible" drops and rebuilds the streams; "stored" keeps every activation (same bits).
        layers: name of the list of layers, such as "model.layers", or names of several lists, or of single layers in
            the order of their calls; None looks for them. Layers should be residual, y = x + f(x).
        pretrained: the weights were trained without BDIA: take the defaults for fine-tuning.
        calibration: a batch for bits="auto": a mapping or tuple of the model's arguments, or its one argument. It runs
            once, in eval() and without gradients.
        batch_dim: the dimension of the stream that counts samples; None asks the modules (`batch_first`).
        eval_gamma, quantize_eval, verify, kernel, stream, save, nested, tile: as in `BdiaStack`.
    Returns:
        A report: chains, layers, bytes freed at the last input.
    Raises:
        ValueError: no chain found (the message lists the candidates), a setting out of range, converted already.
        In training: GridOverflowError, ReversibilityError, and RuntimeError for what can't be trained reversibly.

        >>> import bdia, torch
        >>> model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(16, 2, batch_first=True), 4)
        >>> bdia.convert(model).chains
        {'layers': 4}
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model={model!r}: wanted a torch.nn.Module")
    if batch_dim is not None and (not isinstance(batch_dim, int) or batch_dim < 0):
        raise InvalidValueError(f"batch_dim={batch_dim!r}: wanted a dimension of the stream, 0 or more")
    if any(engaged(module) is not None for module in model.modules()):
        raise InvalidValueError(f"{type(model).__name__} is converted already: call bdia.revert(model) first")
    if any(isinstance(module, BdiaStack) for module in model.modules()):
        raise InvalidValueError(f"{type(model).__name__} holds a BdiaStack, which trains reversibly already")
    settings = {
        "recompute": RecomputeSettings(keep, save=save, nested=nested, tile=tile), "backward": backward,
        "eval_gamma": eval_gamma, "quantize_eval": quantize_eval, "verify": verify, "kernel": kernel,
        "stream": stream,
    }  # fmt: skip
    specs = find_chains(model, layers)
    if batch_dim is not None:
        specs = [spec._replace(batch_dim=batch_dim) for spec in specs]
    try:
        laws = [_law(gamma, pretrained, spec, number) for number, spec in enumerate(specs)]
        grid = ("auto" if pretrained else DEFAULT_BITS) if bits is None else bits
        chains = [ConvertedChain(spec, model, law, grid, **settings) for spec, law in zip(specs, laws, strict=True)]
    except ValueError as error:
        raise InvalidValueError(_in_arguments(str(error))) from error
    switch_off_checkpointing(model)
    if _frozen_start(specs) and _switch_off_input_gradients(model):
        warnings.warn(INPUT_GRADIENTS_OFF.replace(", from the next step on", ""), checks.EngineWarning, stacklevel=2)
    if calibration is not None:
        _calibrate(model, specs, chains, calibration)
        for chain in chains:
            chain.choose_bits()
    for spec, chain in zip(specs, chains, strict=True):
        for place, layer in enumerate(spec.layers):
            engage(layer, chain, place)
    return Conversion(chains)


def _frozen_start(specs: Sequence[ChainSpec]) -> bool:
    return not any(parameter.requires_grad for spec in specs for parameter in spec.layers[0].parameters())


def revert(model: nn.Module) -> int:
    """Undo `convert`: the layers are ordinary ones again. Returns their number."""
    layers = [module for module in model.modules() if engaged(module) is not None]
    for layer in layers:
        disengage(layer)
    return len(layers)


def _calibrate(model: nn.Module, specs: Sequence[ChainSpec], chains: Sequence[ConvertedChain], batch: object) -> None:
    """Run the ordinary model once, and note the largest value of each chain's streams."""

    def note(chain: ConvertedChain, values: object) -> None:
        tensors = [t for t in tree_leaves(values) if isinstance(t, Tensor) and t.is_floating_point() and t.numel()]
        chain.log.largest = max([chain.log.largest, *(t.abs().max().item() for t in tensors[:1])])

    hooks = []
    for spec, chain in zip(specs, chains, strict=True):
        for layer in spec.layers:
            for register in (layer.register_forward_pre_hook, layer.register_forward_hook):
                hooks.append(register(lambda *given, chain=chain: note(chain, given[-1])))
    training = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()
            if isinstance(batch, Mapping):
                model(**batch)
            else:
                model(*batch) if isinstance(batch, tuple) else model(batch)
    finally:
        for module, was in training.items():
            module.training = was
        for hook in hooks:
            hook.remove()


def _law(gamma: Any, pretrained: bool, spec: ChainSpec, number: int) -> GammaLaw:
    """Return the law of one chain; one that counts passes is the caller's own for the first chain, else a copy."""
    if gamma is None and pretrained:
        return Growing(spec.length or len(spec.layers))
    law = as_law("1/2" if gamma is None else gamma)
    return copy.deepcopy(law) if number else law


def _in_arguments(message: str) -> str:
    """Name arguments where a message names config keys."""
    return re.sub(r"\bstack\.(\w+)", r"\1", message)


def switch_off_checkpointing(model: nn.Module) -> None:
    """Switch off activation checkpointing that is on: the layers free their activations by themselves.

    transformers sets `gradient_checkpointing` on its modules, timm `grad_checkpointing`.
    """
    names = ("gradient_checkpointing", "grad_checkpointing")
    on = [(m, name) for m in model.modules() for name in names if getattr(m, name, False) is True]
    for module, name in on:
        setattr(module, name, False)
    if on:
        warnings.warn(
            f"{type(model).__name__}: activation checkpointing was on and is switched off: converted layers free their "
            "activations by themselves",
            checks.EngineWarning,
            stacklevel=3,
        )
