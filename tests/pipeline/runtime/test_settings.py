"""Settings come from defaults, a YAML and the command line, and what is wrong is one clear line."""

import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import yaml

from pipeline.runtime.settings import Settings, WrongUsage, parse, resolved_yaml
from pipeline.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Cook:
    """The cook of a meal."""

    dish: str
    """What to cook."""
    heat: Literal["low", "high"] = "low"
    """How hot."""
    salt: float | None = None
    spices: tuple[str, ...] = ("pepper",)
    tables: tuple[int, ...] | None = None
    quietly: bool = False
    covered: bool | None = None
    table_size: int = 4
    recipe: str | dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.salt is not None and self.salt < 0:
            raise ValueError(f"salt must be at least 0, got {self.salt}")


@dataclass(frozen=True, kw_only=True)
class Guests:
    """The guests of a meal."""

    number: int = 2
    password: str | None = field(default=None, repr=False)


PARTS = (Cook, Guests)


def parsed(*arguments: str) -> Settings:
    return parse(PARTS, arguments=["--dish=soup", *arguments])


def cook(*arguments: str) -> Cook:
    return parsed(*arguments).of(Cook)


def refusal(*arguments: str) -> str:
    with pytest.raises(WrongUsage) as caught:
        parsed(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300
    return message


@pytest.fixture
def config(tmp_path):
    def write(text: str) -> str:
        (tmp_path / "dinner.yaml").write_text(text)
        return f"--config={tmp_path / 'dinner.yaml'}"

    return write


def test_what_is_not_asked_for_is_as_in_the_code():
    settings = parsed()
    assert settings.of(Cook) == Cook(dish="soup")
    assert settings.of(Guests) == Guests()


def test_the_yaml_says_what_differs_and_the_command_line_what_differs_today(config):
    wish = config("heat: high\nsalt: 0.5\nnumber: 3\n# a comment\nspices: [mint, dill]\n")
    expected = Cook(dish="soup", heat="high", salt=0.5, spices=("mint", "dill"))
    assert cook(wish) == expected
    for words in ((wish, "--salt=0.1"), ("--salt=0.1", wish), ("--salt", "0.1", *wish.split("="))):
        settings = parsed(*words)
        assert settings.of(Cook).salt == 0.1
        assert settings.of(Cook).heat == "high"
        assert settings.of(Guests).number == 3


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--spices", "a,b"], "spices", ("a", "b")),
        (["--spices=a,b"], "spices", ("a", "b")),
        (["--spices", "[a, b]"], "spices", ("a", "b")),
        (["--spices", "a"], "spices", ("a",)),
        (["--tables", "1,2"], "tables", (1, 2)),
        (["--tables=7"], "tables", (7,)),
        (["--tables", "null"], "tables", None),
        (["--salt", "1e-3"], "salt", 0.001),
        (["--salt=null"], "salt", None),
        (["--quietly"], "quietly", True),
        (["--covered"], "covered", True),
        (["--covered=false"], "covered", False),
        (["--covered", "null"], "covered", None),
        (["--quietly", "--heat=high"], "quietly", True),
        (["--quietly", "false"], "quietly", False),
        (["--quietly=true"], "quietly", True),
        (["--dish", "a=b"], "dish", "a=b"),
        (["--table-size=7"], "table_size", 7),
        (["--table-size", "7"], "table_size", 7),
        (["--table_size=7"], "table_size", 7),
        (["--dish", "a-b_c"], "dish", "a-b_c"),
        (["--spices", "salt-free,b_c"], "spices", ("salt-free", "b_c")),
        (["--recipe.time-to_boil=3"], "recipe", {"time-to_boil": 3}),
    ],
)
def test_values_are_written_as_people_write_them(words, name, value):
    assert getattr(cook(*words), name) == value


@pytest.mark.parametrize(
    ("words", "pieces"),
    [
        (["--heta=high"], ["no setting", "--heta", "did you mean --heat?"]),
        (["--hea=high"], ["no setting", "--hea"]),  # no guessing what was meant
        (["--guests-numbr=3"], ["no setting", "--guests-numbr", "see --help"]),
        (["stray"], ["no option stands before stray"]),
        (["--number=many"], ["number must be a whole number", "'many'"]),
        (["--number=2.5"], ["number must be a whole number", "2.5"]),
        (["--salt=much"], ["salt must be a number or null", "'much'"]),
        (["--heat=medium"], ["heat must be 'low' or 'high'", "'medium'"]),
        (["--heat=hihg"], ["heat must be 'low' or 'high', got 'hihg'; did you mean high?"]),
        (
            ["--tables=1,x"],
            ["tables must be whole numbers with commas between them or null", "x"],
        ),
        (["--quietly=maybe"], ["quietly must be true or false", "maybe"]),
        (["--salt=-1"], ["salt must be at least 0", "-1"]),
        (["--salt"], ["--salt needs a value: a number"]),
        (["--dish", "--salt=1"], ["--dish needs a value: text"]),
        (["--config"], ["--config needs a value: a file"]),
        (["--config=/no/such.yaml"], ["/no/such.yaml"]),
    ],
)
def test_what_is_wrong_is_one_line_with_name_and_value(words, pieces):
    message = refusal(*words)
    for piece in pieces:
        assert piece in message
    assert "<class" not in message


