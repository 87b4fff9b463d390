"""Storage: files on a disk or in an object store, read and written whole, or as a clear fault."""

from pipeline.storage.faults import SourceChanged, StorageFault
from pipeline.storage.storage import File, Storage, join

__all__ = ["File", "SourceChanged", "Storage", "StorageFault", "join"]
