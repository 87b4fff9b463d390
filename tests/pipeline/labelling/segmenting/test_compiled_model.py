"""Common shapes are compiled, rare ones are not, and code is kept for each kind of model."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from pipeline.labelling.segmenting import compiled_model
from pipeline.labelling.segmenting.compiled_model import (
    CodeCache,
    CompiledModel,
    Logits,
    logits_of,
)
from pipeline.storage import Storage, StorageFault


class Compiler:
    """Stands for torch.compile: notes the shapes of what is called, and calls it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self._error = error

    def __call__(self, function: Callable[[Tensor], Logits]) -> Callable[[Tensor], Logits]:
        def compiled(pixel_values: Tensor) -> Logits:
            if self._error is not None:
                raise self._error
            self.shapes.append(tuple(pixel_values.shape))
            return function(pixel_values)

        return compiled


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_model, "COMMON_IMAGES", 6)
    monkeypatch.setattr(compiled_model, "CHUNK", 4)
    monkeypatch.setattr(compiled_model, "MOST_SHAPES", 2)


class Model:
    """Stands for a model: quick sums of pixels in place of logits."""

    def decode_queries(self, pixel_values: Tensor) -> SimpleNamespace:
        sums = pixel_values.flatten(2).sum(2)
        return SimpleNamespace(class_queries_logits=sums[:, None], pixels=pixel_values)

    def all_masks(self, decoding: SimpleNamespace) -> Tensor:
        return decoding.pixels * decoding.class_queries_logits.sum(2)[:, :, None, None]


@pytest.fixture
def model() -> Any:
    return Model()


@pytest.fixture
def cache() -> Mock:
    """An empty cache."""
    return Mock(has=Mock(return_value=False), load=Mock(return_value=False))


def pixels(count: int, *size: int) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(count))


@torch.inference_mode()
def test_a_shape_is_compiled_once_it_is_common_and_rare_ones_are_not(model, cache):
    compiler = Compiler()
    compiled = CompiledModel(model, cache=cache, compiler=compiler)
    common, other, third = (32, 32), (32, 48), (48, 32)
    for count in (5, 3):
        compiled(pixels(count, *common))  # the first of a shape, then less than a chunk
    assert compiler.shapes == []
    values = pixels(10, *common)
    found = compiled(values)
    assert compiler.shapes == [(4, 3, *common)] * 2  # and two as they are
    for ours, theirs in zip(found, logits_of(model, values), strict=True):
        torch.testing.assert_close(ours, theirs)
    for shape in (other, third):
        compiled(pixels(8, *shape))
    assert {shape[2:] for shape in compiler.shapes} == {common, other}  # no room for a third
    assert [call.args for call in cache.save.call_args_list] == [(common,), (other,)]


@torch.inference_mode()
def test_code_that_is_kept_is_taken_from_the_first_chunk_on_and_other_shapes_wait(model, cache):
    compiler, kept = Compiler(), (32, 32)
    cache.has = cache.load = Mock(side_effect=lambda shape: shape == kept)
    compiled = CompiledModel(model, cache=cache, compiler=compiler)
    for _ in range(2):
        compiled(pixels(4, *kept))
    assert compiler.shapes == [(4, 3, *kept)] * 2
    compiled(pixels(4, 32, 48))
    assert compiler.shapes == [(4, 3, *kept)] * 2
    cache.save.assert_not_called()


@torch.inference_mode()
def test_where_nothing_compiles_the_model_runs_as_it_is(model, cache):
    compiler = Compiler(RuntimeError("no C compiler"))
    compiled = CompiledModel(model, cache=cache, compiler=compiler)
    values = pixels(8, 32, 32)
    with pytest.warns(UserWarning, match=r"not compiled \(RuntimeError: no C compiler\)"):
        found = compiled(values)
    for ours, theirs in zip(found, logits_of(model, values), strict=True):
        torch.testing.assert_close(ours, theirs)
    again = compiled(values)
    assert torch.equal(again[0], logits_of(model, values)[0])


@torch.inference_mode()
def test_too_little_memory_is_no_error_of_the_compiler(model, cache):
    compiler = Compiler(torch.OutOfMemoryError("CUDA out of memory"))
    compiled = CompiledModel(model, cache=cache, compiler=compiler)
    with pytest.raises(torch.OutOfMemoryError):
        compiled(pixels(8, 32, 32))


class Away(Storage):
    """A storage that does not answer."""

    def file(self, uri: str) -> None:
        raise StorageFault("connection reset")


def test_code_is_kept_by_kind_of_model_and_precision(tmp_path):
    made = [
        CodeCache.of(str(tmp_path), storage=Storage(), config=config, precision=precision).uri(
            shape
        )
        for config in (b"a", b"b")
        for precision in ("bf16", "fp32")
        for shape in ((32, 64), (64, 32))
    ]
    assert len(set(made)) == 8
    assert all(uri.startswith(f"{tmp_path}/") for uri in made)


def test_code_that_cannot_be_read_is_compiled_again(tmp_path):
    code = CodeCache.of(str(tmp_path), storage=Storage(), config=b"{}", precision="fp32")
    shape = (32, 64)
    assert not code.load(shape)
    Storage().write(code.uri(shape), b"no code")
    assert not code.load(shape)
    away = dataclasses.replace(code, storage=Away())
    with pytest.warns(UserWarning, match=r"32x64\.bin: cannot be looked at: connection reset"):
        assert not away.load(shape)


ACTORS = """
import os, sys
from collections import namedtuple

import torch
from torch._dynamo.utils import counters  # torch has no public way to ask

from pipeline.labelling.segmenting import compiled_model
from pipeline.labelling.segmenting.compiled_model import CodeCache, CompiledModel
from pipeline.storage import Storage

folder = sys.argv[1]
compiled_model.CHUNK = compiled_model.COMMON_IMAGES = 2

Decoding = namedtuple("Decoding", "class_queries_logits pixels")

class Products:  # which the compiler leaves to a library, so that no C++ is compiled
    def decode_queries(self, pixel_values):
        first, second, third = pixel_values.unbind(1)
        return Decoding(torch.bmm(first, second), third)

    def all_masks(self, decoding):
        return torch.bmm(decoding.class_queries_logits, decoding.pixels)

def act(number):
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/{number}"
    cache = CodeCache.of(f"{folder}/kept", storage=Storage(), config=b"", precision="fp32")
    model = CompiledModel(Products(), cache=cache)
    with torch.inference_mode():
        for side in (8, 12):
            model(torch.ones(2, 3, side, side))
    found = counters["inductor"]
    print("hits", found["fxgraph_cache_hit"], "misses", found["fxgraph_cache_miss"], flush=True)

for number in range(2):
    if not (child := os.fork()):
        act(number)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.faults
def test_what_one_actor_compiles_others_need_not(tmp_path):
    """By torch's own compiler: two actors in turn, each with a disk of its own."""
    environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", ACTORS, str(tmp_path)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.stdout.splitlines() == ["hits 0 misses 2", "hits 2 misses 0"], found.stderr[-2000:]
