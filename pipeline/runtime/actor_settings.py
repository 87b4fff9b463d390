"""Settings of actors: how many there are, and what each reserves of the cluster."""

from dataclasses import dataclass

from pipeline.runtime.bounds import check_above_zero, check_at_least


@dataclass(frozen=True, kw_only=True)
class ActorSettings:
    """Actors, and the resources that each reserves."""

    ray_address: str | None = None
    """Ray cluster; by default RAY_ADDRESS, else this machine alone."""
    dashboard: bool = False
    """Print where Ray's dashboard is; a cluster of this machine has one only then."""
    num_actors: int | None = None
    """Processes with a model; by default one per GPU, or per core. As far as memory allows."""
    actor_gpus: float | None = None
    """GPUs of an actor, 0.5 for two actors on one; by default 1, or 0 without GPUs."""
    actor_cpus: float | None = None
    """CPUs that an actor reserves. By default a fifth of a node's for all its actors; beside GPUs 3
    for each where there are 8 or more for each, else at most 1."""
    reader_cpus: float | None = None
    """CPUs that a reading task reserves; by default 1 beside a GPU, or 0.5."""
    block_images: int | None = None
    """Images that go to an actor at once, of the usual shape; by default 16, or beside a GPU 256,
    less where the object store has no room for them."""

    def __post_init__(self) -> None:
        check_above_zero(self, "num_actors", "actor_cpus", "reader_cpus", "block_images")
        check_at_least(0, self, "actor_gpus")

    def reader_cpus_beside(self, *, actor_gpus: float) -> float:
        """Returns the CPUs of a reading task; beside a GPU it decodes all the time."""
        return self.reader_cpus or (1.0 if actor_gpus else 0.5)
