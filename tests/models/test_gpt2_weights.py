"""GPT-2 weights in Hugging Face's layout, from a random model of `transformers`."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from bdia.reversible import BdiaStack, RevVitStack
from helpers.text_models import small_gpt2, tokens

transformers = pytest.importorskip("transformers")

V = 11


@pytest.fixture(scope="module")
def original():
    """A random GPT-2 with biases that are not zero."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=V, n_positions=16, n_embd=12, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=0
    )
    net = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return net


@pytest.fixture
def folder(original, tmp_path):
    """The model as `save_pretrained` writes it: model.safetensors."""
    original.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    return tmp_path


def logits(net):
    with torch.no_grad():
        return net.eval()(tokens(2, 9, vocab_size=V))


@pytest.mark.parametrize("place", ["", "model.safetensors"])
def test_safetensors_weights_give_the_logits_of_transformers(original, folder, place):
    torch.testing.assert_close(logits(small_gpt2(weights=folder / place)), logits(original).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("place", ["", "pytorch_model.bin"])
def test_pickled_weights_give_the_logits_of_transformers(original, tmp_path, place):
    torch.save(original.state_dict(), tmp_path / "pytorch_model.bin")
    found = logits(small_gpt2(weights=str(tmp_path / place)))
    torch.testing.assert_close(found, logits(original).logits, rtol=0, atol=1e-4)


def test_the_published_layout_without_prefix_and_with_masks_is_read_too(original, tmp_path):
    state = {name.removeprefix("transformer."): p.clone() for name, p in original.state_dict().items()}
    del state["lm_head.weight"]
    state |= {f"h.{k}.attn.bias": torch.ones(1, 1, 16, 16) for k in range(3)}
    save_file(state, tmp_path / "model.safetensors")
    torch.testing.assert_close(logits(small_gpt2(weights=tmp_path)), logits(original).logits, rtol=0, atol=1e-4)


def test_weights_move_to_a_reversible_net(original, folder):
    net = small_gpt2(lambda blocks: BdiaStack(blocks, quantize_eval=False), weights=folder)
    torch.testing.assert_close(logits(net), logits(original).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 14}, r"is \(36,\), the model has \(42,\).*model\.net\.width"),
        ({"vocab_size": 10}, r"\(11, 12\), the model has \(10, 12\).*tokenizer"),
        ({"positions": 8}, r"wpe\.weight is \(16, 12\), the model has \(8, 12\).*model\.net\.positions"),
        ({"depth": 2}, r"h\.2\.\S+ is .*the model has nothing there.*model\.net\.depth"),
        ({"depth": 4}, r"no weights for blocks\.3\..*model\.net\.depth"),
        ({"stack": RevVitStack}, r"ln_f\.\S+ is \(12,\), the model has \(24,\).*stack\.merge"),
    ],
    ids=str,
)
def test_weights_of_another_size_are_refused_by_name_shapes_and_config_key(folder, options, message):
    with pytest.raises(ValueError, match=message):
        small_gpt2(weights=folder, **options)


def test_weights_with_a_tensor_missing_are_refused(folder):
    state = load_file(folder / "model.safetensors")
    state = {name: tensor for name, tensor in state.items() if not name.endswith("h.1.mlp.c_fc.bias")}
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"no weights for blocks\.1\.mlp\.fc1\.bias"):
        small_gpt2(weights=folder)


def test_missing_weights_are_named_with_what_was_wanted(tmp_path):
    for place in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(FileNotFoundError, match=rf"model\.net\.weights={place}: wanted model\.safetensors or"):
            small_gpt2(weights=place)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_damaged_file_is_refused_by_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(ValueError, match=rf"{name} cannot be read as weights"):
        small_gpt2(weights=tmp_path)
