"""Which gamma suits pretrained weights: python scripts/finetune_gamma.py [--data DIR] [--quick].

Two small decoders are pretrained as standard models (once; kept in runs/pretrained). Each is then fine-tuned on a
small text of another kind, fully and with LoRA, as the standard model and converted by `bdia.convert` with several
laws of gamma, three seeds each. Validation is always that of the standard model. The learning rate of a cell is the
standard model's best of three. Training takes backward="stored", whose weights equal those of "reversible"; a
check compares both. A last part measures what the grid alone costs, from 5 to 15 bits.

The rule for the default, fixed before the first run. A law is acceptable if its final validation loss, mean over the
seeds, is at most 0.01 nat above that of the standard model in each of the four cells (two models, full and LoRA). Of
the acceptable laws, the default is the one that needs the fewest bits of side information in its most expensive pass;
of equal ones, the one with the lower mean loss. If none is acceptable, it is the law whose worst cell costs least. A
fifth cell has so little text that training over-fits. It shows whether gamma regularises; the rule does not look at
it.

Writes results/finetune_gamma/<utc>_<sha7>.json, then results/tables/finetune_gamma.md from it. `--table FILE` makes
the table again from a document.
"""

from gamma_study.command import main

if __name__ == "__main__":
    main()
