"""Checks the numbers of settings; those that are None are not given, and right."""


def check_at_least(least: float, settings: object, *names: str) -> None:
    """Raises ValueError for a number below `least`."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def check_above_zero(settings: object, *names: str) -> None:
    """Raises ValueError for a number that is not above 0."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")


def check_shares(settings: object, *names: str) -> None:
    """Raises ValueError for a number outside of [0, 1]."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")
