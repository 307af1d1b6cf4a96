import subprocess

import pytest

from bdia.results import config_sha256, git_state


def git(folder, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_config_hash_ignores_key_order_and_sees_every_value():
    config = {"a": 1, "b": {"c": [1, 2], "d": None}}
    assert config_sha256(config) == config_sha256({"b": {"d": None, "c": [1, 2]}, "a": 1})
    assert config_sha256(config) != config_sha256({"a": 1, "b": {"c": [2, 1], "d": None}})


def test_git_state_names_the_commit_of_a_clean_tree(repository):
    assert git_state(repository) == {"sha": git(repository, "rev-parse", "HEAD"), "dirty": False}


@pytest.mark.parametrize("name", ["code.py", "new.py"])
def test_changed_and_untracked_files_make_the_tree_dirty(repository, name):
    (repository / name).write_text("a = 2\n")
    assert git_state(repository)["dirty"]


def test_records_of_the_same_sweep_do_not_make_the_tree_dirty(repository):
    (repository / "results").mkdir()
    (repository / "results" / "run.json").write_text("{}")
    (repository / "src").mkdir()
    assert not git_state(repository / "src")["dirty"]


def test_outside_a_repository_the_commit_is_unknown_and_never_clean(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) == {"sha": "unknown", "dirty": True}


def test_a_repository_around_installed_packages_is_not_their_commit(repository):
    package = repository / ".venv" / "lib" / "python3.11" / "site-packages" / "bdia"
    package.mkdir(parents=True)
    assert git_state(package) == {"sha": "unknown", "dirty": True}
