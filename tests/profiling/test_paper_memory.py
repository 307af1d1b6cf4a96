"""Peak memory of a training step of the paper's model: what this repository claims beside Table 1 and over depth."""

import gc

import pytest
import torch

from bdia.models import VisionTransformer
from bdia.optim import SetAdam
from bdia.profiling.storage_meter import StorageMeter, optimizer_state
from bdia.reversible import BdiaStack, CheckpointStack, RevVitStack, StandardStack

MIB = 2**20


def peak(stack) -> float:
    """MiB at the peak of the second step: batch 128, float32, SET-Adam, the model of configs/model/vit_paper.yaml."""
    torch.manual_seed(0)
    model = VisionTransformer(stack)
    optimizer = SetAdam(model.parameters())
    images, labels = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))

    def step():
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    meter = StorageMeter([*model.parameters(), *optimizer_state(optimizer), images, labels], model.parameters())
    with meter:
        step()
    gc.collect()
    return meter.peak / MIB


@pytest.mark.slow
def test_bdia_peaks_at_most_at_0_38_of_standard_and_1_15_of_revvit():
    standard, checkpointing, revvit, bdia = map(peak, (StandardStack, CheckpointStack, RevVitStack, BdiaStack))
    assert bdia <= 0.38 * standard
    assert bdia <= 1.15 * revvit
    assert bdia < checkpointing


def activations(stack, depth) -> float:
    """MiB at the peak of a forward and backward at batch 32, weights left out; gradients go as soon as they are there.

    Nothing of the weights' size remains then, and the peak is that of the activations, wherever in the step it lies.
    """
    torch.manual_seed(0)
    model = VisionTransformer(stack, depth=depth)
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    images, labels = torch.randn(32, 3, 32, 32), torch.randint(10, (32,))
    meter = StorageMeter([*model.parameters(), images, labels], model.parameters())
    weights = meter.total()
    with meter:
        torch.nn.functional.cross_entropy(model(images), labels).backward()
    return (meter.peak - weights) / MIB


@pytest.mark.slow
def test_bdias_activations_grow_with_depth_by_the_side_information_only():
    stream = 32 * 65 * 512 / 8 / MIB  # one bit for every value of the residual stream
    bdia = {depth: activations(BdiaStack, depth) for depth in (4, 8, 24)}
    checkpointing = {depth: activations(CheckpointStack, depth) for depth in bdia}
    assert bdia[24] <= 0.12 * activations(StandardStack, 24)
    assert (bdia[24] - bdia[4]) / 20 <= 1.1 * stream
    assert bdia[4] <= 1.15 * checkpointing[4]
    assert bdia[8] < checkpointing[8] and bdia[24] < 0.7 * checkpointing[24]
