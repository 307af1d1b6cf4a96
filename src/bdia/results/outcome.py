"""The one number by which the runs of an experiment are compared, by task: the one place that knows it."""

from collections.abc import Sequence
from dataclasses import dataclass

from bdia.results.record import RunRecord
from bdia.results.variants import task_class


@dataclass(frozen=True)
class Result:
    """What the runs of a task are compared by.

    Args:
        name: the metric, a key of `UNITS`.
        text: its name and unit for a reader.
        higher: whether more is better.
        task: class of the LightningModule.
        at_best: the result is the value at the best validation epoch, not the last one.
        curves: the metrics drawn over the optimizer steps.
        figure: the paper's figure with the same curves; "" where it has none.
    """

    name: str
    text: str
    higher: bool
    task: str
    at_best: bool
    curves: tuple[str, ...]
    figure: str


ACCURACY = Result("accuracy", "accuracy, %", True, "ImageClassification", False, ("accuracy", "loss"), "Fig. 3, ViT")
BLEU = Result("bleu", "BLEU", True, "Translation", False, ("loss",), "Fig. 4, translation")
PROMPTS = Result("bleu", "BLEU", True, "DataToText", False, ("loss",), "")
PERPLEXITY = Result("perplexity", "perplexity", False, "LanguageModeling", True, ("loss",), "Fig. 5, GPT-2")
RESULTS = (BLEU, PROMPTS, ACCURACY, PERPLEXITY)  # in this order, as translation has a perplexity, too


def result_of(records: Sequence[RunRecord]) -> Result:
    """Return the result of the records' task; for a task of another name, the first that the records hold."""
    tasks = {task_class(record.config) for record in records}
    held = {row.name for record in records for row in record.metrics}
    return next(
        (result for result in RESULTS if tasks == {result.task}),
        next((result for result in RESULTS if result.name in held), ACCURACY),
    )
