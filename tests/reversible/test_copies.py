"""Copies of a converted model: deepcopy, pickle, torch.save, an average of weights; and generation."""

import copy
import io
import pickle

import pytest
import torch

import bdia
from helpers.reversible_helpers import LiveStorages
from helpers.trainer_helpers import (
    DEPTH,
    MODES,
    assert_trained_alike,
    batches,
    equal,
    gpt2,
    llama,
    run_block,
    step,
    tokens,
    weights,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_an_average_of_weights_is_a_converted_model_that_generates_as_the_plain_one():
    names = {"batches": batches(), "prompt": tokens(2)[:, :3]}
    found, wanted = (run_block("Copies, averages, generation", mode, model=gpt2(), **names) for mode in MODES)
    assert_trained_alike(found, wanted, weights(gpt2()))
    plain = gpt2()
    plain.load_state_dict(found["average"].module.state_dict())
    generated = plain.eval().generate(names["prompt"], max_new_tokens=4, do_sample=False)
    assert torch.equal(found["tokens"], generated)
    assert bdia.revert(found["average"].module) == DEPTH


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved_and_loaded])
@pytest.mark.parametrize("make", [gpt2, llama])
def test_a_copy_of_a_converted_model_trains_reversibly_and_by_itself(make, copied):
    model = make()
    keys = list(model.state_dict())
    bdia.convert(model)
    step(model)  # also after a training step
    model.zero_grad()
    other = copied(model)
    assert list(model.state_dict()) == list(other.state_dict()) == keys
    found = step(other)
    assert all(p.grad is None for p in model.parameters())
    assert equal(found, step(model))
    ids = tokens(2)
    torch.manual_seed(0)
    with LiveStorages(other, ids) as live:
        loss = other(input_ids=ids, labels=ids).loss
        held = live.total()
    assert loss.isfinite()
    assert bdia.revert(other) == DEPTH  # and the original stays converted
    with LiveStorages(other, ids) as live:
        loss = other(input_ids=ids, labels=ids).loss
        assert held < live.total() / 2
    torch.manual_seed(0)
    model.zero_grad()
    assert equal(step(model), found)


def test_generation_in_training_mode_without_gradients_runs_and_training_goes_on_afterwards():
    plain, model = llama(), llama()
    report = bdia.convert(model)
    ids = tokens(2)[:, :3]
    wanted = plain.eval().generate(ids, max_new_tokens=4, do_sample=False)
    assert torch.equal(model.eval().generate(ids, max_new_tokens=4, do_sample=False), wanted)
    model.train()
    with torch.no_grad():
        assert model.generate(ids, max_new_tokens=4, do_sample=False).shape == (2, 7)
    other = llama()
    bdia.convert(other, backward="stored")
    assert equal(step(model), step(other)) and report.freed_bytes["model.layers"] > 0
