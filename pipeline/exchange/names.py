"""Names images in exports: paths that any disk, bucket and reader takes, and that never leave OUT.

An image_id is any text: it may climb (`../x`), be absolute, hold characters that some disk refuses,
or be longer than a name may be.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

from pipeline.corpora.endings import IMAGE_ENDINGS, ending

_REFUSED = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
_FILE = re.compile(r"(?i)\.(tar(\.\w+)?|t[gbx]z2?|tb2|tzst|parquet)$")
"""Ending of a file that holds images: their ids begin with its name, and a folder called x.tar
would be taken for a file."""
_LONGEST_PART_BYTES = 180
"""Of a file's name 255 bytes are allowed; endings and names of drafts take some."""
_LONGEST_BYTES = 700
"""Of an object's name 1,024 bytes are allowed."""


def stem_of(
    image_id: str,
    *,
    has_ending: bool,
    reserved_folders: Iterable[str] = (),
    allows_dots: bool = True,
    allows_folders: bool = True,
) -> str:
    """Returns the path of an image in an export, without its extension.

    Different images may get the same; `told_apart` changes such.

    Args:
        has_ending: True if the image_id is the name of a file: the ending of an image is cut off.
        reserved_folders: folders that mean something to readers, and are renamed.
        allows_dots: False to keep dots out of the last part.
        allows_folders: False for names without folders; two underscores stand between their parts.
    """
    name = unicodedata.normalize("NFC", image_id)
    before = name.rpartition(".")[0]
    if has_ending and ending(name) in IMAGE_ENDINGS and before.rpartition("/")[2]:
        name = before
    reserved = frozenset(reserved_folders)
    *folders, last = [part for part in name.split("/") if part not in ("", ".")] or ["image"]
    folders = [_safe(_FILE.sub("", part) or part) for part in folders]
    parts = [f"{part}_" if part in reserved else part for part in folders]
    last = _safe(last)
    parts.append(last if allows_dots else last.replace(".", "_"))
    path = "/".join(parts) if allows_folders else _safe("__".join(parts))
    return path if len(path.encode()) <= _LONGEST_BYTES else _digest(image_id, 32)


def same_place(stem: str) -> str:
    """Returns what two names have in common that some disk or reader takes for one."""
    return stem.casefold()


def told_apart(stem: str, image_id: str) -> str:
    """Returns the name of an image whose stem another image has too; order plays no part."""
    return f"{stem}-{_digest(image_id, 10)}"


def _safe(part: str) -> str:
    name = _REFUSED.sub("_", part.encode(errors="backslashreplace").decode())
    name = f"_{name[1:]}" if name.startswith(".") else name
    name = f"{name[:-1]}_" if name.endswith((".", " ")) else name
    data = name.encode()
    if len(data) <= _LONGEST_PART_BYTES:
        return name
    return f"{data[:_LONGEST_PART_BYTES].decode(errors='ignore')}-{_digest(part, 10)}"


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:digits]
