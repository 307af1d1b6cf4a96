"""LightningModules, named after their task. Each is imported when asked for: images need no tokenizer and no BLEU."""

from typing import TYPE_CHECKING

from bdia import lazy_names

if TYPE_CHECKING:
    from bdia.tasks.classification import ImageClassification
    from bdia.tasks.data_to_text import DataToText
    from bdia.tasks.language_modeling import LanguageModeling
    from bdia.tasks.task import Task
    from bdia.tasks.text import TextTask
    from bdia.tasks.translation import Translation

_MODULES = {
    "DataToText": ".data_to_text",
    "ImageClassification": ".classification",
    "LanguageModeling": ".language_modeling",
    "Task": ".task",
    "TextTask": ".text",
    "Translation": ".translation",
}

__all__ = ["DataToText", "ImageClassification", "LanguageModeling", "Task", "TextTask", "Translation"]

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
