"""Settings of the commands `gallery` and `review`."""

import os
import zlib
from dataclasses import dataclass
from urllib.parse import urlsplit

from pipeline.corpora.settings import ReadSettings
from pipeline.runtime.settings import WrongUsage
from pipeline.storage import Storage

TOKEN_VARIABLE = "MASKFORMER_REVIEW_TOKEN"
"""The environment variable with the token that opens the page; a random one where it is unset."""
SHORTEST_TOKEN = 16
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_EVERY_ADDRESS = ("0.0.0.0", "::")
_FIRST_PORT, _NUM_PORTS = 20_000, 20_000


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """Table to show, and what to show beside it."""

    table: str
    """Segment table: a folder or prefix."""
    reviews: str | None = None
    """Folder or prefix of the reviews, where it is not in the table."""
    agreement: str | None = None
    """Output of `maskformer compare`, to sort by disagreement."""
    image_root: str | None = None
    """Folder or prefix that the corpus has moved to. Photographs are then read from there, under
    their names relative to the corpus."""

    def __post_init__(self) -> None:
        if not self.table:
            raise ValueError("table must name a segment table, got an empty text")


@dataclass(frozen=True, kw_only=True)
class ReviewSettings:
    """Images to review, and the reviewer."""

    queue: str | None = None
    """Queue of `maskformer select`, whose images are shown in its order."""
    reviewer: str | None = None
    """Name in the revisions; by default that of this system's user."""
    reviewer_header: str | None = None
    """Header in which a proxy that signs people in names the reviewer, as X-Forwarded-User. Needs
    public_address."""

    def __post_init__(self) -> None:
        if self.reviewer is not None and not 0 < len(self.reviewer.strip()) <= 100:
            raise ValueError(f"reviewer must have 1 to 100 characters, got {self.reviewer!r}")


@dataclass(frozen=True, kw_only=True)
class PageSettings:
    """Address of the page."""

    host: str = "127.0.0.1"
    """Address to listen on. Another than this machine's own is refused without a token of at least
    16 characters in the environment variable MASKFORMER_REVIEW_TOKEN."""
    port: int | None = None
    """Port to listen on; by default one made from the table's location. So a browser finds the
    drafts of the last time again. 0 takes any free one."""
    public_address: str | None = None
    """Address of the page behind a proxy, as https://review.example.org."""
    no_open: bool = False
    """Print the address, and do not open it in this system's browser."""

    def __post_init__(self) -> None:
        if self.port is not None and not 0 <= self.port < 2**16:
            raise ValueError(f"port must be in [0, 65535], got {self.port}")
        if self.public_address is not None:
            parts = urlsplit(self.public_address)
            if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
                raise ValueError(
                    "public_address must be as https://review.example.org, got "
                    f"{self.public_address}"
                )
        elif self.host in _EVERY_ADDRESS:
            raise ValueError(
                f"host {self.host} needs public_address, the address that browsers show: requests "
                "under any other name are refused"
            )

    def given_token(self) -> str:
        """Returns the token of the environment; empty where there is none."""
        return os.environ.get(TOKEN_VARIABLE, "")

    def check_token(self) -> None:
        """Refuses a token that is too short, and other machines without a token.

        Raises:
            WrongUsage: with what to do.
        """
        given = self.given_token()
        if given and len(given) < SHORTEST_TOKEN:
            raise WrongUsage(
                f"{TOKEN_VARIABLE} must have at least {SHORTEST_TOKEN} characters, it has "
                f"{len(given)}"
            )
        if not given and self.host not in LOOPBACK:
            raise WrongUsage(
                f"--host {self.host} lets other machines in: set {TOKEN_VARIABLE} to a token of at "
                f"least {SHORTEST_TOKEN} characters, or leave --host at 127.0.0.1"
            )

    def port_for(self, table: str) -> int:
        """Returns the port to listen on."""
        if self.port is not None:
            return self.port
        return _FIRST_PORT + zlib.crc32(table.encode("utf-8", "backslashreplace")) % _NUM_PORTS


GALLERY = (ViewSettings, PageSettings, ReadSettings, Storage)
"""The parts of a gallery's settings."""

REVIEW = (ViewSettings, ReviewSettings, PageSettings, ReadSettings, Storage)
"""The parts of a review's settings."""
