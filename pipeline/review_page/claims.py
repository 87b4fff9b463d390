"""Says who is at an image: claims that end by themselves, and that stop nobody.

    REVIEWS/claims/<key of the image>/<key of the reviewer>.json

Files, so that servers of several people on one bucket see each other. Only saving decides what
becomes of two reviewers' work.
"""

import hashlib
import json
import time
from dataclasses import dataclass

from pipeline.reviews.revision import review_key
from pipeline.storage import Storage, join

SECONDS = 90.0
"""Time after which a claim has ended unless it was made again."""
_MOST_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A reviewer who is at an image."""

    reviewer: str
    seconds_left: float


class Claims:
    """The claims of the images of one table."""

    def __init__(self, reviews: str, storage: Storage) -> None:
        self._folder, self._storage = join(reviews, "claims"), storage

    def make(self, image_id: str, *, reviewer: str) -> None:
        """Claims an image for 90 seconds from now."""
        content = json.dumps({"reviewer": reviewer, "until": time.time() + SECONDS})
        self._storage.write(self._file(image_id, reviewer), content.encode())

    def release(self, image_id: str, *, reviewer: str) -> None:
        """Ends a claim; one that does not exist is no error."""
        self._storage.delete([self._file(image_id, reviewer)])

    def of_image(self, image_id: str) -> list[Claim]:
        """Returns the claims that have not ended, the newest first."""
        found = []
        for file in self._storage.files(join(self._folder, review_key(image_id))):
            if file.uri.endswith(".json") and file.size <= _MOST_BYTES:
                claim = self._read(file.uri)
                if claim is not None:
                    found.append(claim)
        return sorted(found, key=lambda claim: -claim.seconds_left)

    def _read(self, uri: str) -> Claim | None:
        try:
            content = json.loads(self._storage.read(uri))
            left = float(content["until"]) - time.time()
            claim = Claim(reviewer=str(content["reviewer"]), seconds_left=round(left, 1))
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # ended, or damaged
            return None
        # A clock that is ahead must not make a claim last.
        return claim if 0 < left <= 2 * SECONDS else None

    def _file(self, image_id: str, reviewer: str) -> str:
        name = hashlib.sha256(reviewer.encode()).hexdigest()[:16]
        return join(self._folder, review_key(image_id), f"{name}.json")
