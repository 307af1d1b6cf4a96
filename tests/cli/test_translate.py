"""`bdia translate`: lines in, as many lines out."""

import io
import re
import sys
from functools import partial

import pytest
import torch

import bdia.build
import bdia.cli.translate
from bdia import MissingFileError
from bdia.cli.main import main
from bdia.data.text.tokenizer import BOS, END_OF_DOCUMENT, EOS, PAD, Bytes
from bdia.tasks import LanguageModeling, Translation
from helpers.text_models import small_gpt2, small_seq2seq

Task = partial(Translation, optimizer=None, scheduler=None)


@pytest.fixture(scope="module")
def task():
    """A random net over bytes."""
    tokenizer = Bytes().build([], [PAD, BOS, EOS], None)
    net = small_seq2seq(vocab_size=tokenizer.get_vocab_size(), positions=64)
    with torch.no_grad():
        net.decoder_join.norm.weight.mul_(3.0)
    return Task(net=net, tokenizer=tokenizer).eval()


@pytest.fixture
def translate(task, monkeypatch, capfd):
    """translate(text, *arguments): (exit code, standard output, standard error)."""
    monkeypatch.setattr(bdia.build, "load_run", lambda path: task)

    def call(text, *arguments, loaded=None):
        if loaded is not None:
            monkeypatch.setattr(bdia.build, "load_run", loaded)
        data = text if isinstance(text, bytes) else text.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))
        code = 0
        try:
            main(["translate", "checkpoint=runs/x/final.ckpt", *arguments])
        except SystemExit as error:
            code = error.code
        out, error = capfd.readouterr()
        return code, out, error

    return call


LINES = ["un", "", "deux trois", "   ", "été « œuf »", "x" * 40, "", "sept"]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_line_gives_its_own_translation_in_order(task, translate, batch_size, end):
    code, out, error = translate(end.join(LINES) + end, f"batch_size={batch_size}", "beam=2", "max_length=12")
    wanted = [task.translate([line], 2, 1.0, 12)[0].replace("\n", " ").replace("\r", " ") for line in LINES]
    assert (code, error) == (0, "")
    assert out.split("\n") == [*wanted, ""]
    assert [bool(line) for line in wanted] == [bool(line.strip()) for line in LINES]


@pytest.mark.parametrize("text", ["", "\n", "\n\n\n", "un", "un\rdeux\n", "a\x0bb\u2028c\x85d\n"])
def test_as_many_lines_come_out_as_went_in(translate, text):
    code, out, _ = translate(text, "beam=1", "max_length=5")
    lines = text.count("\n") + (not text.endswith("\n") and text != "")
    assert code == 0 and out.count("\n") == lines


def test_a_line_break_in_a_translation_becomes_a_space(task, translate, monkeypatch):
    monkeypatch.setattr(task, "translate", lambda sentences, **options: ["a\nb\r\nc"] * len(sentences))
    assert translate("un\ndeux\n")[1] == "a b  c\na b  c\n"


def test_the_arguments_reach_the_search(task, translate, monkeypatch):
    seen = []
    monkeypatch.setattr(task, "translate", lambda lines, **options: seen.append(options) or lines)
    translate("un\n")
    translate("un\n", "beam=2", "length_penalty=0.5", "max_length=7")
    assert seen == [
        {"beam": 4, "length_penalty": 1.0, "max_length": None},
        {"beam": 2, "length_penalty": 0.5, "max_length": 7},
    ]


def test_lines_are_translated_as_they_come(task):
    def lines():
        yield from ["un\n", "deux\n"]
        raise AssertionError("read too far ahead")

    found = bdia.cli.translate.translate_lines(task, lines(), bdia.cli.translate.Arguments(batch_size=2, max_length=5))
    assert len([next(found), next(found)]) == 2


def language_model(path):
    tokenizer = Bytes().build([], [END_OF_DOCUMENT], None)
    return LanguageModeling(net=small_gpt2(vocab_size=257), tokenizer=tokenizer, optimizer=None, scheduler=None)


def missing(path):
    raise MissingFileError(f"checkpoint={path}: not found;\nwanted a file")


@pytest.mark.parametrize(
    ("arguments", "text", "loaded", "message"),
    [
        (["beams=2"], "un", None, r"beams=2: wanted beam=2$"),
        (["beam"], "un", None, r"beam: wanted beam="),
        (["beam=two"], "un", None, r"beam=two: wanted int"),
        (["beam=0"], "un", None, r"lines 1 to 1: beam=0: wanted at least 1"),
        (["batch_size=0"], "un", None, r"batch_size=0: wanted at least 1"),
        (["device=abacus"], "un", None, r"device=abacus: wanted cpu, or cuda"),
        (["batch_size=2"], "a\nb\nc\n" + "x" * 70, None, r"line 4 has 71 tokens, wanted at most 64: split it"),
        ([], b"\xff\xfe", None, r"is UTF-16, wanted UTF-8"),
        ([], "un", missing, r"checkpoint=runs/x/final\.ckpt: not found; wanted a file"),
        ([], "un", language_model, r"final\.ckpt is of LanguageModeling, wanted Translation: set checkpoint"),
    ],
)
def test_an_error_is_one_line_on_stderr_and_exit_code_2(translate, arguments, text, loaded, message):
    code, _, error = translate(text, *arguments, loaded=loaded)
    assert code == 2
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(message, error), error


def test_a_checkpoint_must_be_given(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["translate"])
    assert "checkpoint is missing: wanted checkpoint=..." in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_argument(capsys, flag):
    main(["translate", flag])
    shown = capsys.readouterr().out
    assert "Usage: bdia translate checkpoint=" in shown
    for name, default in vars(bdia.cli.translate.Arguments()).items():
        assert f"  {name} " in shown if name == "checkpoint" else f"  {name}={default or 'null'}" in shown
