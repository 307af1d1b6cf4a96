"""All files are written by `bdia.data.files.whole_file`: a kill leaves no half of one."""

import ast

import pytest

from helpers.places import ROOT

SRC = ROOT / "src" / "bdia"
# Where a file is opened or saved by other means. An export writes into a folder that gets its name when it is whole.
# A log of a job grows line by line: of a job that is killed, half is wanted.
ALLOWED = {("data/files.py", "open"), ("train/export/files.py", "save_file"), ("train/export/to_torch.py", "save")}
ALLOWED |= {("train/side_by_side.py", "open")}
# Writers of libraries; `save` of our own data modules and `savefig` into memory are told apart by what they are given.
NAMES = {"write_text", "write_bytes", "save", "save_file", "savez", "savez_compressed", "to_csv", "dump", "tofile"}
TO_A_FILE = {"torch", "np", "numpy", "OmegaConf", "json", "yaml", "pickle", "export"}
ANYWHERE = {"write_text", "write_bytes", "save_file", "to_csv", "tofile"}


def writes(tree: ast.AST) -> set[str]:
    """Names of the calls that write a file."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        holder = getattr(
            getattr(node.func, "value", None), "id", getattr(getattr(node.func, "value", None), "attr", "")
        )
        modes = [a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)]
        opens = name == "open" and any(isinstance(m, str) and m and set(m) <= set("rwaxbt+") - {"r"} for m in modes)
        saves = name in ANYWHERE or (name in NAMES and holder in TO_A_FILE)
        into_memory = name == "save" and holder == "torch" and getattr(node.args[-1], "id", "") == "file"
        if (opens or saves) and not into_memory:
            found.add(name)
    return found


def test_every_file_is_written_by_the_one_writer():
    found = {
        (path.relative_to(SRC).as_posix(), name)
        for path in SRC.rglob("*.py")
        for name in writes(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found <= ALLOWED, "write with bdia.data.files.whole_file or write_whole"


@pytest.mark.parametrize(
    "code",
    [
        "path.write_text('x')",
        "open(path, 'w')",
        "path.open('ab')",
        "torch.save(x, path)",
        "OmegaConf.save(cfg, path)",
        "np.savez(path, x)",
        "json.dump(x, f)",
        "save_file(tensors, path)",
    ],
)
def test_other_writers_are_seen(code):
    assert writes(ast.parse(code))


@pytest.mark.parametrize("code", ["path.open('rb')", "open(path)", "data.save(folder)", "torch.save(x, file)"])
def test_readers_are_no_writers(code):
    assert not writes(ast.parse(code))
