"""Storage: files on a disk or in an object store, read and written whole, or as a clear fault."""

from pipeline.storage.faults import SourceChanged, StorageFault
from pipeline.storage.file import File
from pipeline.storage.storage import Storage
from pipeline.storage.uris import below, is_complete, join

__all__ = ["File", "SourceChanged", "Storage", "StorageFault", "below", "is_complete", "join"]
