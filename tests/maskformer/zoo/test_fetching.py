"""Weights of the zoo come from where they are released, whole or not at all."""

import hashlib
import pickle
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch

from maskformer import zoo
from maskformer.configuration import MaskFormerConfig
from maskformer.hub import resolve_folder
from maskformer.image_processor import MaskFormerImageProcessor
from maskformer.model import MaskFormerForInstanceSegmentation
from maskformer.zoo import MODELS, fetched_folder

NAME = "maskformer-swin-tiny-coco-panoptic"
BYTES = b"weights" * 1000


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path):
    """Serves a folder over HTTP and says what was asked for."""
    folder = tmp_path / "released"
    folder.mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = Thread(target=httpd.serve_forever, args=[0.01])
    thread.start()
    httpd.folder, httpd.url = folder, f"http://127.0.0.1:{httpd.server_port}"
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKFORMER_ZOO", str(tmp_path / "zoo"))
    return tmp_path / "zoo"


def entry_at(server, *, content=BYTES):
    start = hashlib.md5(content).hexdigest()[:6]
    weights = replace(
        MODELS[NAME].weights, url=f"{server.url}/model_final_{start}.pkl", md5_start=start
    )
    return replace(MODELS[NAME], weights=weights)


def test_a_folder_is_made_once_and_has_all_that_a_model_needs(server, root):
    entry = entry_at(server)
    released = server.folder / entry.weights.file_name
    released.write_bytes(BYTES)

    folder = fetched_folder(entry)
    released.unlink()

    assert fetched_folder(entry) == folder == str(root / NAME)
    assert (root / NAME / entry.weights.file_name).read_bytes() == BYTES
    assert sorted(path.name for path in (root / NAME).iterdir()) == [
        "config.json",
        entry.weights.file_name,
        "preprocessor_config.json",
    ]
    assert MaskFormerConfig.from_pretrained(folder) == MaskFormerConfig.from_dict(entry.config)


def test_a_name_of_the_zoo_resolves_to_that_folder(server, root, monkeypatch, tmp_path):
    entry = entry_at(server)
    (server.folder / entry.weights.file_name).write_bytes(BYTES)
    monkeypatch.setattr(zoo, "MODELS", {NAME: entry})
    monkeypatch.chdir(tmp_path)

    assert resolve_folder(NAME) == str(root / NAME)
    (tmp_path / NAME).mkdir()
    assert resolve_folder(NAME) == NAME


def test_a_model_and_its_image_processor_come_by_name(server, root, monkeypatch, tmp_path):
    small = {"embedding_size": 8, "hidden_sizes": (16, 16, 32, 32), "depths": (1, 1, 1, 1)}
    stages = ("stage1", "stage2", "stage3", "stage4")
    config = {"model_type": "resnet", "out_features": stages, "frozen_batch_norm": True, **small}
    backbone = replace(MODELS[NAME].backbone, config=config)
    torch.manual_seed(0)
    model = MaskFormerForInstanceSegmentation(
        MaskFormerConfig.from_dict(replace(MODELS[NAME], backbone=backbone).config)
    )
    # The names in it are a matter of the dialects.
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    content = pickle.dumps({"model": tensors, "__author__": "us"})
    entry = replace(entry_at(server, content=content), backbone=backbone)
    (server.folder / entry.weights.file_name).write_bytes(content)
    monkeypatch.setattr(zoo, "MODELS", {NAME: entry})
    monkeypatch.chdir(tmp_path)

    loaded = MaskFormerForInstanceSegmentation.from_pretrained(NAME)
    processor = MaskFormerImageProcessor.from_pretrained(NAME)

    assert loaded.config.id2label == entry.id2label
    ours, theirs = loaded.state_dict(), model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (
        processor.to_dict() == MaskFormerImageProcessor.from_dict(entry.image_processor).to_dict()
    )


def test_a_file_put_there_by_hand_is_taken(server, root):
    entry = entry_at(server)
    (root / NAME).mkdir(parents=True)
    (root / NAME / entry.weights.file_name).write_bytes(BYTES)

    assert fetched_folder(entry) == str(root / NAME)


def test_a_download_that_is_not_whole_leaves_nothing(server, root):
    entry = entry_at(server)
    released = server.folder / entry.weights.file_name
    released.write_bytes(BYTES[:-1])

    with pytest.raises(ValueError, match=f"MD5 that begins with {entry.weights.md5_start}"):
        fetched_folder(entry)

    assert list((root / NAME).iterdir()) == []
    released.write_bytes(BYTES)
    assert fetched_folder(entry) == str(root / NAME)


def test_a_file_put_there_by_hand_that_is_another_is_refused_and_stays(server, root):
    entry = entry_at(server)
    (root / NAME).mkdir(parents=True)
    (root / NAME / entry.weights.file_name).write_bytes(b"other")

    for _ in range(2):
        with pytest.raises(ValueError, match="no whole copy of"):
            fetched_folder(entry)
    assert (root / NAME / entry.weights.file_name).read_bytes() == b"other"


def test_weights_that_cannot_be_fetched_are_one_line_with_the_way_out(server, root):
    entry = entry_at(server)

    with pytest.raises(ValueError, match="404") as error:
        fetched_folder(entry)

    message = str(error.value)
    assert "\n" not in message
    assert str(root / NAME / entry.weights.file_name) in message
    assert "facebook/maskformer-swin-tiny-coco" in message
    assert list((root / NAME).iterdir()) == []
