"""How PyTorch is made to drop residual streams in forward and to rebuild them in backward. `passes` draws one step."""
