"""A manifest's rows become one source each, or one line that says where it cannot be read."""

import json

import pyarrow as pa
import pytest
from as_files import encode_table
from corpora import parquet, picture, put
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpora.corpus import Listing, list_corpus
from pipeline.corpora.reading import ReadSettings, read_source
from pipeline.corpora.sources import Source
from pipeline.runtime.skips import WITHOUT_LOCATIONS
from pipeline.storage import Storage

STORAGE = Storage()
PHOTOS = {f"i/p{number}.jpg": picture(number) for number in range(3)}


def list_manifest(uri: str) -> tuple[list[Source], Listing]:
    listing = list_corpus(uri, storage=STORAGE, settings=ReadSettings())
    return list(listing.sources), listing


def names_in_manifest(uri: str) -> list[str]:
    return [source.name for source in list_manifest(uri)[0]]


def outcomes(uri: str) -> list[tuple[str, str | None]]:
    """The id of each image, and the class of its error."""
    return [
        (image.image_id, image.error.error_class if image.error else None)
        for source in list_manifest(uri)[0]
        for image in read_source(source, storage=STORAGE, settings=ReadSettings())
    ]


def write_manifest_file(tmp_path, name: str, text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    return put(tmp_path, {**PHOTOS, name: data}) + f"/{name}"


PLAIN = "uri,image_id\ni/p0.jpg,a\ni/p1.jpg,b\ni/p2.jpg,c\n"
BY_PATH = ["i/p0.jpg", "i/p1.jpg", "i/p2.jpg"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("m.csv", PLAIN, ["a", "b", "c"]),
        ("m.csv", PLAIN.replace("\n", "\r\n"), ["a", "b", "c"]),
        ("m.csv", PLAIN.replace("\n", "\r"), ["a", "b", "c"]),
        ("m.csv", PLAIN.encode("utf-8-sig"), ["a", "b", "c"]),
        ("m.csv", PLAIN.encode("utf-16"), ["a", "b", "c"]),
        ("m.csv", PLAIN.replace(",", ";"), ["a", "b", "c"]),
        ("m.csv", "sep=;\n" + PLAIN.replace(",", ";"), ["a", "b", "c"]),
        ("m.csv", PLAIN.replace(",", ", "), ["a", "b", "c"]),
        ("m.csv", PLAIN.replace(",", "|"), ["a", "b", "c"]),
        ("m.tsv", PLAIN.replace(",", "\t"), ["a", "b", "c"]),
        ("m.csv", PLAIN.replace("uri,image_id", "URI,Image_ID"), ["a", "b", "c"]),
        ("m.csv", PLAIN.replace("uri,image_id", '"Uri","image_id"'), ["a", "b", "c"]),
        ("m.csv", PLAIN.replace("uri,image_id", "image_url,caption"), BY_PATH),
        ("m.csv", PLAIN.replace("uri,image_id", "file_name,label"), BY_PATH),
        ("m.csv", PLAIN.replace("uri,image_id", "uri,url"), BY_PATH),
        ("m.jsonl", b"\xef\xbb\xbf" + b'{"uri": "i/p0.jpg"}\n{"uri": "i/p1.jpg"}', BY_PATH[:2]),
        ("m.jsonl", '{"file_name": "i/p0.jpg"}\n', BY_PATH[:1]),
        ("m.parquet", parquet({"URI": BY_PATH, "n": [1, 2, 3]}), BY_PATH),
        ("m.parquet", parquet({"path": BY_PATH}), BY_PATH),
    ],
)
def test_manifests_are_read_as_tools_write_them(tmp_path, name, text, expected):
    assert names_in_manifest(write_manifest_file(tmp_path, name, text)) == expected


def test_a_column_of_repeated_text_is_read(tmp_path):
    column = pa.array(BY_PATH).dictionary_encode()
    manifest = write_manifest_file(tmp_path, "m.parquet", encode_table(pa.table({"uri": column})))
    assert names_in_manifest(manifest) == BY_PATH


