"""The cost of training steps of a config, whatever its stack, batch and depth; short steps stand for long ones."""

from collections.abc import Callable, Sequence
from fractions import Fraction

from omegaconf import DictConfig, open_dict

from bdia import reversible
from bdia.build import compose
from bdia.profiling.alike import alike_moments
from bdia.profiling.moments import Moments, StepCost
from bdia.profiling.traced_step import TrainingStep, nothing_computed, trace_moments
from bdia.profiling.workload import Workload, build_workload
from bdia.reversible.stacks.registry import BY_CLASS

DEPTHS = ("depth", "encoder_depth", "decoder_depth")  # keys of a model's depth, in the order of its stacks


class ConfigSteps:
    """Steps of a config on made-up batches; each is traced once.

    Args:
        overrides: of configs/train.yaml, but for the stack.
        tokens, num_classes, vocab_size: of `bdia.profiling.workload.build_workload`.
        device: of `bdia.profiling.traced_step.trace_step`.
    """

    def __init__(
        self, overrides: Sequence[str], tokens: int | None, num_classes: int, vocab_size: int | None, device: str
    ) -> None:
        self.overrides, self.device = tuple(overrides), device
        self._batch_settings = tokens, "cpu", num_classes, vocab_size
        self._configs: dict[tuple[str, ...], DictConfig] = {}
        self._moments: dict[tuple, Moments] = {}
        self._whole: dict[tuple, Moments] = {}
        self._alike: dict[tuple[str, ...], bool] = {}
        self._costs: dict[tuple, StepCost] = {}

    def cost(self, stack: tuple[str, ...], batch: int, depths: tuple[int, ...]) -> StepCost:
        """Return what a step costs; `depths` are the blocks of each of the model's stacks."""
        key = stack, batch, depths
        if key not in self._costs:
            self._costs[key] = self.moments(*key).cost()
        return self._costs[key]

    def by_batch(
        self, stack: tuple[str, ...], batches: tuple[int, int], depths: tuple[int, ...]
    ) -> Callable[[int], int] | None:
        """Return the peak as a function of the batch, on lines through two batches; None if these take other steps."""
        (one, first), (other, second) = ((batch, self.moments(stack, batch, depths)) for batch in batches)
        if first.extended([(second, 1)]) is None:
            return None
        return lambda batch: first.extended([(second, Fraction(batch - one, other - one))]).cost().peak

    def moments(self, stack: tuple[str, ...], batch: int, depths: tuple[int, ...]) -> Moments:
        """Return what is alive after each operation of a step; the arguments are those of `cost`."""
        key = stack, batch, depths
        if key not in self._whole:
            cfg, found = self.config(stack, depths), None
            if self.alike(stack) and len(depths) == len(_depth_keys(cfg)):
                keep = cfg.stack.get("keep", 0)
                found = alike_moments(lambda short, kept: self._trace(stack, batch, short, kept), depths, keep)
            self._whole[key] = found or self._trace(stack, batch, depths)
        return self._whole[key]

    def alike(self, stack: tuple[str, ...]) -> bool:
        """Whether a stack treats all blocks in the same way, but for trailing ones that keep their activations."""
        if stack not in self._alike:
            settings = self.config(stack, None).stack
            row = BY_CLASS[_class_name(settings)]
            by_place = "gamma" in settings and issubclass(
                getattr(reversible, _class_name(settings.gamma)), reversible.PerBlock
            )
            self._alike[stack] = row.alike and not by_place and isinstance(settings.get("keep", 0), int)
        return self._alike[stack]

    def config(self, stack: tuple[str, ...], depths: tuple[int, ...] | int | None) -> DictConfig:
        """Return the config with a stack; None leaves the depth as it is."""
        if stack not in self._configs:
            self._configs[stack] = compose([*self.overrides, *stack])
        cfg = self._configs[stack].copy()
        net = cfg.model.net
        if "weights" in net:
            net.weights = None  # what they are makes no difference
        if depths is not None:
            keys = _depth_keys(cfg)
            with open_dict(net):
                net.update(dict(zip(keys, (depths,) * len(keys) if isinstance(depths, int) else depths, strict=True)))
        return cfg

    def workload(self, stack: tuple[str, ...], batch: int, depths: tuple[int, ...] | int | None) -> Workload:
        """Build a step without data: it is there to look at."""
        with nothing_computed(self.device):
            return build_workload(self.config(stack, depths), batch, *self._batch_settings)

    def _trace(self, stack: tuple[str, ...], batch: int, depths: tuple[int, ...], keep: int | None = None) -> Moments:
        key = stack, batch, depths, keep
        if key not in self._moments:
            self._moments[key] = trace_moments(lambda: self._step(*key), self.device)
        return self._moments[key]

    def _step(self, stack: tuple[str, ...], batch: int, depths: tuple[int, ...], keep: int | None) -> TrainingStep:
        cfg = self.config(stack, depths)
        if keep is not None and "keep" in cfg.stack:
            cfg.stack.keep = keep
        work = build_workload(cfg, batch, *self._batch_settings)
        return TrainingStep(work.task, work.optimizer, work.batch, work.step)


def _class_name(node: DictConfig) -> str:
    return str(node._target_.rpartition(".")[2])


def _depth_keys(cfg: DictConfig) -> list[str]:
    return [key for key in DEPTHS if key in cfg.model.net] or ["depth"]
