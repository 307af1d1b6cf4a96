"""Which errors say that memory ran out. Imports no torch, so that results can read it."""

PHRASES = ("can't allocate memory", "bad_alloc")  # of torch's RuntimeErrors on a CPU


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    named = isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return named or any(phrase in str(error) for phrase in PHRASES)
