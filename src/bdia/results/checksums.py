"""What the checksums in records say of the data behind them."""

from collections.abc import Sequence

from bdia.results.record import RunRecord

# SHA-256 of a test set -> what is to be known of the data set. A record's `data_sha256` names it.
KNOWN = {
    "23d072a67e402745bbacd08a40c1e9c3587a930413de59138b02be736c60cda1": (
        "CIFAR-10 here is not the official copy to the last pixel: 97 of its 60,000 images are decoded JPEGs, "
        "77 of training and 20 of test"
    ),
}
OLD_CIFAR10 = next(iter(KNOWN))  # what records of CIFAR-10 without a checksum were measured on


def data_remark(data_sha256: dict[str, str]) -> str:
    """Return what is to be known of the data with these checksums, "" where nothing is."""
    return KNOWN.get(data_sha256.get("test", ""), "")


def data_notes(records: Sequence[RunRecord]) -> list[str]:
    """Return one note per remark on the data of an experiment, with what stands for it in the records."""
    notes = []
    for sha, remark in KNOWN.items():
        named = [record for record in records if record.data_sha256.get("test") == sha]
        older = [record for record in records if sha == OLD_CIFAR10 and _is_older_cifar10(record)]
        if named or older:
            proof = f"test set's SHA-256 {sha[:12]} in {len(named)} record(s)" if named else ""
            lacking = f"{len(older)} record(s) older than the checksum" if older else ""
            notes.append(f"{remark} ({'; '.join(filter(None, [proof, lacking]))}).")
    return notes


def _is_older_cifar10(record: RunRecord) -> bool:
    data = record.config.get("data")
    return not record.data_sha256 and isinstance(data, dict) and data.get("name") == "cifar10"
