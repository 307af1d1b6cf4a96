"""Data modules and their sources, by their public names; each is imported when it is asked for."""

from bdia import lazy_names

_MODULES = {
    "CifarDataModule": ".cifar",
    "DigitsDataModule": ".digits",
    "TokenDataModule": ".text",
    "TranslationDataModule": ".translation",
    "PromptDataModule": ".prompts",
    "Pydoc": ".documents",
    "TextFiles": ".documents",
    "TokenFile": ".documents",
    "HubText": ".hub",
    "HubPairs": ".hub",
    "ParallelFiles": ".pairs",
    "TabSeparated": ".pairs",
    "Numbers": ".numbers",
    "E2eFiles": ".e2e",
    "MadeUpRestaurants": ".restaurants",
    "Bytes": ".tokenizer",
    "CorpusBpe": ".tokenizer",
    "Gpt2Bpe": ".tokenizer",
    "SavedTokenizer": ".tokenizer",
    "DataModule": ".module",
    "DataCorruptError": ".errors",
    "DataNotFoundError": ".errors",
}

__all__ = list(_MODULES)
__getattr__ = lazy_names(__name__, _MODULES)
