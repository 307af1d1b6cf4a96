"""Text from `Gpt2`: greedy or sampled continuation with a key/value cache. B batch, T tokens, V vocabulary."""

import torch
from torch import Tensor

from bdia import InvalidValueError
from bdia.models.attention import KeyValueCache
from bdia.models.gpt2 import Gpt2


@torch.no_grad()
def generate(
    net: Gpt2,
    tokens: Tensor,
    new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    stop_id: int | None = None,
) -> Tensor:
    """Continue every row of tokens.

    Args:
        net: in eval mode; this function changes no mode.
        tokens: (B, T) int64, T at least 1, no padding.
        new_tokens: most tokens to add.
        temperature: divides the logits; 0 takes the likeliest token, the lowest id of equals.
        top_k, top_p: sample among these only, see `likeliest`.
        generator: source of randomness, on the tokens' device; None is torch's own.
        stop_id: a row ends after this token and is filled up with it; all rows ended, no more is added.
    Returns:
        (B, T + at most new_tokens) int64, beginning with `tokens`.
    Raises:
        ValueError: an argument out of range, more tokens than the net's positions, a net in training mode; before
            anything is computed.
    """
    _check(net, tokens, new_tokens, temperature, top_k, top_p)
    cache, step = KeyValueCache(), tokens
    ended = torch.zeros(len(tokens), 1, dtype=torch.bool, device=tokens.device)
    for _ in range(new_tokens):
        logits = net.logits(net.hidden(step, cache)[:, -1]).float()
        step = _choose(logits, temperature, top_k, top_p, generator)
        if stop_id is not None:
            step = step.masked_fill(ended, stop_id)
            ended = step == stop_id
        tokens = torch.cat([tokens, step], dim=1)
        if ended.all():
            break
    return tokens


def likeliest(logits: Tensor, top_k: int | None, top_p: float | None) -> tuple[Tensor, Tensor]:
    """Return the probabilities (B, V) of the tokens, likeliest first, 0 for those left out, and their ids (B, V).

    Args:
        logits: (B, V).
        top_k: keep the k likeliest.
        top_p: of these, keep the fewest whose probabilities reach top_p together.
    """
    logits, ids = logits.sort(dim=1, descending=True, stable=True)
    probabilities = logits[:, :top_k].softmax(dim=1)
    if top_p is not None:
        before = probabilities.cumsum(dim=1) - probabilities
        before[:, 0] = 0.0
        probabilities = probabilities.masked_fill(before >= top_p, 0.0)
        probabilities = probabilities / probabilities.sum(dim=1, keepdim=True)
    return torch.nn.functional.pad(probabilities, (0, ids.shape[1] - probabilities.shape[1])), ids


def _choose(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator | None
) -> Tensor:
    """Return one token per row, (B, 1)."""
    if temperature == 0:
        return logits.argmax(dim=1, keepdim=True)
    logits = (logits - logits.amax(dim=1, keepdim=True)) / temperature  # at most 0: no overflow at any temperature
    probabilities, ids = likeliest(logits, top_k, top_p)
    return ids.gather(1, torch.multinomial(probabilities, 1, generator=generator))


def _check(
    net: Gpt2, tokens: Tensor, new_tokens: int, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    if net.training:
        raise InvalidValueError("the net is in training mode, wanted eval mode: call net.eval() first")
    if tokens.ndim != 2 or not tokens.shape[1]:
        raise InvalidValueError(
            f"tokens of shape {tuple(tokens.shape)}: wanted (B, T) with at least one token; give a prompt"
        )
    if new_tokens < 1:
        raise InvalidValueError(f"new_tokens={new_tokens}: wanted at least 1; set new_tokens")
    if not 0 <= temperature < float("inf"):
        raise InvalidValueError(f"temperature={temperature}: wanted 0 (greedy) or a positive number; set temperature")
    if top_k is not None and top_k < 1:
        raise InvalidValueError(f"top_k={top_k}: wanted at least 1 token, or null for all; set top_k")
    if top_p is not None and not 0 < top_p <= 1:
        raise InvalidValueError(f"top_p={top_p}: wanted above 0 and at most 1, or null for all tokens; set top_p")
    needed, there = tokens.shape[1] + new_tokens - 1, net.longest  # the last token is not read
    if needed > there:
        raise InvalidValueError(
            f"{tokens.shape[1]} tokens and {new_tokens} new ones need {needed} positions, the net has {there}: set "
            f"new_tokens to at most {max(there + 1 - tokens.shape[1], 0)}, or shorten the prompt"
        )
