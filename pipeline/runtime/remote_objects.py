"""Objects that the processes of a run share: the caller names a method and gives its arguments.

On Ray they are actors. Where workers are children of the driver, the driver has the objects.
"""

import sys
from dataclasses import dataclass
from typing import Any, Protocol


class RemoteObject(Protocol):
    """An object whose methods any process of a run may call."""

    def ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Calls the method and waits for what it returns."""
        ...

    def tell(self, method: str, *args: Any, **kwargs: Any) -> None:
        """Calls the method and does not wait."""
        ...


@dataclass(frozen=True)
class LocalObject:
    """An object of this process."""

    target: Any

    def ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.target, method)(*args, **kwargs)

    def tell(self, method: str, *args: Any, **kwargs: Any) -> None:
        self.ask(method, *args, **kwargs)


@dataclass(frozen=True)
class RayObject:
    """An actor of Ray."""

    actor: Any

    def ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        import ray

        return ray.get(getattr(self.actor, method).remote(*args, **kwargs))

    def tell(self, method: str, *args: Any, **kwargs: Any) -> None:
        getattr(self.actor, method).remote(*args, **kwargs)


def loaded_ray() -> Any | None:
    """Returns the module `ray` in a process that has it, as all processes of a cluster do.

    Importing it takes a second, which processes without a cluster do without.
    """
    return sys.modules.get("ray")
