"""Where the files that come with es-ray are: task data and the bundled model."""

from pathlib import Path


def data_dir() -> Path:
    """`data/` in the wheel, or in the checkout."""
    package = Path(__file__).resolve().parent
    packaged = package / "_data"
    return packaged if packaged.is_dir() else package.parent / "data"