def test_what_was_taken_for_locations_is_said(tmp_path):
    place = write_manifest_file(tmp_path, "m.csv", "image_url;n\ni/p0.jpg;1\n")
    _, listing = list_manifest(place)
    assert listing.notices == [
        f"{place}: the locations are taken from its column image_url; its columns are separated "
        "by ';'"
    ]


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("m.csv", "name,age\nAda,36\n", "the columns are name, age; call that"),
        ("m.csv", "i/p0.jpg\ni/p1.jpg\n", "the columns are i/p0.jpg; call"),
        ("m.csv", "url,path\na,b\n", "url and path may all hold locations; call"),
        ("m.jsonl", '{"id": 1}\n', "the columns are id; call"),
        ("m.jsonl", "no json\n", "first line .* must be a JSON object with a `uri`"),
        ("m.parquet", parquet({"n": [1]}), "no column of images .*--image_column.*columns are n"),
    ],
)
def test_a_manifest_that_is_asked_for_and_none_says_what_is_there_and_what_to_type(
    tmp_path, name, text, found
):
    with pytest.raises(ValueError, match=f"{name}: .*{found}"):
        list_manifest(write_manifest_file(tmp_path, name, text))


def test_in_a_folder_a_table_with_another_column_of_locations_is_counted_and_not_followed(tmp_path):
    place = write_manifest_file(
        tmp_path, "m.csv", "image_url,caption\nhttp://127.0.0.1:1/x.jpg,x\n"
    )
    sources, listing = list_manifest(str(tmp_path))
    assert [source.name for source in sources] == BY_PATH
    assert listing.skipped.examples == {WITHOUT_LOCATIONS: [place]}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('uri,caption\ni/p0.jpg,"a 5 inch pipe\ni/p1.jpg,b\ni/p2.jpg,c\n', 2),
        ('uri,caption\ni/p0.jpg,a\ni/p1.jpg,"b\ni/p2.jpg,"c" d\n', 3),
        ('uri,caption\ni/p0.jpg,"a\ni/p1.jpg,5"\ni/p2.jpg,c\n', 2),
        ('caption,uri\n"a 5 inch pipe,i/p0.jpg\nb 5",i/p1.jpg\nc,i/p2.jpg\n', 2),
        ('uri,caption\ni/p0.jpg,"two\nlines"\ni/p1.jpg,"b\ni/p2.jpg,c\n', 4),
        ('uri\n"i/p0.jpg\ni/p1.jpg\n', 2),
    ],
)
def test_a_quote_that_would_swallow_rows_is_an_error_with_the_line_where_it_opens(
    tmp_path, text, line
):
    with pytest.raises(ValueError, match=rf"m\.csv, line {line}: the row that begins here .*quote"):
        list_manifest(write_manifest_file(tmp_path, "m.csv", text))


def test_fields_may_be_long_and_have_lines_and_quotes(tmp_path):
    text = (
        f'uri,caption\ni/p0.jpg,{"x" * 200_000}\ni/p1.jpg,"two\nlines, ""so"""\ni/p2.jpg,5" pipe\n'
    )
    assert names_in_manifest(write_manifest_file(tmp_path, "m.csv", text)) == BY_PATH


def test_a_name_with_a_separator_in_a_file_of_one_column_is_one_name(tmp_path):
    root = put(tmp_path, {"a, b.jpg": picture(), "m.csv": b"uri\na, b.jpg\n"})
    assert outcomes(f"{root}/m.csv") == [("a, b.jpg", None)]


BAD_ENTRIES = ["ipfs://Qm/x.jpg", "i/p0.jpg/x.jpg", "i/a\0b.jpg", "i/" + "x" * 300 + ".jpg", "i"]


@pytest.mark.parametrize("location", BAD_ENTRIES)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_an_entry_that_no_storage_can_have_is_one_row_in_error(tmp_path, kind, location):
    rows = [location, "i/p1.jpg"]
    text = {
        "csv": "\n".join(["uri", *rows, ""]).encode(),
        "jsonl": "".join(json.dumps({"uri": row}) + "\n" for row in rows).encode(),
        "parquet": parquet({"uri": rows}),
    }[kind]
    bad, good = outcomes(write_manifest_file(tmp_path, f"m.{kind}", text))
    assert good == ("i/p1.jpg", None)
    is_impossible = "\0" in location or "://" in location
    assert bad[1] == ("BadLocation" if is_impossible else "NotFound")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "m.csv",
            "id,uri\n1,i/p0.jpg\n2,\n\n3\n,\n",
            [("i/p0.jpg", None), ("m.csv#line=3", "BadLocation"), ("m.csv#line=5", "BadLocation")],
        ),
        (
            "m.csv",  # who can tell which of three values are the two?
            "caption,uri\na, b,i/p0.jpg\nc,i/p1.jpg\n",
            [("m.csv#line=2", "BadLocation"), ("i/p1.jpg", None)],
        ),
        (
            "m.csv",
            "uri,image_id\n,mine\n",
            [("mine", "BadLocation")],
        ),
        (
            "m.jsonl",
            '{"uri": "i/p0.jpg"}\n\n{"url": "b"}\n{"uri": null}\n{"uri": ["i/p1.jpg"]}\n{"uri": 5}',
            [
                ("i/p0.jpg", None),
                ("m.jsonl#line=3", "BadLocation"),
                ("m.jsonl#line=4", "BadLocation"),
                ("m.jsonl#line=5", "BadLocation"),
                ("m.jsonl#line=6", "BadLocation"),
            ],
        ),
        (
            "m.parquet",
            parquet({"uri": ["i/p0.jpg", None, ""]}),
            [
                ("i/p0.jpg", None),
                ("m.parquet#row=1", "BadLocation"),
                ("m.parquet#row=2", "BadLocation"),
            ],
        ),
    ],
)
def test_a_row_without_a_location_is_an_image_in_error_that_names_its_line(
    tmp_path, name, text, expected
):
    assert outcomes(write_manifest_file(tmp_path, name, text)) == expected


