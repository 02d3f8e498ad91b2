"""Which reader reads what `--data` names: a folder, a CSV file, or the word `digits`."""

from pathlib import Path

from craft_tuner.data.dataset import Dataset
from craft_tuner.data.digits import load_digits
from craft_tuner.data.folders import read_folders
from craft_tuner.data.tables import read_class_names, read_table
from craft_tuner.errors import DataError

DIGITS = "digits"


def read_dataset(source: str, *, class_names: Path | None = None) -> Dataset:
    """Read a dataset.

    Args:
        source: a folder of class folders, a CSV file, or "digits" for scikit-learn's digits.
        class_names: a file of `label = class name` lines.

    Raises:
        DataError: there is nothing at `source`, or its reader refuses it.
    """
    path = Path(source)
    renamed = read_class_names(class_names) if class_names else None
    if source == DIGITS and not path.exists():
        return load_digits()
    if path.is_dir():
        return read_folders(path, renamed=renamed)
    if path.is_file():
        return read_table(path, renamed=renamed)
    raise DataError(
        f"there is no dataset at {source!r}; give a folder of class folders, a CSV file with "
        f"columns path,label[,split], or {DIGITS!r}"
    )
