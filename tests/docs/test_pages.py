"""README.md and docs/: length, links, names, equations. `make docs` checks the same of the built pages, and more."""

import ast
import re
import sys

import pytest
import yaml

import bdia
import bdia.reversible
from helpers.doc_pages import BLOCK, pages
from helpers.places import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

from docs_pages import with_stacks

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = sorted((ROOT / "docs").rglob("*.md"))
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]*))?\)")
API = "".join(with_stacks(path.read_text(encoding="utf-8")) for path in (ROOT / "docs" / "api").glob("*.md"))


class _Loader(yaml.SafeLoader):
    """mkdocs.yml may name Python objects, which mean nothing here."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
MKDOCS = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)


def test_the_readme_has_at_most_120_lines():
    assert len(README.splitlines()) <= 120


def test_nothing_in_the_readme_is_left_open():
    """No figure or text is still to be written: empty markers, or the marks that drafts use."""
    assert not re.search(r"-->\s*<!-- /(?:number|table) -->|@@|\bTODO\b|\bTBD\b|\?\?", README)


def anchors(text):
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", text), re.MULTILINE)
    plain = (re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\s-]", "", heading).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize(
    "path", [*pages(), ROOT / "docs" / "families.md"], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_the_links_of_a_page_resolve(path):
    for target, anchor in LINK.findall(BLOCK.sub("", path.read_text(encoding="utf-8"))):
        place = (path.parent / target) if target else path
        assert place.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(place.read_text(encoding="utf-8")), f"{target} has no heading {anchor}"


def test_a_link_to_nothing_would_be_seen():
    (found,) = LINK.findall("see [it](no-such-page.md#part)")
    assert found == ("no-such-page.md", "part") and not (ROOT / "docs" / found[0]).exists()
    assert anchors("# On `it`\n## CIFAR-10, little data\n") == {"on-it", "cifar-10-little-data"}


def in_menu(node):
    """The pages that the menu of mkdocs.yml names."""
    if isinstance(node, str):
        return {node}
    return set().union(*map(in_menu, node.values() if isinstance(node, dict) else node))


def test_every_page_is_in_the_menu():
    assert in_menu(MKDOCS["nav"]) == {path.relative_to(ROOT / "docs").as_posix() for path in DOCS}


def test_the_site_asks_nothing_of_the_network():
    assert MKDOCS["theme"]["font"] is False
    assert not {"extra_javascript", "extra_css"} & set(MKDOCS)
    assert not re.search(r"https?://", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(bdia.reversible.__all__))
def test_a_public_name_of_the_engine_is_in_the_api_pages(name):
    documented = set(re.findall(r"^::: (\S+)", API, re.MULTILINE))
    home = getattr(bdia.reversible, name).__module__
    assert documented & {f"bdia.reversible.{name}", f"{home}.{name}", home}


@pytest.mark.parametrize("name", ["BdiaStack", "TwoPoint", "convert", "export", "register_adapter", "revert"])
def test_a_name_at_the_top_of_the_package_is_in_the_api_pages(name):
    assert name in bdia.__all__
    assert re.search(rf"^::: bdia\.[\w.]*\b{name}$", API, re.MULTILINE)


def test_every_equation_of_the_theory_stands_beside_its_function():
    text = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    sections = [section for section in text.split("\n## ")[1:] if re.search(r"^    \S", section, re.MULTILINE)]
    assert len(sections) >= 9
    for section in sections:
        assert re.search(r"\]\[bdia\.[\w.]+\]", section), section.splitlines()[0]


def test_a_link_to_a_function_names_one_that_exists():
    for path in DOCS:
        for name in re.findall(r"\]\[(bdia\.[\w.]+)\]", path.read_text(encoding="utf-8")):
            module, _, attribute = name.rpartition(".")
            assert hasattr(__import__(module, fromlist=[attribute]), attribute), f"{path.name}: {name}"


# --- what the pages say of the code ---

OF_THE_CODE = [ROOT / "CONTRIBUTING.md", *(ROOT / "docs" / name for name in ("architecture.md", "engine.md"))]
WRITTEN_BY_RUNS = {"config.yaml", "my.txt"}
OF_OTHERS = {"DDP", "FSDP2", "ReversibilityError"}


def defined():
    """Every class, method, function and constant of src/bdia and tests/test_layers.py: "Name" or "Class.name"."""
    found = set()
    for path in [*(ROOT / "src" / "bdia").rglob("*.py"), ROOT / "tests" / "test_layers.py"]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found.add(node.name)
            elif isinstance(node, ast.Assign):
                found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def is_defined(name, known):
    """Whether a name is known; a method counts if its class is and some class defines it, for it may be inherited."""
    owner, _, method = name.rpartition(".")
    return name in known or (owner in {*known, ""} and any(other.endswith(f".{method}") for other in known))


@pytest.mark.parametrize("path", OF_THE_CODE, ids=lambda path: path.name)
def test_a_class_or_function_that_a_page_names_exists(path):
    known, text = defined(), BLOCK.sub("", path.read_text(encoding="utf-8"))
    names = set(re.findall(r"`([A-Z][a-z]\w*(?:\.\w+)?|[A-Z]+(?:_[A-Z]+)+|_\w*[a-z])(?:\([^`]*\))?`", text)) - OF_OTHERS
    assert names
    assert not {name for name in names if not is_defined(name, known)}


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_or_folder_that_a_page_names_exists(path):
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    tracked = {file.as_posix() for folder in ("src", "scripts", "tests", "configs", "docs", "results", "notebooks")
               for file in (ROOT / folder).rglob("*")}  # fmt: skip
    for name in re.findall(r"`((?:[\w.]+/)*[\w]+\.(?:py|yaml|md|svg|ipynb))`", text):
        if name in WRITTEN_BY_RUNS:
            continue
        assert (ROOT / name).exists() or any(file.endswith(f"/{name}") for file in tracked), name
    for name in re.findall(r"`((?:src|scripts|tests|configs|docs|results|notebooks)/[\w/]*)`", text):
        assert (ROOT / name).is_dir(), name
