"""What was wrong with the input, in one line: for the command line, where a traceback would bury it."""

import dis
import functools
import logging
import os
import sys
from collections.abc import Callable
from types import TracebackType

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

log = logging.getLogger("bdia")

# As the process was started: `one_line_errors` sets it for Hydra.
_FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR") == "1"


def refusal(error: BaseException) -> str | None:
    """Return what the user should read of an error of the input, one line; None for an accident in the code.

    An error of the input is one that was raised on purpose, by a `raise` in this package, in Hydra or in a constructor
    that the config names, and everything that Hydra and OmegaConf have error classes for.
    """
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        return _refused_instantiation(error)
    known = isinstance(error, HydraException | OmegaConfBaseException)
    # An error from another process comes without its traceback, and is raised again by hydra.core.utils: an accident.
    ours = (
        _on_purpose(error) and _module(error).startswith(("bdia.", "hydra.")) and _module(error) != "hydra.core.utils"
    )
    return _one_line(error) if known or ours else None


def _refused_instantiation(error: InstantiationException) -> str | None:
    """Return what the constructor said; Hydra's words around it where ours do not name the key themselves."""
    inner = refusal(error.__cause__)
    if inner is None and (_on_purpose(error.__cause__) or _module(error.__cause__).startswith("hydra.")):
        return _one_line(error)
    return inner


def _one_line(error: BaseException) -> str:
    text, _, _ = str(error).partition("Config search path:")
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException):
        text = f"{text}: {str(cause).partition(chr(10))[0]}"
    return " ".join(text.split()) or type(error).__name__


def _last(error: BaseException) -> TracebackType | None:
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last


def _on_purpose(error: BaseException) -> bool:
    """Tell whether a `raise` made the error, and not e.g. an index out of range."""
    last = _last(error)
    if last is None or isinstance(error, AssertionError | NotImplementedError):
        return False
    return last.tb_frame.f_code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _module(error: BaseException) -> str:
    last = _last(error)
    return "" if last is None else last.tb_frame.f_globals.get("__name__", "")


def end_of_job(error: Exception) -> None:
    """End the process with one line if a single job's input was wrong; of a sweep's job, log the line and return."""
    line = None if _FULL_ERROR or not HydraConfig.initialized() else refusal(error)
    if line is not None:
        if HydraConfig.get().mode == RunMode.RUN:  # a sweep goes on with the other jobs
            sys.exit(f"error: {line}")
        log.error(line)


def one_line_errors(main: Callable[..., None]) -> Callable[..., None]:
    """Wrap a `hydra.main`: what is wrong with the config is said in one line, an accident keeps its traceback.

    HYDRA_FULL_ERROR=1 in the environment shows the traceback of everything.
    """

    @functools.wraps(main)
    def wrapped(*arguments: object) -> None:
        if _FULL_ERROR:
            return main(*arguments)
        os.environ["HYDRA_FULL_ERROR"] = "1"  # hand errors over instead of printing them
        try:
            return main(*arguments)
        except Exception as error:
            if (line := refusal(error)) is None:
                raise
            sys.exit(f"error: {line}")

    return wrapped
