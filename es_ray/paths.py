"""Where the files lie that come with es-ray: task data and the bundled model."""

from pathlib import Path


def data_dir() -> Path:
    """`data/` as the wheel carries it, or that of the checkout."""
    package = Path(__file__).resolve().parent
    packaged = package / "_data"
    return packaged if packaged.is_dir() else package.parent / "data"
