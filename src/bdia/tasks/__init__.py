"""LightningModules, named after their task. Each is imported when asked for: images need no tokenizer and no BLEU."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bdia.tasks.classification import ImageClassification
    from bdia.tasks.data_to_text import DataToText
    from bdia.tasks.language_modeling import LanguageModeling
    from bdia.tasks.task import Task
    from bdia.tasks.text import TextTask
    from bdia.tasks.translation import Translation

_MODULES = {
    "DataToText": "data_to_text",
    "ImageClassification": "classification",
    "LanguageModeling": "language_modeling",
    "Task": "task",
    "TextTask": "text",
    "Translation": "translation",
}

__all__ = ["DataToText", "ImageClassification", "LanguageModeling", "Task", "TextTask", "Translation"]


def __getattr__(name: str) -> Any:
    """Import the task's module (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
