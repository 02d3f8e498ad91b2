"""What people call the splits of a dataset, as folders and in tables."""

TRAIN, VALIDATION, TEST = "train", "val", "test"

SPLITS = (TRAIN, VALIDATION, TEST)
"""As they are called here."""

_NAMES = {
    TRAIN: ("train", "training", "trainset"),
    VALIDATION: ("val", "valid", "validation", "dev", "development", "valset"),
    TEST: ("test", "testing", "testset", "eval", "evaluation"),
}
_SPLIT_OF = {name: split for split, names in _NAMES.items() for name in names}


def split_of(name: str) -> str | None:
    """The split that a folder or a table's cell names, whatever its case; None: it names none."""
    plain = name.strip().lower().replace("_", "").replace("-", "").replace(" ", "")
    return _SPLIT_OF.get(plain)
