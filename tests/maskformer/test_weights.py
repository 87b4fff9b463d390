"""Folders and checkpoints: what loads, what is refused and how, what transformers makes of ours."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import make_tiny

from maskformer.checkpoints.folder import check_folder
from maskformer.configuration import MaskFormerConfig, ResNetConfig, TimmBackboneConfig
from maskformer.hub import resolve_folder
from maskformer.model import MaskFormerForInstanceSegmentation, MaskFormerModel


@pytest.fixture
def model():
    return make_tiny()


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path)
    return tmp_path


def load_weights_of(folder, **values):
    return MaskFormerForInstanceSegmentation.from_pretrained(folder, **values)


def assert_same_weights(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def restore(folder, tensors, name="model.safetensors"):
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / name)


def test_what_was_saved_comes_back(model, folder):
    loaded = load_weights_of(folder)

    assert_same_weights(loaded, model)
    assert not loaded.training
    assert loaded.config.num_labels == 4


@torch.no_grad()
@pytest.mark.parametrize("kind", ["swin", "resnet", "timm"])
def test_what_we_save_gives_the_same_in_transformers_which_misses_nothing(kind, tmp_path):
    backbones = {
        "resnet": ResNetConfig(
            embedding_size=8, hidden_sizes=(16, 32), depths=(1, 1), out_indices=[1, 2]
        ),
        "timm": TimmBackboneConfig(backbone="resnet18", out_indices=[1, 2, 3, 4]),
    }
    model = make_tiny()
    if kind != "swin":
        config = MaskFormerConfig.from_dict(
            {**model.config.to_dict(), "backbone_config": backbones[kind].to_dict()}
        )
        model = MaskFormerForInstanceSegmentation(config).eval()
    model.save_pretrained(tmp_path)

    theirs, info = transformers.MaskFormerForInstanceSegmentation.from_pretrained(
        tmp_path, output_loading_info=True
    )

    assert not any(info.values()), info
    pixels = torch.randn(1, 3, 64, 96)
    output, expected = model(pixels), theirs.eval()(pixels)
    for field in ("class_queries_logits", "masks_queries_logits"):
        torch.testing.assert_close(output[field], expected[field], atol=1e-4, rtol=1e-4)
    theirs.save_pretrained(tmp_path / "theirs")
    assert_same_weights(load_weights_of(tmp_path / "theirs"), model)


def test_names_of_transformers_5_in_memory_load(model, folder):
    tensors = load_file(folder / "model.safetensors")
    renamed = {}
    for name, tensor in tensors.items():
        if ".transformer_module.decoder.layers." in name:
            name = name.replace("out_proj", "o_proj")
            name = name.replace(".fc1.", ".mlp.fc1.").replace(".fc2.", ".mlp.fc2.")
        renamed[name] = tensor
    assert renamed.keys() != tensors.keys()
    restore(folder, renamed)

    assert_same_weights(load_weights_of(folder), model)


@pytest.mark.parametrize("kind", ["pickle", "shards", "pickled shards"])
def test_other_files_of_weights_load(model, folder, kind):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = [{n: tensors[n] for n in names[::2]}, {n: tensors[n] for n in names[1::2]}]
    if kind == "pickle":
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        stem, suffix = ("model", "safetensors") if kind == "shards" else ("pytorch_model", "bin")
        files = [f"{stem}-0000{number}-of-00002.{suffix}" for number in (1, 2)]
        for file, half in zip(files, halves, strict=True):
            save_file(half, folder / file) if kind == "shards" else torch.save(half, folder / file)
        weight_map = {name: files[index] for index, half in enumerate(halves) for name in half}
        index = folder / f"{stem}.{suffix}.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    check_folder(str(folder))
    assert_same_weights(load_weights_of(folder), model)


def test_a_pickle_that_runs_code_is_refused(folder):
    class Evil:
        def __reduce__(self):
            return exec, ("ran",)

    (folder / "model.safetensors").unlink()
    torch.save({"weight": Evil()}, folder / "pytorch_model.bin")

    with pytest.raises(ValueError, match=r"pytorch_model\.bin .* would run __builtin__\.exec"):
        load_weights_of(folder)


def test_missing_unexpected_and_misshapen_weights_are_listed(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["class_predictor.weight"] = torch.zeros(9, 32)
    tensors["stranger"] = tensors.pop("mask_embedder.0.0.bias")
    restore(folder, tensors)

    with pytest.raises(ValueError, match="must be those of its configuration") as error:
        load_weights_of(folder)
    for part in (
        "missing: mask_embedder.0.0.bias",
        "unexpected: stranger",
        "of another shape: class_predictor.weight is 9x32, the model's 5x32",
        str(folder),
    ):
        assert part in str(error.value)

    allowed = load_weights_of(
        folder,
        allow_missing=["mask_embedder.*", "class_predictor.weight"],
        allow_unexpected=["stranger"],
    )
    assert allowed.class_predictor.weight.shape == (5, 32)


def test_a_trained_model_takes_new_labels(model, folder):
    labels = {0: "sky", 1: "road"}

    other = load_weights_of(folder, id2label=labels, allow_missing=["class_predictor.*"])

    assert other.class_predictor.out_features == 3
    assert other.config.label2id == {"sky": 0, "road": 1}
    assert torch.equal(other.mask_embedder[0][0].weight, model.mask_embedder[0][0].weight)


def test_files_without_derived_and_optional_tensors_load(model, folder):
    tensors = load_file(folder / "model.safetensors")
    fewer = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.endswith("relative_position_index")
        and "encoder.model.layernorm" not in name
        and name != "criterion.empty_weight"
    }
    assert len(fewer) < len(tensors)
    restore(folder, fewer)

    assert_same_weights(load_weights_of(folder), model)


def test_the_base_model_reads_a_whole_one_and_the_reverse(model, folder, tmp_path):
    base = MaskFormerModel.from_pretrained(folder)
    assert_same_weights(base, model.model)

    base.save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match=r"missing: class_predictor\.bias"):
        load_weights_of(tmp_path / "base")
    whole = load_weights_of(
        tmp_path / "base", allow_missing=["class_predictor.*", "mask_embedder.*"]
    )
    assert_same_weights(whole.model, model.model)


def test_the_type_of_weights_is_float32_unless_asked_for(model, folder):
    model.to(torch.bfloat16).save_pretrained(folder)

    assert load_weights_of(folder).dtype == torch.float32
    assert load_weights_of(folder, dtype="auto").dtype == torch.bfloat16
    assert load_weights_of(folder, torch_dtype=torch.float16).dtype == torch.float16
    assert MaskFormerConfig.from_pretrained(folder).dtype == "bfloat16"
    with pytest.raises(ValueError, match=r"dtype must be auto or a floating point type .* 'int8'"):
        load_weights_of(folder, dtype="int8")


@pytest.mark.parametrize("name", ["someone/some-model", "hf://someone/some-model"])
def test_a_name_on_the_hub_is_fetched(model, folder, monkeypatch, name):
    asked = []

    def snapshot_download(repo, *, allow_patterns):
        asked.append((repo, "pytorch_model.bin" in allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)

    assert_same_weights(load_weights_of(name), model)
    assert asked == [("someone/some-model", False)]

    (folder / "model.safetensors").unlink()
    asked.clear()
    with pytest.raises(ValueError, match="must hold its weights"):
        load_weights_of(name)
    assert [pickles for _, pickles in asked] == [False, True]


def test_a_model_that_is_nowhere_is_one_clear_line(monkeypatch):
    def snapshot_download(repo, **_):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)

    with pytest.raises(ValueError, match=r"'someone/x' is no folder here, .* no route to host"):
        resolve_folder("someone/x")
    for name in ("/no/such/folder", "./folder", "a/b/c", "folder", ""):
        with pytest.raises(ValueError, match=r"a model must be a folder, .* or a hub id"):
            resolve_folder(name)


def test_a_misspelt_model_is_told_with_the_nearest_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    for name, near in (
        ("modell", "model"),
        ("maskformer-swin-tiny-coco", "m.*-tiny-coco-panoptic"),
    ):
        with pytest.raises(ValueError, match=rf"got '{name}', .*; did you mean {near}\?$"):
            resolve_folder(name)


def break_folder(folder, kind):
    config, tensors = folder / "config.json", folder / "model.safetensors"
    whole = tensors.read_bytes()
    if kind == "no config":
        config.unlink()
    elif kind == "no json":
        config.write_text("{")
    elif kind == "backbone":
        values = json.loads(config.read_text())
        values["backbone_config"]["model_type"] = "hiera"
        config.write_text(json.dumps(values))
    elif kind in ("gaps", "list"):
        values = json.loads(config.read_text())
        values["id2label"] = {"0": "sky", "7": "car"} if kind == "gaps" else ["sky", "car"]
        config.write_text(json.dumps(values))
    elif kind == "no weights":
        tensors.unlink()
    elif kind == "html":
        tensors.write_bytes(b"<!DOCTYPE html><html>Not found</html>")
    elif kind == "shard":
        tensors.unlink()
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    else:
        tensors.write_bytes(whole[: {"empty": 0, "header": 100, "cut": len(whole) - 1}[kind]])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no config", "must hold config.json"),
        ("no json", "config.json must be a readable JSON file"),
        ("backbone", "config.json: backbone_config.model_type must be one of .* got 'hiera'"),
        (
            "gaps",
            "json: id2label must number its 2 labels from 0 to 1, .* got 7 and no name for 1",
        ),
        ("list", "config.json holds a value of the wrong kind"),
        ("no weights", "must hold its weights as model.safetensors"),
        ("html", "model.safetensors is no whole safetensors file"),
        ("shard", "index.json must name files beside it, it names model-00001-of-00002"),
        ("empty", "model.safetensors is no whole safetensors file .*0 bytes"),
        ("header", "model.safetensors is no whole safetensors file .*100 bytes"),
        ("cut", "must have .* bytes by its own header"),
    ],
)
def test_a_folder_that_is_no_model_is_refused_in_one_line_without_torch(folder, kind, message):
    check_folder(str(folder))
    break_folder(folder, kind)

    with pytest.raises(ValueError, match=message) as error:
        check_folder(str(folder))

    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_folders_are_checked_without_torch(folder):
    program = (
        "import sys; from maskformer import check_folder, resolve_folder;"
        f"check_folder(resolve_folder({str(folder)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_failed_save_leaves_the_old_weights(model, folder, monkeypatch):
    before = (folder / "model.safetensors").read_bytes()

    def disk_full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", disk_full)

    with pytest.raises(OSError, match="no space"):
        model.save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == before


def safetensors_of(described):
    header = json.dumps(described).encode()
    return len(header).to_bytes(8, "little") + header + bytes(8)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ({"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}, "needs 4,398,046,511,104 by"),
        ({"dtype": "F32", "shape": [-2, -1], "data_offsets": [0, 8]}, "must be numbers from 0"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}, "does not fill its 8 bytes"),
        ({"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}, "got F8_E4M3"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}, "no whole safetensors file"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 2**60]}, "by its own header"),
        ({"dtype": "F32", "data_offsets": [0, 8]}, "describes 'a' wrongly"),
        ("text", "no whole safetensors file"),
    ],
)
def test_a_header_that_lies_is_one_line_before_anything_is_allocated(folder, tensor, words):
    (folder / "model.safetensors").write_bytes(safetensors_of({"a": tensor}))

    for attempt in (check_folder, load_weights_of):
        with pytest.raises(ValueError, match=words) as error:
            attempt(str(folder))
        assert "\n" not in str(error.value)


def test_one_file_of_another_name_in_a_folder_or_by_itself_loads(model, folder):
    (folder / "model.safetensors").rename(folder / "epoch-7.safetensors")

    assert_same_weights(load_weights_of(folder), model)
    assert_same_weights(load_weights_of(folder / "epoch-7.safetensors"), model)

    (folder / "epoch-8.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=r"but epoch-7\.safetensors, epoch-8\.pth"):
        load_weights_of(folder)
