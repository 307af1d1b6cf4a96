"""Config group `data`, with its sources and tokenizers."""

from typing import Required

from typing_extensions import TypedDict

from bdia.build.schema.fields import (
    FILLED,
    FLAG,
    NODE,
    SEED,
    SHARE,
    SIZE,
    TEXT,
    either,
    list_of,
    maybe,
    number,
    one_of,
    texts_by_name,
    whole,
)

LANGUAGES = list_of(FILLED, 2, 2)
VOCABULARY = whole(257, 65_536)


class Images(TypedDict, total=False):
    """What every image data module reads."""

    batch_size: SIZE
    eval_batch_size: SIZE
    val_fraction: SHARE
    train_per_class: maybe(SIZE)
    augmentation: one_of("none", "crop_flip")
    seed: SEED


class Cifar(Images, total=False):
    """CIFAR-10 and CIFAR-100."""

    name: Required[one_of("cifar10", "cifar100")]
    data_dir: FILLED
    download: FLAG


class Translation(TypedDict, total=False):
    """Sentence pairs in batches of about so many tokens."""

    source: Required[NODE]
    tokenizer: Required[NODE]
    token_budget: SIZE
    eval_token_budget: SIZE
    max_length: whole(2)
    data_dir: FILLED
    seed: SEED


class Prompts(Translation, total=False):
    """Prompts and the texts that answer them."""

    separator: TEXT


class Tokens(TypedDict, total=False):
    """Documents as one stream of tokens, cut into windows."""

    source: Required[NODE]
    tokenizer: Required[NODE]
    context: SIZE
    batch_size: SIZE
    eval_batch_size: SIZE
    fraction: number(0, 1, above=True)
    val_fraction: SHARE
    test_fraction: SHARE
    split_seed: SEED
    data_dir: FILLED
    cache_dir: FILLED
    seed: SEED


class MadeUp(TypedDict, total=False):
    """Pairs made by rules."""

    train: SIZE
    val: SIZE
    test: SIZE
    seed: SEED


class Files(TypedDict, total=False):
    """One file per language and split."""

    folder: Required[FILLED]
    files: Required[texts_by_name(FILLED)]
    languages: LANGUAGES
    limit: maybe(SIZE)
    seed: SEED


class Split(TypedDict, total=False):
    """A source that this project splits."""

    languages: LANGUAGES
    val_fraction: SHARE
    test_fraction: SHARE
    limit: maybe(SIZE)
    seed: SEED


class Columns(Split, total=False):
    """One file of tab-separated columns."""

    file: Required[FILLED]
    columns: list_of(FILLED, 2)


class HubPairs(Split, total=False):
    """Pairs from the Hugging Face hub."""

    name: FILLED
    config: FILLED
    cache_dir: maybe(FILLED)


class TextFiles(TypedDict, total=False):
    """Documents in text files."""

    paths: Required[either(FILLED, list_of(FILLED, 1))]
    separator: TEXT
    section: maybe(SIZE)


class TokenFile(TypedDict, total=False):
    """A file of token numbers."""

    path: Required[FILLED]
    end_of_document: whole(0, 65_535)


class HubText(TypedDict, total=False):
    """Documents from the Hugging Face hub."""

    name: Required[FILLED]
    count: Required[SIZE]
    split: FILLED
    column: FILLED
    revision: maybe(FILLED)


class E2e(TypedDict, total=False):
    """The E2E files."""

    folder: FILLED
    train: FILLED
    val: maybe(FILLED)
    test: FILLED
    val_fraction: SHARE
    limit: maybe(SIZE)
    test_limit: maybe(SIZE)
    seed: SEED


class Nothing(TypedDict, total=False):
    """No settings."""


class CorpusBpe(TypedDict, total=False):
    """A vocabulary learned from the training text."""

    vocab_size: Required[VOCABULARY]


class Gpt2Bpe(TypedDict, total=False):
    """GPT-2's tokenizer."""

    folder: maybe(FILLED)


class Saved(TypedDict, total=False):
    """A tokenizer.json."""

    path: Required[FILLED]


SCHEMAS = {
    "bdia.data.CifarDataModule": Cifar,
    "bdia.data.DigitsDataModule": Images,
    "bdia.data.TranslationDataModule": Translation,
    "bdia.data.PromptDataModule": Prompts,
    "bdia.data.TokenDataModule": Tokens,
    "bdia.data.Numbers": MadeUp,
    "bdia.data.MadeUpRestaurants": MadeUp,
    "bdia.data.ParallelFiles": Files,
    "bdia.data.TabSeparated": Columns,
    "bdia.data.HubPairs": HubPairs,
    "bdia.data.TextFiles": TextFiles,
    "bdia.data.TokenFile": TokenFile,
    "bdia.data.HubText": HubText,
    "bdia.data.E2eFiles": E2e,
    "bdia.data.Pydoc": Nothing,
    "bdia.data.Bytes": Nothing,
    "bdia.data.CorpusBpe": CorpusBpe,
    "bdia.data.Gpt2Bpe": Gpt2Bpe,
    "bdia.data.SavedTokenizer": Saved,
}