@pytest.mark.parametrize("line", ['{"uri": "i/p1.jpg"', "[1]", '"i/p1.jpg"', "[" * 100_000])
def test_a_line_that_is_no_json_object_stops_with_its_number(tmp_path, line):
    place = write_manifest_file(tmp_path, "m.jsonl", '{"uri": "i/p0.jpg"}\n\n' + line + "\n")
    with pytest.raises(ValueError, match=r"m\.jsonl, line 3: .*must be a JSON object with a `uri`"):
        list_manifest(place)


def test_half_a_character_in_a_name_is_one_row_in_error(tmp_path):
    place = write_manifest_file(
        tmp_path, "m.jsonl", '{"uri": "i/\\ud800.jpg"}\n{"uri": "i/p0.jpg"}\n'
    )
    assert outcomes(place) == [("i/\\ud800.jpg", "NotFound"), ("i/p0.jpg", None)]


@pytest.mark.parametrize("uri", ["i/\\u0000\\ud800.jpg", "ipfs://Qm/\\ud800.jpg"])
def test_half_a_character_in_a_name_that_can_never_be_is_one_row_in_error_too(tmp_path, uri):
    place = write_manifest_file(tmp_path, "m.jsonl", f'{{"uri": "{uri}"}}\n{{"uri": "i/p0.jpg"}}\n')
    (_, error), good = outcomes(place)
    assert (error, good) == ("BadLocation", ("i/p0.jpg", None))


def test_a_location_whose_package_is_missing_stops_with_the_line_and_the_package(tmp_path):
    pytest.importorskip("fsspec")
    place = write_manifest_file(tmp_path, "m.csv", "uri\ni/p0.jpg\ngs://bucket/x.jpg\n")
    with pytest.raises(ValueError, match=r"m\.csv, line 3: gs:// needs .*pip install gcsfs"):
        list_manifest(place)


CELLS = st.text(st.sampled_from('ab01.,;"\n\r\t\0\ud800\ufeff /:?#é'), max_size=12)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | CELLS,
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)
EXAMPLES = [100, pytest.param(10_000, marks=pytest.mark.faults)]


@pytest.mark.parametrize("num_examples", EXAMPLES)
def test_whatever_a_csv_file_holds_it_is_rows_or_one_line(tmp_path, num_examples):
    @settings(max_examples=num_examples)
    @given(
        rows=st.lists(st.lists(CELLS, max_size=4), max_size=6),
        header=st.sampled_from(["uri", "a,uri"]),
    )
    def check(rows: list[list[str]], header: str) -> None:
        text = "\n".join([header, *(",".join(row) for row in rows)])
        place = put(tmp_path, {"m.csv": text.encode("utf-8", "surrogatepass")}) + "/m.csv"
        try:
            sources, _ = list_manifest(place)
        except ValueError as error:
            message = str(error)
        else:
            assert len({source.uri.encode() for source in sources}) == len(sources)
            return
        assert "m.csv, line" in message
        assert "\n" not in message

    check()


@pytest.mark.parametrize("num_examples", EXAMPLES)
def test_whatever_a_jsonl_file_holds_it_is_rows(tmp_path, num_examples):
    @settings(max_examples=num_examples)
    @given(rows=st.lists(JSON, max_size=6))
    def check(rows: list[object]) -> None:
        lines = [json.dumps({"uri": row}) for row in ("first.jpg", *rows)]
        place = put(tmp_path, {"m.jsonl": "\n".join(lines).encode()}) + "/m.jsonl"
        sources, listing = list_manifest(place)
        assert len(sources) + len(listing.doubled) == len(lines)

    check()
