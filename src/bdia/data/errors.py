"""What can be wrong with a data set, whatever its kind."""


class DataNotFoundError(FileNotFoundError):
    """A data set is not where it was looked for and could not be fetched."""


class DataCorruptError(ValueError):
    """A data file is there, but is not what it should be."""
