"""Peak memory of a whole training step of the paper's model: what this repository claims beside Table 1."""

import gc

import pytest
import torch

from bdia.measure.storage_meter import StorageMeter
from bdia.models import VisionTransformer
from bdia.optim import SetAdam
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
    states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    meter = StorageMeter([*model.parameters(), *states, images, labels], model.parameters())
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
