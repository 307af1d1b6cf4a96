"""Coverage-guided fuzzing (atheris) of the readers: text, pairs, tokens, tokenizers, records, saved configs, overrides.

Usage: python scripts/fuzz.py [key=value ...]

  reader=text     text, pairs, tokens, tokenizer, record, config or override
  seconds=60      how long
  crashes=runs/fuzz   folder of the inputs that crashed a reader

What a reader cannot use is a BdiaError. Any other exception is a crash: its input is written to `crashes`, and the exit
code is not 0. `make fuzz` runs every reader. Needs the extra fuzz: pip install '.[fuzz]'.
"""

import inspect
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bdia import BdiaError
from bdia.build import _saved_config, compose
from bdia.data import Bytes, TabSeparated, TextFiles, TokenFile
from bdia.data.text.tokenizer import load_tokenizer
from bdia.results.record import RunRecord

FOLDER = Path(tempfile.mkdtemp(prefix="bdia-fuzz-"))
RECORD = next((Path(__file__).parents[1] / "results").glob("table1_cifar10_cpu/*.json"))
CONFIG = json.loads(RECORD.read_text(encoding="utf-8"))["config"]


def text(data: bytes) -> None:
    """Read a text file and cut it into documents."""
    (FOLDER / "a.txt").write_bytes(data)
    found = TextFiles(str(FOLDER / "a.txt"), section=50).documents(FOLDER)
    assert all(found), "an empty document"


def pairs(data: bytes) -> None:
    """Read a file of pairs and split it."""
    (FOLDER / "a.tsv").write_bytes(data)
    parts = TabSeparated(str(FOLDER / "a.tsv"), val_fraction=0.2, test_fraction=0.2).load(FOLDER)
    assert sum(map(len, parts.values())) > 0, "no pair"


def tokens(data: bytes) -> None:
    """Read a file of token ids and split it into documents."""
    (FOLDER / "a.bin").write_bytes(data)
    found = TokenFile(str(FOLDER / "a.bin"), end_of_document=0).documents(FOLDER)
    assert all(map(len, found)), "an empty document"


def tokenizer(data: bytes) -> None:
    """Read the tokenizer beside a checkpoint, and use it."""
    (FOLDER / "tokenizer.json").write_bytes(data)
    found = load_tokenizer(FOLDER / "tokenizer.json")
    found.decode(found.encode("one two").ids)


def record(data: bytes) -> None:
    """Read a record."""
    RunRecord.from_json(data.decode("utf-8", "replace"))


def config(data: bytes) -> None:
    """Read the config beside a checkpoint."""
    (FOLDER / "config.yaml").write_bytes(data)
    _saved_config(FOLDER / "config.yaml")


def override(data: bytes) -> None:
    """Compose a config with one override."""
    compose([data.decode("utf-8", "replace")])


READERS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "text": (text, [b"one\n\ntwo\n", b"a\r\nb\r\n<|endoftext|>\r\nc", "été\u2028x".encode(), b"\xff\xfea\x00"]),
    "pairs": (pairs, [b"one\tun\ntwo\tdeux\nthree\ttrois\n", b"a\tb\tc\n", b"\xef\xbb\xbfa\tb\r\n"]),
    "tokens": (tokens, [b"\x01\x00\x00\x00", b"\x00\x00", b"\x01", b"\x01\x00" * 9 + b"\x00\x00\x02\x00"]),
    "tokenizer": (
        tokenizer,
        [Bytes().build([], ["<pad>"], FOLDER).to_str().encode(), b"{}", b'{"model": {"type": "BPE"}}'],
    ),
    "record": (record, [RECORD.read_bytes(), b'{"schema": 1}', b"[]"]),
    "config": (config, [OmegaConf.to_yaml(OmegaConf.create(CONFIG)).encode(), b"model: {_target_: os.system}"]),
    "override": (override, [b"seed=1", b"stack.gamma=1/4", b"paths.runs=a,b", b"~callbacks.history", b"stack=bdia"]),
}


def functions_of_readers() -> list[Any]:
    """Return every function and method of the modules that read: atheris follows the branches that they take."""
    rooms = ("bdia.data.files", "bdia.data.text.", "bdia.results.record", "bdia.results.renamed", "bdia.build")
    found = []
    for module in [module for name, module in sys.modules.items() if name.startswith(rooms)]:
        own = [thing for thing in vars(module).values() if getattr(thing, "__module__", "") == module.__name__]
        classes = [thing for thing in own if inspect.isclass(thing)]
        found += filter(inspect.isfunction, [*own, *(thing for kind in classes for thing in vars(kind).values())])
    return found


def main() -> None:
    """Read the command line and fuzz."""
    given = {key: value for key, _, value in (word.partition("=") for word in sys.argv[1:])}
    if {"-h", "--help"} & set(given):
        print((__doc__ or "").strip())
        return
    try:
        import atheris
    except ModuleNotFoundError:
        print("atheris is not installed: pip install '.[fuzz]'; nothing was fuzzed")
        return
    name, seconds = given.get("reader", "text"), given.get("seconds", "60")
    crashes = Path(given.get("crashes", "runs/fuzz"))
    crashes.mkdir(parents=True, exist_ok=True)
    reader, seeds = READERS[name]
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)
    for function in functions_of_readers():
        atheris.instrument_func(function)

    def one(data: bytes) -> None:
        try:
            reader(data)
        except BdiaError as error:
            assert "\n" not in str(error) or name == "config", "an error of several lines"

    options = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=20", f"-artifact_prefix={crashes}/{name}-"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
