"""The names that files, fields and the Hub give to splits."""

_NAMES = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "valid", "val", "dev", "development", "eval", "validation_matched", "trial"),
    "test": ("test", "testing", "tst", "test_matched"),
}
_SPLITS = {name: split for split, names in _NAMES.items() for name in names}


def split_named(name: object) -> str | None:
    """train, validation or test for a name such as dev; None for other names."""
    return _SPLITS.get(name.strip().lower()) if isinstance(name, str) else None
