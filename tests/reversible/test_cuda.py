"""What only a GPU can show: the same exactness on CUDA kernels, and no synchronisation per block."""

import gc
import warnings

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import bdia
from bdia.reversible import (
    BdiaStack,
    CheckpointStack,
    GridOverflowError,
    ReversibilityError,
    RevVitStack,
    StandardStack,
)
from helpers.cuda_waits import refused_waits
from helpers.reversible_helpers import assert_bit_equal, make_blocks, make_tokens

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
WORDS, WIDTH, HEADS = 48, 64, 4


@pytest.fixture(autouse=True)
def deterministic():
    """Some kernels' gradients add in any order: ask for those that repeat."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def as_users_run():
    """Take back `deterministic`."""
    torch.use_deterministic_algorithms(False)


def on_gpu(depth, dropout=0.0, width=None):
    options = {} if width is None else {"width": width}
    return [block.cuda() for block in make_blocks(depth, dropout, **options)]


def loss_of(out):
    """A loss whose gradient differs from value to value."""
    weights = torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out)
    return (out.float() * weights).sum() + out.float().square().mean()


def trained(model, x, autocast=False, seed=0):
    """One step from a seed: the output, and the gradients of x and of every parameter."""
    wanted = [x, *model.parameters()] if x.requires_grad else list(model.parameters())
    for tensor in wanted:
        tensor.grad = None
    torch.manual_seed(seed)
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        out = model(x)
    out = getattr(out, "logits", out)
    loss_of(out).backward()
    return [out.detach().clone(), *(None if t.grad is None else t.grad.clone() for t in wanted)]


def llama(depth, dropout, width=WIDTH):
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=WORDS, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=depth,
            num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=256, pad_token_id=0,
            attention_dropout=dropout, use_cache=False,
        )
    )  # fmt: skip


def gpt2(depth, dropout):
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=WORDS, n_positions=256, n_embd=WIDTH, n_layer=depth, n_head=HEADS, bos_token_id=0,
            eos_token_id=0, pad_token_id=0, resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout,
            use_cache=False,
        )
    )  # fmt: skip


def encoder(depth, dropout):
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, dropout, batch_first=True)
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


FAMILIES = {"llama": llama, "gpt2": gpt2, "encoder": encoder}


def converted(family, depth=4, dropout=0.0, dtype=torch.float32, **settings):
    """A converted model on the GPU, with the same weights at every call."""
    torch.manual_seed(0)
    model = FAMILIES[family](depth, dropout).cuda().to(dtype).train()
    return model, bdia.convert(model, **settings)


def inputs(family, dtype=torch.float32, samples=8, tokens=64):
    generator = torch.Generator().manual_seed(1)
    if family == "encoder":
        return torch.randn(samples, tokens, WIDTH, generator=generator).cuda().to(dtype).requires_grad_()
    return torch.randint(1, WORDS, (samples, tokens), generator=generator).cuda()


# --- exactness ---


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("keep", [0, 1])
def test_gradients_on_cuda_equal_the_stored_ones_bit_for_bit(dropout, keep):
    blocks, x = on_gpu(5, dropout), make_tokens().detach().cuda().requires_grad_()
    wanted = trained(BdiaStack(blocks, backward="stored"), x)
    assert_bit_equal(trained(BdiaStack(blocks, keep=keep), x), wanted)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("precision", ["float32", "bf16 parameters", "autocast"])
@pytest.mark.parametrize("family", FAMILIES)
def test_converted_models_train_to_the_bits_of_stored_activations(family, precision, dropout):
    dtype = torch.bfloat16 if precision == "bf16 parameters" else torch.float32
    x, found = inputs(family, dtype), []
    for backward in ("reversible", "stored"):
        model, report = converted(family, dropout=dropout, dtype=dtype, backward=backward)
        found.append(trained(model, x, precision == "autocast"))
        assert (sum(report.freed_bytes.values()) > 0) == (backward == "reversible")
    assert_bit_equal(*found)


@pytest.mark.parametrize("settings", [{"gamma": "1/16"}, {"nested": ["self_attn", "mlp"]}, {"gamma": "3/5"}], ids=str)
def test_other_gammas_and_nested_recomputation_are_exact_too(settings):
    x = inputs("llama")
    assert_bit_equal(*(trained(converted("llama", backward=b, **settings)[0], x) for b in ("reversible", "stored")))


@pytest.mark.parametrize("backend", ["FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH"])
def test_every_attention_kernel_of_torch_trains_exactly_in_bf16(backend):
    x, found = inputs("llama", samples=4, tokens=256), []
    for backward in ("reversible", "stored"):
        model, _ = converted("llama", dtype=torch.bfloat16, backward=backward)
        with sdpa_kernel(getattr(SDPBackend, backend)):
            try:
                found.append(trained(model, x))
            except RuntimeError as error:
                if "No available kernel" in str(error) or "deterministic" in str(error):
                    pytest.skip(f"{backend}: {str(error)[:100]}")
                raise
    assert_bit_equal(*found)


@pytest.mark.parametrize("backend", ["FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"])
def test_attention_whose_gradients_do_not_repeat_still_rebuilds_every_stream(backend, as_users_run):
    model, _ = converted("llama", depth=6, dtype=torch.bfloat16)
    x = inputs("llama", samples=4, tokens=256)
    with sdpa_kernel(getattr(SDPBackend, backend)):
        outs = [trained(model, x)[0] for _ in range(3)]  # a stream that is not rebuilt raises ReversibilityError
    assert all(torch.equal(out, outs[0]) for out in outs)


class AddsInAnyOrder(nn.Module):
    """Sums all tokens by atomic additions, and magnifies what their order changes."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        sums = torch.zeros(1, x.shape[-1], device=x.device)
        to_one = torch.zeros(x.shape[0] * x.shape[1], dtype=torch.long, device=x.device)
        return x + self.weight * torch.sin(1000 * sums.index_add(0, to_one, x.flatten(0, 1)))


