"""BDIA-transformer: exact bit-level reversible training of standard transformers (arXiv 2407.09093)."""
