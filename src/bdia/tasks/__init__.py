"""LightningModules, named after their task."""

from bdia.tasks.classification import ImageClassification
from bdia.tasks.task import Task

__all__ = ["ImageClassification", "Task"]
