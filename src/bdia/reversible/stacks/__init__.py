"""How blocks are chained, and what backward keeps of them. Models take a stack and do not know which."""
