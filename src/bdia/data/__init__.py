"""Data modules and their sources, by their public names; each is imported when it is asked for."""

from bdia import lazy_names

_MODULES = {
    "CifarDataModule": ".images.cifar",
    "DigitsDataModule": ".images.digits",
    "TokenDataModule": ".text.tokens",
    "TranslationDataModule": ".text.translation",
    "PromptDataModule": ".text.prompts",
    "Pydoc": ".text.documents",
    "TextFiles": ".text.documents",
    "TokenFile": ".text.documents",
    "HubText": ".text.hub",
    "HubPairs": ".text.hub",
    "ParallelFiles": ".text.pairs",
    "TabSeparated": ".text.pairs",
    "Numbers": ".text.numbers",
    "E2eFiles": ".text.e2e",
    "MadeUpRestaurants": ".text.restaurants",
    "Bytes": ".text.tokenizer",
    "CorpusBpe": ".text.tokenizer",
    "Gpt2Bpe": ".text.tokenizer",
    "SavedTokenizer": ".text.tokenizer",
    "DataModule": ".module",
    "DataCorruptError": ".errors",
    "DataNotFoundError": ".errors",
}

__all__ = list(_MODULES)
__getattr__ = lazy_names(__name__, _MODULES)
