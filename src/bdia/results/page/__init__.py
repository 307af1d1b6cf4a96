"""What results/report.html shows beside the studies' tables: their order, its first screen, the benchmarks."""
