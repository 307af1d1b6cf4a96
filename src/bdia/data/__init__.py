"""Data modules and their sources, by their public names; each is imported when it is asked for."""

from typing import TYPE_CHECKING

from bdia import lazy_names

if TYPE_CHECKING:  # what a type checker or an editor reads
    from bdia.data.errors import DataCorruptError as DataCorruptError
    from bdia.data.errors import DataNotFoundError as DataNotFoundError
    from bdia.data.images.cifar import CifarDataModule as CifarDataModule
    from bdia.data.images.digits import DigitsDataModule as DigitsDataModule
    from bdia.data.module import DataModule as DataModule
    from bdia.data.text.documents import Pydoc as Pydoc
    from bdia.data.text.documents import TextFiles as TextFiles
    from bdia.data.text.documents import TokenFile as TokenFile
    from bdia.data.text.e2e import E2eFiles as E2eFiles
    from bdia.data.text.hub import HubPairs as HubPairs
    from bdia.data.text.hub import HubText as HubText
    from bdia.data.text.numbers import Numbers as Numbers
    from bdia.data.text.pairs import ParallelFiles as ParallelFiles
    from bdia.data.text.pairs import TabSeparated as TabSeparated
    from bdia.data.text.prompts import PromptDataModule as PromptDataModule
    from bdia.data.text.restaurants import MadeUpRestaurants as MadeUpRestaurants
    from bdia.data.text.tokenizer import Bytes as Bytes
    from bdia.data.text.tokenizer import CorpusBpe as CorpusBpe
    from bdia.data.text.tokenizer import Gpt2Bpe as Gpt2Bpe
    from bdia.data.text.tokenizer import SavedTokenizer as SavedTokenizer
    from bdia.data.text.tokens import TokenDataModule as TokenDataModule
    from bdia.data.text.translation import TranslationDataModule as TranslationDataModule

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
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
