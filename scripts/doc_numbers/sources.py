"""Numbers of the records in results/, by the words that a marker in README.md or docs/ names them with.

Sources, and the words that follow each:

  run EXPERIMENT VARIANT [SPLIT] METRIC   final value, mean ± std over seeds: run table1_cifar10_cpu bdia test accuracy
  best EXPERIMENT VARIANT SPLIT METRIC    the same of the lowest value of the curve
  rise EXPERIMENT VARIANT SPLIT METRIC    the same of last value minus lowest
  bench PART MODEL DEPTH VARIANT FIELD    newest file of results/bench that holds it: bench lora llama 48 bdia_half peak
                                          PART@COMMIT: the file of that commit
  depth STACK BLOCKS FIELD                newest file of results/depth/vit_paper: peak or held
  study NAME KEY=VALUE ... FIELD          newest file of results/NAME: study whole_step depth=24 way=bdia peak_ratio
  gpu MODEL DEPTH CASE VARIANT FIELD      results/gpu/h100: gpu llama 48 added bdia_gamma_1_2 peak_mib
  plan MODEL MEMORY STACK FIELD           results/plans: plan vit_large 24GiB bdia_keep_0 largest_batch
  planned_worst                           results/plans/measured: the largest difference of a planned peak, bytes
  paired EXPERIMENT VARIANT VARIANT SPLIT METRIC   mean difference over the seeds that both have, ± its deviation
  interval EXPERIMENT VARIANT VARIANT SPLIT METRIC   its 95 % t interval, as text
  gamma CELL LAW FIELD                    newest file of results/finetune_gamma: val, difference, bits, ...
  minutes EXPERIMENT                      sum of the wall time of the runs that count, one after another
  seeds EXPERIMENT                        number of seeds that every variant has
  families                                number of model families that scripts/families.py tried
  origin EXPERIMENT                       commit, device and torch of the runs, as text
  origin FOLDER/                          the same of the newest file of a folder of results/

A variant's word is its label in lower case with `_` for all else. Bytes are given in MiB.
"""

from collections.abc import Callable

from bdia.results.statistics import Spread
from doc_numbers.common import UnknownNumberError
from doc_numbers.documents import bench, depth, families, gamma, gpu, newest, plan, planned_worst, study
from doc_numbers.runs import best, counted, interval, minutes, paired, rise, run, seeds

Value = float | str | Spread


def number(words: str) -> Value:
    """Return the value that the words name; `A / B` is the ratio of two, `A - B` their difference.

    Raises:
        UnknownNumberError: no record holds it.
    """
    for sign, apply in (("/", lambda a, b: a / b), ("-", lambda a, b: a - b)):
        first, found, second = words.partition(f" {sign} ")
        if found:
            return apply(mean(number(first)), mean(number(second)))
    source, *rest = words.split()
    if source not in SOURCES:
        raise UnknownNumberError(f"{words}: wanted one of {', '.join(SOURCES)} first")
    return SOURCES[source](*rest)


def mean(value: Value) -> float:
    """Return the number itself, or the mean over seeds.

    Raises:
        UnknownNumberError: it is a text.
    """
    if isinstance(value, str):
        raise UnknownNumberError(f"{value}: a text is no number")
    return value.mean if isinstance(value, Spread) else value


def origin(name: str) -> str:
    """Return which code ran where."""
    if name.endswith("/"):
        found = newest(name.removesuffix("/"))
        about = found.get("about") or found["git"] | found.get("versions", {}) | found.get("device", {})
        return origin_text({(about["sha"], about.get("name") or about.get("device") or "a CPU", about["torch"])})
    runs = counted(name)
    return origin_text({(run.git["sha"], run.device["name"], run.device["torch"]) for run in runs})


def origin_text(found: set[tuple[str, str, str]]) -> str:
    """Return e.g. "commit 8f2bfb1, Intel(R) Xeon(R) Processor, torch 2.14.0"."""
    texts = {f"commit {sha[:7]}, {device}, torch {torch.partition('+')[0]}" for sha, device, torch in found}
    return "; ".join(sorted(texts))


SOURCES: dict[str, Callable[..., Value]] = {
    "run": run, "best": best, "rise": rise, "bench": bench, "depth": depth, "gpu": gpu, "plan": plan, "gamma": gamma,
    "paired": paired, "interval": interval, "minutes": minutes, "seeds": seeds,
    "families": families, "origin": origin, "planned_worst": planned_worst, "study": study,
}  # fmt: skip
