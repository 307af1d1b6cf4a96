"""LightningModules, named after their task."""

from bdia.tasks.classification import ImageClassification
from bdia.tasks.language_modeling import LanguageModeling
from bdia.tasks.task import Task
from bdia.tasks.text import TextTask
from bdia.tasks.translation import Translation

__all__ = ["ImageClassification", "LanguageModeling", "Task", "TextTask", "Translation"]
