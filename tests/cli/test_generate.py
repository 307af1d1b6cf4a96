"""`bdia generate`: a prompt in, its continuations out."""

import re
from functools import partial

import pytest
import torch

import bdia.build
import bdia.cli.generate
import bdia.models.sampling
from bdia.cli.generate import BETWEEN_SAMPLES
from bdia.cli.main import main
from bdia.data.text.tokenizer import BOS, END_OF_DOCUMENT, EOS, PAD, Bytes
from bdia.models import Gpt2
from bdia.models.sampling import generate
from bdia.tasks import LanguageModeling, Translation
from helpers.text_models import small_gpt2, small_seq2seq

Task = partial(LanguageModeling, optimizer=None, scheduler=None)


def make_task(specials=(END_OF_DOCUMENT,)):
    """A random net over bytes; the prompts of the tests are ASCII, what it adds is any text."""
    tokenizer = Bytes().build([], specials, None)
    net = small_gpt2(vocab_size=tokenizer.get_vocab_size(), positions=64)
    with torch.no_grad():
        net.tokens.weight.mul_(20.0)
    return Task(net=net, tokenizer=tokenizer).eval()


@pytest.fixture(scope="module")
def task():
    return make_task()


@pytest.fixture
def write(task, monkeypatch, capfd):
    """write(*arguments): (exit code, standard output, standard error)."""

    def call(*arguments, loaded=lambda path: task):
        monkeypatch.setattr(bdia.build, "load_run", loaded)
        code = 0
        try:
            main(["generate", "checkpoint=runs/x/final.ckpt", *arguments])
        except SystemExit as error:
            code = error.code
        return code, *capfd.readouterr()

    return call


def test_the_text_is_the_prompt_and_what_the_net_adds(task, write):
    rows = torch.tensor([task.tokenizer.encode("Once").ids])
    stop = task.tokenizer.token_to_id(END_OF_DOCUMENT)
    wanted = task.tokenizer.decode(generate(task.net, rows, 9, temperature=0, stop_id=stop)[0].tolist())
    assert wanted.startswith("Once") and len(wanted) > 4
    assert write("prompt=Once", "new_tokens=9", "temperature=0") == (0, wanted + "\n", "")


@pytest.mark.parametrize(
    "prompt", ["a: b", "[x", "${x}", "1.50", "null", "yes", "k=v", "???", '"q"', END_OF_DOCUMENT, " two  spaces "]
)
def test_a_prompt_is_taken_letter_by_letter(write, prompt):
    code, out, _ = write(f"prompt={prompt}", "new_tokens=1")
    assert code == 0 and out.startswith(prompt)


def test_a_seed_repeats_its_samples_and_each_sample_is_another(write):
    arguments = "prompt=ab", "new_tokens=20", "samples=3"
    one, again, other = (write(*arguments, f"seed={seed}")[1] for seed in (0, 0, 1))
    assert one == again != other
    samples = one.split(f"\n{BETWEEN_SAMPLES}\n")
    assert len(samples) == 3 and len(set(samples)) == 3 and all(text.startswith("ab") for text in samples)


def test_the_sampling_options_reach_the_sampling(write):
    greedy = write("prompt=ab", "new_tokens=20", "temperature=0")
    assert write("prompt=ab", "new_tokens=20", "top_k=1") == write("prompt=ab", "new_tokens=20", "top_p=1e-9") == greedy
    assert write("prompt=ab", "new_tokens=20") != greedy


def test_an_empty_prompt_begins_a_new_document(task, write, monkeypatch):
    seen = []
    monkeypatch.setattr(bdia.models.sampling, "generate", lambda net, rows, *args, **options: seen.append(rows) or rows)
    for arguments in ([], ["prompt="]):
        assert write(*arguments, "samples=2")[0] == 0
    start = task.tokenizer.token_to_id(END_OF_DOCUMENT)
    assert [rows.tolist() for rows in seen] == [[[start], [start]]] * 2


def test_a_document_may_end_early_and_its_end_is_not_shown(task, write, monkeypatch):
    stop = task.tokenizer.token_to_id(END_OF_DOCUMENT)
    coming = iter([*task.tokenizer.encode("c").ids, stop])
    monkeypatch.setattr(Gpt2, "logits", lambda *args: torch.eye(257)[[next(coming)]])
    assert write("prompt=ab", "new_tokens=9", "temperature=0")[:2] == (0, "abc\n")


def translation(path):
    tokenizer = Bytes().build([], [PAD, BOS, EOS], None)
    net = small_seq2seq(vocab_size=tokenizer.get_vocab_size())
    return Translation(net=net, tokenizer=tokenizer, optimizer=None, scheduler=None)


@pytest.mark.parametrize(
    ("arguments", "loaded", "message"),
    [
        (["promt=x"], None, r"promt=x: wanted prompt=x$"),
        (["new_tokens=many"], None, r"new_tokens=many: wanted int"),
        (["temperature=[1"], None, r"temperature=\[1: wanted float"),
        (["top_k=0"], None, r"top_k=0: wanted at least 1"),
        (["samples=0"], None, r"samples=0: wanted at least 1"),
        (["prompt=abc", "new_tokens=63"], None, r"need 65 positions, the net has 64: set new_tokens to at most 62"),
        ([], lambda path: make_task([]), r"prompt is empty and the tokenizer has no token that begins a document"),
        ([], translation, r"final\.ckpt is of Translation, wanted LanguageModeling: set checkpoint"),
    ],
)
def test_an_error_is_one_line_on_stderr_and_exit_code_2(task, write, arguments, loaded, message):
    code, out, error = write(*arguments, loaded=loaded or (lambda path: task))
    assert (code, out) == (2, "")
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(message, error), error


def test_help_names_every_argument(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["generate", "nonesuch=1"])
    main(["generate", "--help"])
    shown = capsys.readouterr().out
    assert "Usage: bdia generate checkpoint=" in shown
    for name, default in vars(bdia.cli.generate.Arguments()).items():
        wanted = f"  {name} " if name == "checkpoint" else f"  {name}={'null' if default is None else default}"
        assert wanted in shown
