"""Runs of commit 97832fb, whose configs name classes by the modules they were in, are read and not run again."""

import json
import re
import shutil
from pathlib import Path

from hydra.utils import get_method

from bdia.build import load_run
from bdia.results.identity import config_sha256
from bdia.results.record import RunRecord
from bdia.results.renamed import HASHED_NAME, PUBLIC_NAME, with_hashed_names, with_public_names
from bdia.results.store import read_records
from bdia.results.variants import differing_settings
from bdia.reversible import BdiaStack
from bdia.train.job import recorded_config, train
from helpers.places import RESULTS
from helpers.training_helpers import TINY, compose_config

OLD = Path(__file__).parent / "run_97832fb"
SAME_CONFIG = (*TINY, "model.net.width=8", "model.net.depth=2", "model.net.heads=2", "model.net.head_dim=4",
               "model.net.mlp_hidden=8", "trainer.max_epochs=1", "stack=bdia", "name=old97832fb")  # fmt: skip


def old_record():
    return RunRecord.from_json((OLD / "record.json").read_text())


def test_the_table_is_one_to_one():
    assert len(HASHED_NAME) == len(PUBLIC_NAME)


def test_the_run_is_an_old_one():
    assert json.loads((OLD / "record.json").read_text())["config"]["data"]["_target_"] in PUBLIC_NAME


def test_an_old_record_reads_with_public_names_and_keeps_its_hash():
    record = old_record()
    assert record.config["data"]["_target_"] == "bdia.data.DigitsDataModule"
    assert config_sha256(record.config) == record.config_sha256


def test_every_committed_record_keeps_its_hash():
    records = read_records(RESULTS)
    assert len(records) > 40
    assert all(config_sha256(record.config) == record.config_sha256 for record in records)


def test_every_class_that_a_committed_record_names_is_there():
    texts = [json.dumps(with_public_names(record.config)) for record in read_records(RESULTS)]
    names = {name for text in texts for name in re.findall(r'"_target_": "([^"]*)"', text)}
    assert all(get_method(name) for name in names)


def test_an_old_and_a_new_record_of_one_config_do_not_differ():
    old, new = (
        old_record(),
        RunRecord(**{**vars(old_record()), "config": recorded_config(compose_config(*SAME_CONFIG))}),
    )
    settings = differing_settings([old, new])
    assert settings[0] == settings[1] == (("stack._target_", "bdia.reversible.BdiaStack"),)


def test_names_that_are_in_no_table_stay():
    config = {"a": [{"_target_": "torch.optim.AdamW"}], "b": "bdia.data.cifar.CifarDataModule"}
    assert with_public_names(config) == with_hashed_names(config) == config


def test_a_finished_run_is_not_run_again(tmp_path, one_thread):
    cfg = compose_config(*SAME_CONFIG, f"paths.runs={tmp_path / 'runs'}", f"paths.results={tmp_path / 'results'}")
    record = old_record()
    shutil.copytree(OLD, tmp_path / "runs" / cfg.name / f"{record.config_sha256[:8]}_s0")
    assert train(cfg) == record
    assert not (tmp_path / "results").exists()


def test_an_old_checkpoint_loads():
    assert type(load_run(OLD / "final.ckpt").net.blocks) is BdiaStack
