"""A batch: the model's inputs by name.

The image processor makes it and `model.py` takes it.
"""

from typing import Any


class BatchFeature(dict[str, Any]):
    """The model's inputs by name, as keys and as attributes; `model(**batch)` takes them."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the batch has {sorted(self)}, not {name!r}") from None

    def to(self, *args: Any, **kwargs: Any) -> "BatchFeature":
        """A batch whose tensors went through their own `to`; only floats change their dtype."""
        return BatchFeature({name: _moved(value, args, kwargs) for name, value in self.items()})


def _moved(value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_moved(item, args, kwargs) for item in value]
    if not hasattr(value, "is_floating_point"):
        return value
    if value.is_floating_point():
        return value.to(*args, **kwargs)
    import torch

    devices = [arg for arg in args if not isinstance(arg, torch.dtype)]
    return value.to(*devices, **{key: arg for key, arg in kwargs.items() if key != "dtype"})
