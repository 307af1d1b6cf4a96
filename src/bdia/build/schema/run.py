"""What a run itself reads: its name, seed, folders."""

from typing import Annotated, Any, Required

from pydantic import Field
from typing_extensions import TypedDict

from bdia.build.schema.fields import FILLED, FLAG, whole

FOLDERS = Annotated[dict[str, Any], Field(strict=True, description="the folders paths.runs and paths.results")]


class Run(TypedDict, total=False):
    """The top of a config."""

    name: FILLED
    seed: whole(0, 2**32 - 1)
    rerun: FLAG
    paths: FOLDERS
    scale: FILLED


class Paths(TypedDict, total=False):
    """Folders."""

    runs: Required[FILLED]
    results: Required[FILLED]


SCHEMAS = {"a run": Run, "paths": Paths}
