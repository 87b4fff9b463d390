"""Archives that are whole are read like tarfile reads them; those that are not are found out."""

import bz2
import gzip
import io
import lzma
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable

import pyarrow as pa
import pytest
from drawn_archives import (
    images_by_name,
    photographs,
    read_members,
    tar_in_format,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpora.archives import members
from pipeline.corpora.samples import samples

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}


def special(name: str, *, kind: bytes, target: str = "", data: bytes = b"") -> bytes:
    """Writes one member that is no plain file, without an end."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(data)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


@pytest.mark.parametrize("format", FORMATS)
def test_a_tar_cut_at_any_block_keeps_its_whole_images_and_says_where_it_ends(format):
    whole = photographs(5, format=FORMATS[format])
    kept = list(members(io.BytesIO(whole)))
    expected = images_by_name(read_members(whole)[0])
    first_zeros = max(member.data_offset + member.size for member in kept)
    first_zeros += -first_zeros % 512
    for cut in range(0, len(whole) + 1, 512):
        found, damage = read_members(whole[:cut])
        inside = [member for member in kept if member.data_offset + member.size <= cut]
        assert images_by_name(found) == {member.name: expected[member.name] for member in inside}
        if cut > first_zeros:
            assert damage is None
            continue
        assert damage is not None
        assert damage.truncated
        assert damage.offset == next((m.offset for m in kept if m not in inside), first_zeros)
        assert str(damage.offset) in damage.message


def test_tarfile_is_silent_where_we_are_not():
    whole = photographs(5, format=tarfile.GNU_FORMAT, longest=False)
    third = list(members(io.BytesIO(whole)))[2]
    for cut in (third.offset, third.offset + 100, third.offset + 511):
        with tarfile.open(fileobj=io.BytesIO(whole[:cut])) as archive:
            assert len(archive.getmembers()) == 2
        assert read_members(whole[:cut])[1] is not None


@pytest.mark.parametrize("cut", [1, 100, 511, 513, 700, 1023])
def test_a_cut_within_a_block_is_found_out_too(cut):
    whole = photographs(5)
    found, damage = read_members(whole[:cut])
    assert not images_by_name(found) or cut >= 712
    assert damage is not None


@pytest.mark.parametrize("format", FORMATS)
def test_a_header_with_any_byte_changed_is_found_out_or_harmless(format):
    whole = photographs(3, format=FORMATS[format])
    expected = images_by_name(read_members(whole)[0])
    headers = [m.data_offset - 512 for m in members(io.BytesIO(whole))]
    headers += [m.offset for m in members(io.BytesIO(whole)) if m.offset not in headers]
    for header in headers:
        for position in range(header, header + 512):
            for change in (0x01, 0x80, 0xFF, whole[position]):
                damaged = bytearray(whole)
                damaged[position] ^= change
                found, damage = read_members(bytes(damaged))
                assert damage is not None or images_by_name(found) == expected
                assert images_by_name(found).items() <= expected.items()


@settings(max_examples=150)
@given(st.data())
def test_random_damage_is_never_any_other_error(data):
    whole = photographs(3, format=data.draw(st.sampled_from(sorted(FORMATS.values()))))
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(1, 6))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    read_members(bytes(damaged))
    read_members(COMPRESS["gzip"](whole)[: len(damaged)])


NAMES = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=150
).filter(lambda name: name.strip("/") and not name.endswith("/") and not name.startswith("/"))


@settings(max_examples=150)
@given(
    files=st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=6),
    format=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_members_are_those_that_tarfile_wrote(files, format):
    whole = io.BytesIO(tar_in_format(files, format=format))
    ours = []
    for member in members(whole):
        whole.seek(member.data_offset)
        ours.append((member.name, whole.read(member.size)))
    assert ours == files


@pytest.mark.parametrize("format", ["v7", "ustar", "gnu", "oldgnu", "pax"])
def test_archives_of_gnu_tar_are_read(tmp_path, format):
    if shutil.which("tar") is None:
        pytest.skip("there is no tar program here")
    files = {f"{'d' * 60}/{'e' * 30}/{index}.jpg": bytes([index]) * 700 for index in range(3)}
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    command = ["tar", f"--format={format}", "-cf", "-", "-C", str(tmp_path), "d" * 60]
    whole = subprocess.run(command, check=True, capture_output=True).stdout
    found, damage = read_members(whole)
    assert damage is None
    assert images_by_name(found) == files


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=pax"]])
def test_a_sparse_file_has_no_data_of_its_own_and_harms_no_other(tmp_path, options):
    if shutil.which("tar") is None:
        pytest.skip("there is no tar program here")
    with open(tmp_path / "0.jpg", "wb") as file:
        for piece in range(40):  # so many that their map needs blocks of its own
            file.seek(piece * 2**16)
            file.write(b"data" * 1024)
        file.truncate(2**22)
    (tmp_path / "1.jpg").write_bytes(b"whole")
    command = ["tar", *options, "-S", "-cf", "-", "-C", str(tmp_path), "0.jpg", "1.jpg"]
    whole = subprocess.run(command, check=True, capture_output=True).stdout
    if len(whole) > 2**21:
        pytest.skip("this file system knows no holes")
    found, damage = read_members(whole)
    assert damage is None
    assert images_by_name(found) == {"0.jpg": None, "1.jpg": b"whole"}
    assert [sample.image.kind for sample in found if sample.image] == ["partial", "file"]


def test_links_are_images_whose_data_are_elsewhere_and_directories_are_none():
    end = bytes(1024)
    whole = (
        special("folder", kind=tarfile.DIRTYPE)
        + special("folder/a.jpg", kind=tarfile.LNKTYPE, target="b.jpg")
        + special("folder/pipe.jpg", kind=tarfile.FIFOTYPE)
        + tar_in_format({"b.jpg": b"b"})[:1024]
        + end
    )
    assert [m.kind for m in members(io.BytesIO(whole))] == [
        "other",
        "hard link",
        "other",
        "file",
    ]
    found, damage = read_members(whole)
    assert damage is None
    assert [sample.key for sample in found] == ["folder/a", "b"]
    assert images_by_name(found) == {"folder/a.jpg": None, "b.jpg": b"b"}


def test_names_are_only_names():
    files = {"/etc/a.jpg": b"1", "../../b.jpg": b"2", "./c.jpg": b"3"}
    found, damage = read_members(tar_in_format(files, format=tarfile.GNU_FORMAT))
    assert damage is None
    assert images_by_name(found) == files
    assert [sample.key for sample in found] == ["/etc/a", "../../b", "c"]


def test_a_name_that_is_no_utf8_can_be_stored_all_the_same():
    whole = bytearray(tar_in_format({"a.jpg": b"1"}, format=tarfile.USTAR_FORMAT))
    whole[0] = 0xE9
    whole[148:156] = b"%06o\0 " % (sum(whole[:148]) + sum(whole[156:512]) + 8 * 32)
    (sample,), damage = read_members(bytes(whole))
    assert damage is None
    assert sample.key.encode() == b"\\xe9"


@pytest.mark.parametrize("size", [2**40, 2**33, 10 * 2**10])
def test_a_size_beyond_the_end_is_damage_not_memory(size):
    info = tarfile.TarInfo("huge.jpg")
    info.size = size
    whole = tar_in_format({"a.jpg": b"a"})[:1024] + info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    for limit in (2**20, 2**50):
        found, damage = read_members(whole, max_image_bytes=limit)
        assert images_by_name(found) == {"a.jpg": b"a"}
        assert damage is not None
        assert damage.offset == 1024
        assert "huge.jpg" in damage.message


def test_one_block_of_zeros_is_an_end_and_none_is_not():
    whole = tar_in_format({"a.jpg": b"a"})[:1024]
    assert read_members(whole + bytes(512))[1] is None
    assert read_members(whole)[1] is not None


def test_an_empty_file_is_a_tar_cut_at_its_first_byte_and_zeros_alone_are_an_empty_tar():
    _, damage = read_members(b"")
    assert damage is not None
    assert damage.offset == 0
    assert read_members(bytes(10240)) == ([], None)


def test_archives_laid_end_to_end_are_read_as_one():
    first, second = tar_in_format({"a.jpg": b"a"}), tar_in_format({"b.jpg": b"b"})
    for whole in (first + second, first[:2048] + second):
        found, damage = read_members(whole)
        assert damage is None
        assert images_by_name(found) == {"a.jpg": b"a", "b.jpg": b"b"}


@pytest.mark.parametrize("position", [0, 1, 124, 148, 156, 345, 500])
def test_damage_to_the_first_header_of_a_second_archive_is_found_out(position):
    first, second = (
        tar_in_format({"a.jpg": b"a"}),
        bytearray(tar_in_format({"b.jpg": b"b", "c.jpg": b"c"})),
    )
    second[position] ^= 0x55
    found, damage = read_members(first + bytes(second))
    assert images_by_name(found) == {"a.jpg": b"a"}
    assert damage is not None
    assert damage.offset == len(first)


def test_a_second_archive_without_its_first_header_is_missed_by_nobody():
    first, second = tar_in_format({"a.jpg": b"a"}), tar_in_format({"b.jpg": b"b", "c.jpg": b"c"})
    found, damage = read_members(first + b"\xaa" * 512 + second[512:])
    assert images_by_name(found) == {"a.jpg": b"a"}
    assert damage is not None


def test_bytes_behind_the_end_that_hold_no_archive_are_left_alone():
    found, damage = read_members(tar_in_format({"a.jpg": b"a"}) + b"signature " * 300)
    assert damage is None
    assert images_by_name(found) == {"a.jpg": b"a"}


def test_a_hole_in_an_archive_is_no_end():
    whole = bytearray(tar_in_format({f"{index}.jpg": b"x" * 2000 for index in range(9)}))
    one, two = (member.offset for member in list(members(io.BytesIO(whole)))[2:4])
    for start, stop in [(one, one + 512), (one, one + 1024), (one, two - 512), (one, two + 512)]:
        holed = bytes(whole[:start]) + bytes(stop - start) + bytes(whole[stop:])
        found, damage = read_members(holed)
        assert list(images_by_name(found)) == ["0.jpg", "1.jpg"]
        assert damage is not None


def test_an_unfinished_download_that_was_allocated_in_full_is_found_out():
    whole = tar_in_format({f"{index}.jpg": b"x" * 2000 for index in range(9)})
    start = list(members(io.BytesIO(whole)))[2].offset
    found, damage = read_members(whole[:start] + bytes(2**22))
    assert list(images_by_name(found)) == ["0.jpg", "1.jpg"]
    assert damage is not None
    assert damage.offset == start


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_compressed_tar_holds_the_same_images(compression):
    whole = photographs(5)
    found, damage = read_members(COMPRESS[compression](whole))
    assert damage is None
    assert found == read_members(whole)[0]


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_compressed_tar_cut_anywhere_is_found_out_and_keeps_what_arrived(compression):
    noise = random.Random(0)
    pieces = {f"{index}.jpg": noise.randbytes(60_000) for index in range(6)}
    data = COMPRESS[compression](tar_in_format(pieces))
    kept = 0
    for cut in range(0, len(data), max(1, len(data) // 40)):
        found, damage = read_members(data[:cut])
        assert damage is not None
        assert images_by_name(found).items() <= pieces.items()
        kept = max(kept, len(found))
    # Compressors work in blocks that come whole or not at all, bzip2's of 900 kB.
    assert kept >= {"gzip": 5, "xz": 5, "zstd": 4, "bzip2": 0}[compression]


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "xz"])
def test_a_compressed_tar_with_a_byte_changed_is_found_out(compression):
    noise = random.Random(0)
    data = COMPRESS[compression](
        tar_in_format({f"{i}.jpg": noise.randbytes(1000) for i in range(5)})
    )
    for position in range(20, len(data), 41):
        changed = bytearray(data)
        changed[position] ^= 0x10
        _, damage = read_members(bytes(changed))
        assert damage is not None


@pytest.mark.parametrize("compression", COMPRESS)
def test_compressed_archives_end_to_end_are_read_as_one(compression):
    compress = COMPRESS[compression]
    found, damage = read_members(
        compress(tar_in_format({"a.jpg": b"a"})) + compress(tar_in_format({"b.jpg": b"b"}))
    )
    assert damage is None
    assert images_by_name(found) == {"a.jpg": b"a", "b.jpg": b"b"}


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_fault_of_storage_is_never_taken_for_damage(compression):
    class Fault(Exception):
        pass

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() >= 2**16:
                raise Fault
            return super().read(min(size or 0, 2**16) if size != -1 else 2**16)

    file = Failing(
        COMPRESS[compression](tar_in_format({"a.jpg": random.Random(0).randbytes(2**18)}))
    )
    with pytest.raises(Fault):
        list(samples(file, image_members=["jpg"], max_image_bytes=2**20))
