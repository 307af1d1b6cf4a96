"""`make bench`: step time, throughput and memory of every stack, variants interleaved in one process."""
