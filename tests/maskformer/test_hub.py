"""The hub: options that reach it, and what is sent there. The hub itself is played."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import make_tiny

from maskformer.configuration import MaskFormerConfig
from maskformer.image_processor import MaskFormerImageProcessor
from maskformer.model import MaskFormerForInstanceSegmentation

OPTIONS = {
    "revision": "v2",
    "token": "secret",
    "cache_dir": "somewhere",
    "local_files_only": True,
    "force_download": True,
}


@pytest.fixture
def folder(tmp_path):
    make_tiny().save_pretrained(tmp_path / "inner")
    MaskFormerImageProcessor().save_pretrained(tmp_path / "inner")
    return tmp_path / "inner"


@pytest.mark.parametrize(
    "kind", [MaskFormerForInstanceSegmentation, MaskFormerConfig, MaskFormerImageProcessor]
)
def test_options_of_the_hub_reach_it(folder, monkeypatch, kind):
    asked = []

    def snapshot_download(repo, *, allow_patterns, **options):
        asked.append((repo, allow_patterns[0], options))
        return str(folder.parent)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)

    kind.from_pretrained("org/name", **OPTIONS, subfolder="inner")

    assert asked == [("org/name", "inner/config.json", OPTIONS)]


@pytest.mark.parametrize(
    "kind", [MaskFormerForInstanceSegmentation, MaskFormerConfig, MaskFormerImageProcessor]
)
def test_options_of_the_hub_change_nothing_of_a_folder_here(folder, kind):
    kind.from_pretrained(str(folder), **OPTIONS)
    kind.from_pretrained(str(folder.parent), subfolder="inner", use_auth_token=None)


def test_a_token_that_is_false_is_not_taken_for_none(folder, monkeypatch):
    asked = []

    def snapshot_download(repo, *, allow_patterns, **options):
        asked.append(options)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)

    MaskFormerConfig.from_pretrained("org/name", token=False)

    assert asked == [{"token": False}]


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ({"device_map": "auto"}, r"model\.to\(device\)"),
        ({"attn_implementation": "flash_attention_2"}, "scaled_dot_product_attention"),
        ({"trust_remote_code": True}, "nothing in a repository is ever run"),
        ({"quantization_config": {}}, "not supported"),
        ({"state_dict": {}}, "load_weights"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_an_option_without_meaning_here_is_one_clear_line(folder, option, instead):
    with pytest.raises(TypeError, match=f"from_pretrained has no option .*{instead}") as raised:
        MaskFormerForInstanceSegmentation.from_pretrained(folder, **option)
    assert "\n" not in str(raised.value)


def test_an_option_that_says_what_is_always_so_is_taken(folder):
    MaskFormerForInstanceSegmentation.from_pretrained(
        folder,
        low_cpu_mem_usage=True,
        trust_remote_code=False,
        use_safetensors=True,
        weights_only=True,
        device_map=None,
    )


def test_weights_of_other_shapes_start_afresh_where_that_is_allowed(folder):
    with pytest.raises(ValueError, match="of another shape: class_predictor"):
        MaskFormerForInstanceSegmentation.from_pretrained(folder, num_labels=7)

    model, info = MaskFormerForInstanceSegmentation.from_pretrained(
        folder, num_labels=7, ignore_mismatched_sizes=True, output_loading_info=True
    )

    assert model.class_predictor.out_features == 8
    assert info["mismatched_keys"] == {
        ("class_predictor.bias", torch.Size([5]), torch.Size([8])),
        ("class_predictor.weight", torch.Size([5, 32]), torch.Size([8, 32])),
    }
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert info["error_msgs"] == []


def test_a_configuration_may_be_a_place(folder):
    model = MaskFormerForInstanceSegmentation.from_pretrained(folder, config=str(folder))

    assert model.config.num_labels == 4


class FakeHub:
    """Takes what a real hub takes, and remembers the files."""

    def __init__(self):
        self.calls, self.files = [], {}

    def __call__(self, token):
        self.calls.append(("token", token))
        return self

    def create_repo(self, repo_id, *, private, exist_ok):
        self.calls.append(("repo", repo_id, private, exist_ok))
        return SimpleNamespace(repo_id=f"me/{repo_id}" if "/" not in repo_id else repo_id)

    def create_branch(self, repo_id, *, branch, exist_ok):
        self.calls.append(("branch", repo_id, branch))

    def upload_folder(self, *, repo_id, folder_path, commit_message, **options):
        self.files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        self.calls.append(("upload", repo_id, commit_message, options["revision"]))
        return SimpleNamespace(commit_url="https://hub/commit/1")


@pytest.fixture
def hub(monkeypatch):
    hub = FakeHub()
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    return hub


def test_model_configuration_and_processor_are_pushed_whole(hub, tmp_path):
    model = make_tiny()

    address = model.push_to_hub("org/mine", private=True, token="t", revision="next")

    assert address == "https://hub/commit/1"
    assert hub.calls == [
        ("token", "t"),
        ("repo", "org/mine", True, True),
        ("branch", "org/mine", "next"),
        ("upload", "org/mine", "Upload MaskFormerForInstanceSegmentation", "next"),
    ]
    assert hub.files.keys() == {"config.json", "model.safetensors"}
    for name, content in hub.files.items():
        (tmp_path / name).write_bytes(content)
    again = MaskFormerForInstanceSegmentation.from_pretrained(tmp_path)
    torch.testing.assert_close(again.state_dict(), model.state_dict())

    MaskFormerImageProcessor().push_to_hub("org/mine", commit_message="processor")
    assert hub.files.keys() == {"preprocessor_config.json"}
    model.config.push_to_hub("mine")
    assert hub.files.keys() == {"config.json"}
    assert hub.calls[-1][1] == "me/mine"


def test_saving_pushes_where_asked_to(hub, tmp_path):
    model = make_tiny()

    model.save_pretrained(tmp_path / "boats", push_to_hub=True, commit_message="first")
    assert hub.calls[-1] == ("upload", "me/boats", "first", None)
    model.save_pretrained(tmp_path / "boats", push_to_hub=True, repo_id="org/cars")
    assert hub.calls[-1][1] == "org/cars"
    with pytest.raises(TypeError, match="repo_id together with push_to_hub=True only"):
        model.save_pretrained(tmp_path, repo_id="org/cars")


def test_a_hub_that_refuses_is_one_clear_line(monkeypatch):
    class Refusing(FakeHub):
        def create_repo(self, *_, **__):
            raise ConnectionError("401 Unauthorized")

    monkeypatch.setattr("huggingface_hub.HfApi", Refusing())

    with pytest.raises(ValueError, match=re.escape("pushing to 'org/x' on the hub failed")):
        MaskFormerConfig().push_to_hub("org/x")


def test_weights_are_saved_in_shards_pickles_or_by_another_process(tmp_path):
    model = make_tiny()

    model.save_pretrained(tmp_path, max_shard_size="100KB")
    shards = sorted(path.name for path in tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert not (tmp_path / "model.safetensors").exists()
    again = MaskFormerForInstanceSegmentation.from_pretrained(tmp_path)
    torch.testing.assert_close(again.state_dict(), model.state_dict())

    model.save_pretrained(tmp_path, safe_serialization=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "pytorch_model.bin"]
    again = MaskFormerForInstanceSegmentation.from_pretrained(tmp_path)
    torch.testing.assert_close(again.state_dict(), model.state_dict())

    model.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not (tmp_path / "other").exists()


def test_another_state_dict_is_saved_where_one_is_given(tmp_path):
    model = make_tiny()
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}

    model.save_pretrained(tmp_path, state_dict=state)

    again = MaskFormerForInstanceSegmentation.from_pretrained(tmp_path)
    assert not again.class_predictor.weight.any()


def test_parameters_are_counted_as_transformers_counts_them():
    model = make_tiny()
    embeddings = model.model.transformer_module.queries_embedder.weight.numel()
    total = sum(parameter.numel() for parameter in model.parameters())

    assert model.num_parameters() == total
    assert model.num_parameters(exclude_embeddings=True) == total - embeddings
    model.model.requires_grad_(False)
    head = sum(
        parameter.numel()
        for part in (model.class_predictor, model.mask_embedder)
        for parameter in part.parameters()
    )
    assert model.num_parameters(only_trainable=True) == head
