"""Peak of what one call takes from the CPU's allocator: for compiled code, whose tensors no dispatch mode sees."""

import itertools
import os
from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def allocator_peak(call: Callable[[], object]) -> int:
    """Return the largest number of bytes that a call has taken and not yet given back, on the CPU.

    torch's profiler notes every block that the CPU's allocator gives out and takes back, to torch's operations and to
    compiled code alike. So temporaries inside one operation are counted too, which `StorageMeter` does not see.
    What was allocated before the call is not counted, and neither is its release.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler's own lines stand between those of a study
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr] # there is one after the `with`
    blocks = sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns())
    return max(itertools.accumulate((block.nbytes() for block in blocks), initial=0))