def test_a_kernel_that_does_not_repeat_is_refused(as_users_run):
    stack = BdiaStack([AddsInAnyOrder(64).cuda() for _ in range(6)])
    x = torch.randn(64, 512, 64, device="cuda", requires_grad=True)
    with torch.no_grad():
        outs = [stack.blocks[0](x) for _ in range(20)]
    if all(torch.equal(out, outs[0]) for out in outs):
        pytest.skip("these additions repeat on this device")
    with pytest.raises(ReversibilityError, match="non-deterministic kernel"):
        stack(x).sum().backward()


# --- the compiler ---


@pytest.mark.parametrize("gamma", ["1/2", "1/16", "3/5"])
def test_the_compiled_kernel_gives_the_bits_of_the_eager_one(gamma):
    x, found = inputs("llama", samples=16, tokens=128), []
    for kernel in ("compiled", "eager"):
        found.append(trained(converted("llama", gamma=gamma, kernel=kernel)[0], x, autocast=True))
    assert_bit_equal(*found)


def test_layers_compiled_by_inductor_train_exactly():
    found, x = [], inputs("encoder")
    for backward in ("reversible", "stored"):
        torch._dynamo.reset()
        model, report = converted("encoder", depth=3, dropout=0.1, backward=backward)
        for layer in model.layers:
            layer.compile()
        found.append(trained(model, x))
        assert (sum(report.freed_bytes.values()) > 0) == (backward == "reversible")
    assert_bit_equal(*found)


# --- synchronisations ---


def synchronisations(run):
    """Run; return its result, and how often it waited for the device."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            result = run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return result, sum("called a synchronizing" in str(entry.message) for entry in caught)


def test_the_count_of_synchronisations_sees_forward_and_backward():
    x = torch.ones(3, device="cuda", requires_grad=True)
    assert synchronisations(lambda: x + 1)[1] == 0
    assert synchronisations(x.sum().item)[1] == 1
    x.register_hook(lambda grad: grad.sum().item() * grad)
    assert synchronisations(x.sum().backward)[1] == 1


@pytest.mark.parametrize("stack", [BdiaStack, lambda blocks: RevVitStack(blocks, 9)], ids=["bdia", "revvit"])
def test_a_stack_s_forward_does_not_wait_for_the_device(stack):
    stack, x = stack(on_gpu(5)), make_tokens().detach().cuda()
    stack(x).sum().backward()  # copies the law's tables once
    with refused_waits():
        out = stack(x)
    out.sum().backward()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_converted_model_waits_for_the_device_only_at_the_end_of_backward(family, as_users_run):
    counts, x = {}, inputs(family)
    for depth in (4, 8):
        model, _ = converted(family, depth)
        trained(model, x)
        out, in_forward = synchronisations(lambda model=model: model(x))
        loss = loss_of(getattr(out, "logits", out))
        counts[depth] = synchronisations(loss.backward)[1]
        bdia.revert(model)
        assert in_forward == synchronisations(lambda model=model: model(x))[1]
    assert counts == {4: 1, 8: 1}  # reads the range and the sums of bits, together


# --- errors and memory ---


def test_an_overflow_on_cuda_is_raised_by_backward():
    stack, x = BdiaStack(on_gpu(3), bits=14), make_tokens().detach().cuda() * 1e4
    out = stack(x)
    with pytest.raises(GridOverflowError, match="block 0"):
        out.sum().backward()


def test_bdia_peaks_below_checkpointing_on_cuda_in_a_deep_stack():
    def peak(stack):
        model, x = stack(on_gpu(24, width=64)), torch.randn(64, 256, 64, device="cuda")
        model(x).sum().backward()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model(x).sum().backward()
        return torch.cuda.max_memory_allocated() - before

    assert peak(BdiaStack) < peak(CheckpointStack) < peak(StandardStack)


def held_by_a_step(depth, x, width):
    """Bytes that a converted Llama holds between forward and backward."""
    torch.manual_seed(0)
    model = llama(depth, 0.0, width).cuda().train()
    bdia.convert(model, gamma="1/2", keep=0)
    trained(model, x)
    model.zero_grad(set_to_none=True)
    gc.collect()
    before = torch.cuda.memory_allocated()
    out = model(x).logits
    held = torch.cuda.memory_allocated() - before
    loss_of(out).backward()
    return held


def test_a_further_layer_of_a_converted_model_holds_one_bit_per_activation():
    x, width = inputs("llama", samples=16, tokens=256), 256
    one_bit = x.numel() * width / 8
    per_layer = (held_by_a_step(24, x, width) - held_by_a_step(8, x, width)) / 16
    assert one_bit <= per_layer <= 1.2 * one_bit
