"""Language modelling: the loss of every next token."""

from torch import Tensor

from bdia.tasks.text import TextTask

Batch = tuple[Tensor]  # tokens (B, T + 1) int64


class LanguageModeling(TextTask):
    """Cross-entropy of token t + 1 given tokens 0..t, nat, and perplexity."""

    kind = "documents"

    def nll(self, batch: Batch, label_smoothing: float) -> tuple[Tensor, int]:
        """Return the summed loss of a batch and its number of predicted tokens, B * T."""
        (tokens,) = batch
        return self.net.nll(tokens[:, :-1], tokens[:, 1:], label_smoothing)

    def size(self, batch: Batch) -> int:
        """Predicted tokens of a batch."""
        return batch[0][:, 1:].numel()
