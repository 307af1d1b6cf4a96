"""Train one model from a config, or several with -m; a record per job. `python -m bdia.train experiment=demo`.

torch is imported when there is a job: --help, --cfg and a mistyped override are answered without it.
"""

import logging
import signal
import sys

import hydra
from omegaconf import DictConfig

from bdia.build import CONFIGS
from bdia.results.record import RunRecord
from bdia.train.probes import without
from bdia.train.refusals import end_of_job, one_line_errors


def train(cfg: DictConfig) -> RunRecord:
    """Train, test once, and write the record: `bdia.train.job.train`, which says what it raises."""
    from bdia.train.job import train

    return train(cfg)


@one_line_errors
@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Run one job; returns the test accuracy, BLEU or else loss for sweepers."""
    # torchmetrics and timm import these where they find them, for plots, scores and summaries that no run makes.
    with without("matplotlib", "transformers", "wandb"):
        import timm  # noqa: F401
        from lightning.pytorch.utilities.exceptions import SIGTERMException
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        record = train(cfg)
    except SIGTERMException:
        sys.exit(128 + signal.SIGTERM)  # Lightning exits with 0, which a launcher takes for success
    except Exception as error:
        end_of_job(error)
        raise
    results = (record.final(name, "test") for name in ("accuracy", "bleu", "loss"))
    return next((value for value in results if value is not None), None)


if __name__ == "__main__":
    main()