def test_what_is_missing_is_named():
    with pytest.raises(WrongUsage, match=r"^--dish must be given; see --help$"):
        parse(PARTS, arguments=[])


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("heta: high", "heta"),
        ("salt: much", "salt must be a number or null, got 'much'"),
        ("heta: high", "there is no setting heta; did you mean heat?"),
        ("salt: -1", "salt must be at least 0"),
        ("salt: [1", "config"),
        ("- salt", "config"),
        ("Cook:\n  salt: 1", "Cook"),
    ],
)
def test_what_is_wrong_in_a_yaml_is_one_line_too(config, text, piece):
    assert piece in refusal(config(text))


def test_settings_written_down_say_the_same_again(config):
    settings = parsed("--spices=a,b", "--tables=1", "--salt=0.25", "--quietly", "--number=7")
    again = parse(PARTS, arguments=[config(settings.to_yaml())])
    assert again == settings


def test_what_is_resolved_is_written_as_a_file_to_start_from(config):
    words = ["--heat=high", "--spices=a,b"]
    text = resolved_yaml(PARTS, arguments=words, preset={"number": 5, "tables": (1, 2)})
    assert "# The cook of a meal\n# dish: TEXT\nheat: high\n" in text
    assert "tables: [1, 2]\n" in text
    assert "password" not in text
    again = parse(PARTS, arguments=[config(text), "--dish=soup"])
    assert again.of(Cook) == Cook(dish="soup", heat="high", spices=("a", "b"), tables=(1, 2))
    assert again.of(Guests).number == 5
    assert "dish: tea\n" in resolved_yaml(PARTS, arguments=["--dish=tea"])


def test_a_preset_stands_in_place_of_the_defaults(config):
    def heat_and_number(*words: str) -> tuple[str, int]:
        preset = {"heat": "high", "number": 5}
        settings = parse(PARTS, arguments=["--dish=soup", *words], preset=preset)
        return settings.of(Cook).heat, settings.of(Guests).number

    assert heat_and_number() == ("high", 5)
    assert heat_and_number(config("number: 7")) == ("high", 7)
    assert heat_and_number(config("number: 7"), "--heat=low") == ("low", 7)


def test_words_without_a_name_are_the_positional_settings_in_order():
    for words in (["soup", "high"], ["soup", "--salt=1", "high"], ["--quietly", "soup", "high"]):
        cook = parse(PARTS, arguments=words, positional=("dish", "heat")).of(Cook)
        assert (cook.dish, cook.heat) == ("soup", "high")


def test_secrets_are_refused_on_the_command_line_and_not_repeated(config):
    for words in (["--password=hunter2"], ["--password", "hunter2"]):
        message = refusal(*words)
        assert "--password" in message
        assert "hunter2" not in message
    assert parsed(config("password: hunter2")).of(Guests).password == "hunter2"


def test_secrets_are_not_written_down():
    settings = Settings(
        parts=(
            Guests(password="hunter2"),
            Storage(key="key-4711", secret="secret-4711", token="token-4711", region="r"),
        )
    )
    text = settings.to_yaml()
    assert yaml.safe_load(text) == {
        "number": 2, "endpoint_url": None, "region": "r", "anonymous": False,
        "storage_attempts": 8, "storage_seconds": 300.0,
        "connect_timeout_seconds": 10.0, "read_timeout_seconds": 30.0,
    }  # fmt: skip
    assert "4711" not in text
    assert "hunter2" not in text + repr(settings)


def test_the_parts_of_the_labelling_job_share_no_name_and_parse():
    from pipeline.labelling.settings import PARTS, LabelSettings

    arguments = ["--corpus=c", "--table=t", "--model=m"]
    settings = parse(PARTS, arguments=arguments)
    assert settings.of(LabelSettings) == LabelSettings(corpus="c", table="t", model="m")
    written: dict[str, Any] = yaml.safe_load(settings.to_yaml())
    assert {"image_members", "unit_images", "num_actors", "threshold"} <= written.keys()
    assert not {"key", "secret", "token"} & written.keys()


def test_settings_are_read_without_torch_and_ray():
    code = (
        "import sys, pipeline.runtime.settings, pipeline.storage, pipeline.labelling.settings\n"
        "assert not {'torch', 'ray'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
