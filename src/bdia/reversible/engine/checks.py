"""What the engine refuses or warns of, and in which words. `prefix` is "stack." under Hydra, "" for arguments."""

import warnings

import torch
from torch import Tensor
from torch._C import _functorch

from bdia import UnsupportedError
from bdia.reversible.arithmetic.grid import ReversibilityError


class EngineWarning(UserWarning):
    """Training goes on and is exact, but something makes it slower, larger or not reversible."""


EVALUATION = (
    "evaluation mode: gradients flow through layers in eval(). There gamma is 0, the model is the standard "
    "transformer, and every activation is stored. Call train() to train reversibly"
)


OUTER_CHECKPOINT = (
    "a reversible layer runs inside another activation checkpoint (activation_checkpointing_enable(), "
    "gradient_checkpointing_enable(), set_grad_checkpointing(), torch.utils.checkpoint, another reversible stack "
    "around it): the reversible layer frees activations by itself. Switch the other one off: "
    "activation_checkpointing_disable() or gradient_checkpointing_disable(), set_grad_checkpointing(False), or no "
    "checkpoint around the layers"
)
PAST_THE_STACK = (
    "past the stack: a block was called without its reversible stack in training, so it trains as an ordinary one. "
    "Call the stack, or loop over it or over a slice of it, or use bdia.convert on the model"
)


def tell(told: set[str], text: str) -> None:
    """Warn, once for each kind of text (the words before its colon) in `told`."""
    kind = text.split(":")[0]
    if kind not in told:
        told.add(kind)
        warnings.warn(text, EngineWarning, stacklevel=2)


def consumed(prefix: str) -> str:
    """A state that backward needs was released, by an earlier backward or by design."""
    return (
        "second backward through one forward of a reversible stack, or a gradient that does not pass the stack's "
        "output: the states it needs were released. Run the forward again, sum the losses, or set "
        f"{prefix}backward=stored (RevViT: take another stack)"
    )


def changed_in_place(k: int, prefix: str) -> str:
    """A state that backward needs has other values now."""
    return (
        f"the residual stream x_{k}, returned by layer {k - 1}, was modified by an inplace operation afterwards. "
        f"Backward needs it: write x = x + ... instead of x += ..., or set {prefix}backward=stored"
    )


def graph_of_gradient(prefix: str) -> str:
    """Released states cannot be differentiated twice."""
    return f"create_graph=True needs stored activations: set {prefix}backward=stored (or use StandardStack)"


def not_repeated(block: int, prefix: str, raised: Exception | None = None) -> ReversibilityError:
    """Return the error for a block whose recomputation differs from its forward, or raises."""
    seen = "what backward recomputed differs from the forward pass"
    if raised is not None:
        seen = f"it ran in forward, but raised {type(raised).__name__} ({raised}) when backward recomputed it"
    return ReversibilityError(
        f"block {block}: {seen}, so the residual stream rebuilt below it would be wrong and so would the gradients. "
        "Usual causes: a non-deterministic kernel (torch.use_deterministic_algorithms finds it), a block that changes "
        "its own state, its input or a list it was given, randomness that is not torch's, a parameter changed between "
        f"forward and backward. {prefix}backward=stored (RevViT: another stack) trains such a block"
    )


def held_differently(k: int, prefix: str) -> ReversibilityError:
    """Return the error for a stream that is not what forward left in memory."""
    return ReversibilityError(
        f"x_{k} changed between forward and backward, though no operation of torch wrote to it: something else writes "
        f"to this memory (NumPy, an extension, `.data`), or it is faulty. {prefix}verify=false leaves the check out"
    )


def held_states(held: list[int], dropped: int) -> str:
    """Say which states stay in memory because somebody else holds them."""
    names = ", ".join(f"x_{k}" for k in held[:8]) + (", ..." if len(held) > 8 else "")
    return (
        f"held states: {len(held)} of {dropped} residual streams that the engine dropped are held by something else "
        f"(a hook, an attribute, output_hidden_states=True): {names}. They keep their values, and their memory"
    )


def refuse_shared_out(x: Tensor) -> None:
    """Raise RuntimeError for a stream that several processes share out as a DTensor."""
    if hasattr(x, "device_mesh"):
        raise UnsupportedError(
            f"the residual stream is a DTensor, {getattr(x, 'placements', '')}: the step works on the numbers that a "
            "process holds. Let the layers take and return ordinary tensors (in a plan for parallelize_module: "
            "use_local_output=True, no SequenceParallel), or use a StandardStack, or bdia.revert"
        )


def refuse_batched(grad: Tensor) -> None:
    """Raise RuntimeError for gradients that torch.func or is_grads_batched batches."""
    if _functorch.is_functorch_wrapped_tensor(grad) or _functorch.is_legacy_batchedtensor(grad):
        raise UnsupportedError(
            "is_grads_batched and vmap do not go through a reversible stack: take one gradient at a time, or use a "
            "StandardStack, or bdia.revert on a copy of the model"
        )


def refuse_transforms() -> None:
    """Raise RuntimeError inside torch.func.grad, vmap, jvp and the like."""
    if _functorch.peek_interpreter_stack() is not None:
        raise UnsupportedError(
            "torch.func transforms (grad, vmap, jvp) do not go through a reversible stack: use a StandardStack, or "
            "bdia.revert on a copy of the model"
        )


def refuse_outer_checkpoint(starts_at: int | None) -> None:
    """Raise RuntimeError for a layer that somebody else's checkpointing runs.

    Args:
        starts_at: the layer's place in its chain where it starts a new pass, None where it goes on with one.
    """
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    inside = hooks is not None and getattr(hooks[0], "__qualname__", "").startswith("_checkpoint_hook")
    recomputed_alone = torch._C._current_graph_task_id() != -1 and starts_at not in (None, 0)
    if inside or recomputed_alone:
        raise UnsupportedError(OUTER_CHECKPOINT)


def short_pass(why: str) -> str:
    """Say that passes are so short that nothing is freed."""
    return (
        f"short passes: {why}, so a new pass starts at each layer and no stream is freed. One layer alone takes no "
        "BDIA update: the model trains as the standard one, with activation checkpointing. Put what is computed "
        "between the layers into the layers"
    )


def own_grid(bits: int, prefix: str) -> str:
    """Say that each process chose a grid of its own."""
    return f"own grid: this process chose {prefix}bits={bits} from its own batch. Give the number, so that all have one"


def own_state(name: str) -> str:
    """Say that a block's second run changed the block's state again."""
    return (
        f"own state: {name} was changed again when backward recomputed its layer, so it counts every step twice. Keep "
        "it in a buffer, which is put back, or train with backward=stored"
    )
