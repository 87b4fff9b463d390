"""Reads the encoded bytes of a table's photographs, each by itself, with the readers of the job.

Takes a row of `images`; `pictures.py` decodes the bytes. A member of an archive is read by its own
range, a row of a Parquet file by its number.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.corpora.encoded import EncodedImage
from pipeline.corpora.image_parts import ImagePart, ImageParts, MissingImage, MissingSource
from pipeline.corpora.reading import ReadSettings, read_source
from pipeline.storage import SourceChanged, Storage


class PhotographError(Exception):
    """A photograph cannot be shown; the message says why, for people."""


class PhotographReader:
    """Finds and reads photographs of a table's rows; may be used by several threads."""

    def __init__(self, *, storage: Storage, reading: ReadSettings, image_root: str | None) -> None:
        self._storage, self._reading = storage, reading
        self._has_moved = image_root is not None
        self._parts = ImageParts(storage=storage, reading=reading, image_root=image_root)

    def read(self, row: Mapping[str, Any]) -> EncodedImage:
        """Reads the photograph of a row.

        Raises:
            PhotographError: it is not what was segmented, or there is none any more.
            StorageFault: the storage failed, after retries.
        """
        image_id = row["image_id"]
        try:
            part = self._parts.find(row)
            if part.has_changed:
                raise PhotographError(
                    f"image {image_id}: {part.source.uri} has changed since it was segmented; put "
                    "the file back, or segment it again"
                )
            image = self._read(part, row)
        except MissingImage as error:
            is_hinted = isinstance(error, MissingSource) and not self._has_moved
            hint = "; if the corpus has moved, name its folder by --image_root"
            raise PhotographError(
                f"image {image_id}: {error}{hint if is_hinted else ''}"
            ) from error
        except (SourceChanged, FileNotFoundError) as error:
            raise PhotographError(f"image {image_id}: {error}") from error
        if image.error is not None:
            raise PhotographError(f"image {image_id}: {image.error}")
        return image

    def _read(self, part: ImagePart, row: Mapping[str, Any]) -> EncodedImage:
        image_id, source = row["image_id"], part.source
        if part.data_start is not None and part.data_stop is not None:
            size = part.data_stop - part.data_start
            if size > self._reading.max_image_bytes:
                raise PhotographError(
                    f"image {image_id}: it has {size} bytes; raise max_image_bytes"
                )
            data = self._storage.read(
                source.uri, etag=source.etag, start=part.data_start, stop=part.data_stop
            )
            return EncodedImage(
                image_id=image_id, uri=source.uri, member=row["member"], etag=source.etag, data=data
            )
        for image in read_source(source, storage=self._storage, settings=self._reading):
            if image.image_id == image_id:
                return image
        raise PhotographError(f"image {image_id}: it is no longer in {source.uri}")
