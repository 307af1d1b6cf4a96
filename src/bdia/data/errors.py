"""What can be wrong with a data set, whatever its kind."""

from bdia import BdiaError


class DataNotFoundError(BdiaError, FileNotFoundError):
    """A data set is not where it was looked for and could not be fetched."""


class DataCorruptError(BdiaError, ValueError):
    """A data file is there, but is not what it should be."""
