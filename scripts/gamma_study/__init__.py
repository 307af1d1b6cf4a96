"""Parts of the study `scripts/finetune_gamma.py`: texts, models, training, bits, statistics, table."""
