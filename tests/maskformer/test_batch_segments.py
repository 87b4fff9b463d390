"""Segments of a batch, made on its device, are those that each image has alone, to the byte.

Plain operations run in this process. Kernels run interpreted, in a process of their own: Triton
looks for TRITON_INTERPRET when it is imported.
"""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from maskformer import (
    BatchPostprocessor,
    EncodedSegments,
    encode_segmentation,
    keep_panoptic,
    panoptic_segmentation,
    semantic_segments,
)
from maskformer.postprocessing import batch_settling
from maskformer.postprocessing.semantic import batch_semantic_scores, semantic_scores_at_once

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
NUM_LABELS = 6
PADDED = (64, 88)
MASKS = (16, 22)
TARGETS = [(31, 43), (33, 25), (31, 43), (16, 22), (60, 7), (1, 1)]
IMAGES = [(64, 88), (50, 88), (64, 61), (17, 33), (64, 88), (1, 3)]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The outputs of a model for a batch, and the sizes of its images."""

    class_logits: torch.Tensor
    mask_logits: torch.Tensor
    sizes: dict[str, Any]

    def of_image(self, index: int) -> dict[str, Any]:
        sizes = {"target_size": self.sizes["target_sizes"][index]}
        if self.sizes.get("image_sizes"):
            sizes["image_size"] = self.sizes["image_sizes"][index]
            sizes["padded_size"] = self.sizes["padded_size"]
        return sizes


def draw_outputs(
    *,
    is_padded: bool = False,
    num_queries: int = 20,
    targets: list[tuple[int, int]] | None = None,
    masks: tuple[int, int] = MASKS,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Batch:
    """Draws a batch; in its third image nothing is kept, in its fourth everything."""
    targets = TARGETS if targets is None else targets
    generator = torch.Generator().manual_seed(seed)
    classes = 5 * torch.randn(len(targets), num_queries, NUM_LABELS + 1, generator=generator)
    coarse = 8 * torch.randn(len(targets), num_queries, 5, 7, generator=generator)
    if len(targets) > 3:
        classes[2] = 0
        classes[2, :, NUM_LABELS] = 9
        classes[3, :, NUM_LABELS] = -99
    sizes: dict[str, Any] = {"target_sizes": targets}
    if is_padded:
        sizes |= {"image_sizes": IMAGES[: len(targets)], "padded_size": PADDED}
    mask_logits = torch.nn.functional.interpolate(coarse, masks, mode="bilinear")
    return Batch(class_logits=classes.to(dtype), mask_logits=mask_logits.to(dtype), sizes=sizes)


def of_the_batch(task: Any, drawn: Batch, **settings: Any) -> EncodedSegments:
    processor = BatchPostprocessor(task, uses_kernels=IS_INTERPRETED, **settings)
    return processor.start(drawn.class_logits, drawn.mask_logits, **drawn.sizes).result()


def of_each_image(task: Any, drawn: Batch, *, threshold: float = 0.5, **settings: Any) -> Any:
    """Today's way: keeps queries, then makes masks of those, image by image."""
    parts = []
    for index in range(len(drawn.class_logits)):
        classes, masks, sizes = (
            drawn.class_logits[index],
            drawn.mask_logits[index],
            drawn.of_image(index),
        )
        if task == "semantic":
            parts.append(encode_segmentation(semantic_segments(classes, masks, **sizes)))
            continue
        kept = keep_panoptic(classes, threshold=threshold)
        segmentation = panoptic_segmentation(masks[kept.queries], kept, **settings, **sizes)
        parts.append(encode_segmentation(segmentation))
    return EncodedSegments.joined(parts)


def assert_same_segments(found: EncodedSegments, expected: EncodedSegments) -> None:
    for field in fields(EncodedSegments):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        assert ours.dtype == theirs.dtype, field.name
        assert ours.tobytes() == theirs.tobytes(), field.name


FUSED = pytest.mark.parametrize("fused", [(), (1, 2, 3)], ids=["apart", "fused"])
RULES = pytest.mark.parametrize("is_padded", [False, True], ids=["stretched", "padded"])


@RULES
@FUSED
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.8])
def test_panoptic_segments_are_those_of_each_image(is_padded, fused, overlap):
    drawn = draw_outputs(is_padded=is_padded)
    settings = {
        "threshold": 0.4,
        "overlap_mask_area_threshold": overlap,
        "label_ids_to_fuse": frozenset(fused),
    }
    found = of_the_batch("panoptic", drawn, **settings)
    assert_same_segments(found, of_each_image("panoptic", drawn, **settings))
    assert found.num_segments[2] == 0
    assert found.num_segments.max() > (1 if overlap < 0.5 else 0)


def softmax_without_null(drawn: Batch, image: int, query: int) -> list[float]:
    return drawn.class_logits[image, query].softmax(-1)[:-1].tolist()


@FUSED
def test_the_second_label_is_the_best_other_of_the_query_with_most_pixels(fused):
    drawn = draw_outputs()
    settings = {"overlap_mask_area_threshold": 0.0, "label_ids_to_fuse": frozenset(fused)}
    found = of_the_batch("panoptic", drawn, threshold=0.4, **settings)
    ends = found.num_segments.cumsum()
    for image in range(len(TARGETS)):
        kept = keep_panoptic(drawn.class_logits[image], threshold=0.4)
        own = slice(ends[image] - found.num_segments[image], ends[image])
        for label, second, score in zip(
            found.label_ids[own], found.second_label_ids[own], found.second_scores[own], strict=True
        ):
            of_label = kept.queries[kept.labels == int(label)].tolist()
            probabilities = [softmax_without_null(drawn, image, query) for query in of_label]
            expected = []
            for each in probabilities:
                each[label] = -1
                expected.append((each.index(max(each)), pytest.approx(max(each), abs=1e-6)))
            assert (second, score) in expected
            assert second != label


def test_a_model_of_one_label_has_no_second_one():
    drawn = draw_outputs()
    classes = drawn.class_logits[..., -2:].contiguous()
    one = Batch(class_logits=classes, mask_logits=drawn.mask_logits, sizes=drawn.sizes)
    found = of_the_batch("panoptic", one)
    assert len(found.scores)
    assert set(found.second_label_ids.tolist()) == {-1}
    assert_same_segments(found, of_each_image("panoptic", one))


def test_semantic_segments_are_no_querys_and_have_no_second_label():
    assert set(of_the_batch("semantic", draw_outputs()).second_label_ids.tolist()) == {-1}


@RULES
def test_semantic_segments_are_those_of_each_image(is_padded):
    drawn = draw_outputs(is_padded=is_padded)
    # Labels that are exactly as likely are told apart by the last bits of sums.
    drawn.class_logits[2] = drawn.class_logits[0].flip(0)
    found = of_the_batch("semantic", drawn)
    assert_same_segments(found, of_each_image("semantic", drawn))
    assert found.num_segments.max() > 1


def test_where_nothing_is_kept_in_any_image_there_are_no_segments():
    found = of_the_batch("panoptic", draw_outputs(), threshold=1.0)
    assert found.num_segments.tolist() == [0] * len(TARGETS)
    assert (len(found.scores), len(found.rle_text)) == (0, 0)
    assert found.rle_begins.tolist() == [0]


@FUSED
def test_more_kept_queries_than_a_byte_counts(fused):
    drawn = draw_outputs(num_queries=300, targets=[(16, 20)] * 4, masks=(16, 20))
    settings = {"overlap_mask_area_threshold": 0.0, "label_ids_to_fuse": frozenset(fused)}
    found = of_the_batch("panoptic", drawn, **settings)
    kept = keep_panoptic(drawn.class_logits[3], threshold=0.5)
    assert len(kept.queries) > 255
    assert_same_segments(found, of_each_image("panoptic", drawn, **settings))


def test_a_pixel_of_a_segment_beyond_the_255th():
    """Stripes of one column, each the best of a query of its own."""
    logits = torch.full((1, 300, 2, 300), -9.0)
    logits[0, torch.arange(300), :, torch.arange(300)] = 9.0
    classes = torch.zeros(1, 300, NUM_LABELS + 1)
    classes[..., 0] = 20
    drawn = Batch(class_logits=classes, mask_logits=logits, sizes={"target_sizes": [(2, 300)]})
    found = of_the_batch("panoptic", drawn)
    assert found.num_segments.tolist() == [300]
    assert_same_segments(found, of_each_image("panoptic", drawn))


@RULES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_logits_of_half_the_bits(is_padded, dtype):
    drawn = draw_outputs(is_padded=is_padded, dtype=dtype)
    settings = {"threshold": 0.4, "overlap_mask_area_threshold": 0.3}
    found = of_the_batch("panoptic", drawn, **settings)
    assert_same_segments(found, of_each_image("panoptic", drawn, **settings))


@RULES
def test_more_runs_than_there_is_room_for_come_in_a_second_transfer(is_padded):
    drawn = draw_outputs(is_padded=is_padded)
    settings = {"threshold": 0.4, "overlap_mask_area_threshold": 0.0}
    processor = BatchPostprocessor("panoptic", uses_kernels=IS_INTERPRETED, **settings)
    processor._runs_per_column = 0.1
    found = processor.start(drawn.class_logits, drawn.mask_logits, **drawn.sizes).result()
    assert_same_segments(found, of_each_image("panoptic", drawn, **settings))
    assert processor._runs_per_column > 0.1


def test_an_image_alone_gives_what_it_gives_in_a_batch():
    drawn = draw_outputs()
    alone = []
    for index, size in enumerate(TARGETS):
        one = Batch(
            class_logits=drawn.class_logits[index : index + 1],
            mask_logits=drawn.mask_logits[index : index + 1],
            sizes={"target_sizes": [size]},
        )
        alone.append(of_the_batch("panoptic", one, threshold=0.4))
    assert_same_segments(
        of_the_batch("panoptic", drawn, threshold=0.4), EncodedSegments.joined(alone)
    )


def test_sizes_are_one_for_each_image():
    drawn = draw_outputs()
    processor = BatchPostprocessor("panoptic")
    with pytest.raises(ValueError, match="target_sizes must hold a size for each image"):
        processor.start(drawn.class_logits, drawn.mask_logits, target_sizes=TARGETS[:2])


WAITS = {
    "_local_scalar_dense", "item", "nonzero", "masked_select", "unique2", "_unique2", "equal",
    "repeat_interleave", "bincount", "unique_dim",
}  # fmt: skip
VIEWS = {
    "view", "slice", "select", "expand", "unsqueeze", "squeeze", "t", "transpose", "permute",
    "alias", "detach", "_unsafe_view", "unbind", "split", "split_with_sizes", "as_strided",
    "lift_fresh", "empty", "_to_copy_view", "new_empty", "empty_strided", "empty_like",
}  # fmt: skip


class Operations(TorchDispatchMode):
    """Counts what a device would be asked for: launches, and operations that wait for numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, _, _ = str(func).removeprefix("aten.").partition(".")
        # With its size given, repeat_interleave waits for nothing.
        if name == "repeat_interleave" and (kwargs or {}).get("output_size") is not None:
            name = "repeat_interleave_of_known_size"
        self.counts[name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def launches(self) -> int:
        return sum(count for name, count in self.counts.items() if name not in VIEWS)

    @property
    def waits(self) -> int:
        return sum(count for name, count in self.counts.items() if name in WAITS)


BLOCK_OF_64 = [(480, 640)] * 40 + [(640, 480)] * 16 + [(480, 480)] * 8


class Kernels:
    """Counts launches of a kernel and runs none; notes the arguments of the last ones."""

    def __init__(self) -> None:
        self.launches = 0
        self.arguments: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: tuple[int, int]) -> Any:
        return self._launch

    def _launch(self, *args: Any, **constants: Any) -> None:
        self.launches += 1
        self.arguments = [*self.arguments[-2:], args]


@pytest.fixture
def kernels(monkeypatch):
    """Stands in for the kernels, which need a GPU at these sizes."""
    if IS_INTERPRETED:
        pytest.skip("interpreted kernels are operations of their own")
    batch_kernels = pytest.importorskip("maskformer.postprocessing.batch_kernels")
    counted = Kernels()
    for name in ("resized_argmax", "count_runs", "write_runs"):
        monkeypatch.setattr(batch_kernels, name, counted)
    return counted


def block_of_64(*, is_padded: bool) -> Batch:
    """100 queries at a size that is small: operations are counted, not their pixels."""
    sizes: dict[str, Any] = {"target_sizes": BLOCK_OF_64}
    if is_padded:
        sizes |= {"image_sizes": [(30, 38)] * 64, "padded_size": (40, 40)}
    return Batch(
        class_logits=torch.randn(64, 100, NUM_LABELS + 1),
        mask_logits=torch.randn(64, 100, 10, 10),
        sizes=sizes,
    )


@RULES
@FUSED
def test_a_panoptic_batch_of_64_is_few_launches_and_one_transfer(kernels, is_padded, fused):
    drawn = block_of_64(is_padded=is_padded)
    processor = BatchPostprocessor(
        "panoptic", uses_kernels=True, label_ids_to_fuse=frozenset(fused)
    )
    processor.start(drawn.class_logits, drawn.mask_logits, **drawn.sizes)  # makes the table once
    kernels.launches = 0
    with Operations() as operations:
        pending = processor.start(drawn.class_logits, drawn.mask_logits, **drawn.sizes)
    assert kernels.launches == 3
    assert operations.waits == 0
    assert operations.counts["copy_"] == 1  # to the host
    # 64 images alone are 64 times 33 to 38. Views of numbers in order are counted here too.
    assert operations.launches + kernels.launches <= 64
    # At first there is room for twice the runs of a photograph; a map takes 614,400 bytes.
    assert pending.bytes_back / 64 < 62_000


def test_room_for_runs_follows_what_photographs_have(kernels):
    """A photograph of 640 columns has some 5,000 runs, which take 30,000 bytes."""
    drawn = block_of_64(is_padded=False)
    processor = BatchPostprocessor("panoptic", uses_kernels=True)
    for _ in range(100):
        pending = processor.start(drawn.class_logits, drawn.mask_logits, **drawn.sizes)
        processor._learn(pending._geometry, num_runs=64 * 4_000)
    assert 64 * 4_000 < pending._transfer.num_runs_at_most < 1.3 * 64 * 4_000
    assert pending.bytes_back / 64 < 34_000


def test_a_semantic_batch_of_64_is_few_launches_and_one_transfer(kernels, monkeypatch):
    monkeypatch.setattr(batch_settling, "batch_semantic_scores", semantic_scores_at_once)
    drawn = block_of_64(is_padded=False)
    processor = BatchPostprocessor("semantic", uses_kernels=True)
    with Operations() as operations:
        pending = processor.start(drawn.class_logits, drawn.mask_logits, **drawn.sizes)
    assert kernels.launches == 3
    assert operations.waits == 0
    assert operations.counts["copy_"] == 1
    assert operations.launches + kernels.launches <= 50
    assert pending.bytes_back / 64 < 62_000


@pytest.fixture
def alignment_matters():
    """Tells of each argument of each kernel whether another alignment has it compiled again."""
    batch_kernels = pytest.importorskip("maskformer.postprocessing.batch_kernels")
    return [
        [not param.do_not_specialize_on_alignment for param in kernel.params]
        for kernel in (
            batch_kernels.resized_argmax, batch_kernels.count_runs, batch_kernels.write_runs
        )
    ]  # fmt: skip


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_no_number_of_images_has_kernels_compiled_again(alignment_matters, kernels, task):
    """Triton compiles apart for pointers that are multiples of 16 bytes."""
    processor = BatchPostprocessor(task, uses_kernels=True)
    for count in (1, 2, 3):
        drawn = draw_outputs(num_queries=21, targets=TARGETS[:count])
        processor.start(drawn.class_logits, drawn.mask_logits, **drawn.sizes)
        for args, matters in zip(kernels.arguments, alignment_matters, strict=True):
            places = [
                arg.data_ptr() % 16
                for arg, counts in zip(args, matters, strict=False)
                if counts and isinstance(arg, torch.Tensor)
            ]
            assert not any(places)


def test_scores_of_a_batch_are_those_of_each_image():
    drawn = draw_outputs()
    at_once = semantic_scores_at_once(drawn.class_logits, drawn.mask_logits)
    alone = batch_semantic_scores(drawn.class_logits, drawn.mask_logits)
    torch.testing.assert_close(at_once, alone, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
@RULES
def test_plain_operations_wait_for_nothing_either(task, is_padded):
    drawn = draw_outputs(is_padded=is_padded)
    processor = BatchPostprocessor(task, uses_kernels=False)
    pending = processor.start(drawn.class_logits, drawn.mask_logits, **drawn.sizes)
    pending.result()
    with Operations() as operations:
        pending = processor.start(drawn.class_logits, drawn.mask_logits, **drawn.sizes)
    assert operations.waits == 0
    with Operations() as operations:
        pending.result()
    # The host works on numbers that are there.
    assert not operations.counts.keys() - {"detach", "to", "resolve_conj", "resolve_neg"}


INTERPRETED = " or ".join(
    [
        "(panoptic_segments_are and 0.3 and apart)",
        "(semantic_segments_are and stretched)",
        "beyond_the_255th",
        "(half_the_bits and bf16)",
        "(more_runs and stretched)",
        "nothing_is_kept",
    ]
)


@pytest.mark.skipif(IS_INTERPRETED, reason="this is what runs interpreted")
@pytest.mark.timeout(900)
def test_interpreted_kernels_pass_these_tests_too():
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    command += ["-k", INTERPRETED]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-4000:]
    assert "8 passed" in result.stdout


@pytest.mark.skipif(IS_INTERPRETED, reason="an interpreted kernel is not compiled")
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("is_padded", "has_shares"), [(False, False), (True, False), (False, True)]
)
def test_kernels_compile_for_the_h100_without_spilling_or_fusing(
    tmp_path, dtype, is_padded, has_shares
):
    """Ahead of time: no GPU is needed. A fused multiplication would round once instead of twice."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from maskformer.postprocessing import batch_kernels

    types = {
        "maps": f"*{dtype}", "order": "*i64", "num_maps": "*i64", "weights": "*fp32",
        "thresholds": "*fp32", "totals": "*fp32", "sizes": "*i64", "scales": "*fp32",
        "winner": "*i16", "won": "*i32", "areas": "*i32", "share_sums": "*fp64",
        "map_height": "i32", "map_width": "i32", "num_planes": "i32",
    }  # fmt: skip
    constants = {
        "num_columns": 100,
        "is_padded": is_padded,
        "has_shares": has_shares,
        "block": batch_kernels.BLOCK,
    }
    source = ASTSource(
        batch_kernels.resized_argmax,
        types | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
    )
    found = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=batch_kernels.OPTIONS)
    assert "fma.rn.f32" not in found.asm["ptx"]
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(found.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    usage = subprocess.run(
        [tool, "-res-usage", cubin], capture_output=True, text=True, check=True
    ).stdout
    assert "STACK:0" in usage
    assert "LOCAL:0" in usage


@pytest.mark.skipif(IS_INTERPRETED, reason="an interpreted kernel is not compiled")
def test_kernels_of_runs_compile_for_the_h100():
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from maskformer.postprocessing import batch_kernels

    common = {"winner": "*i16", "ids": "*i16", "sizes": "*i64"}
    constants = {"num_columns": 100, "block": batch_kernels.BLOCK}
    for kernel, types in (
        (batch_kernels.count_runs, {"counts": "*i32"}),
        (
            batch_kernels.write_runs,
            {"ends": "*i32", "starts": "*i32", "run_ids": "*i16", "capacity": "i32"},
        ),
    ):
        source = ASTSource(
            kernel,
            common | types | dict.fromkeys(constants, "constexpr"),
            constexprs=constants,
        )
        triton.compile(source, target=GPUTarget("cuda", 90, 32), options=batch_kernels.OPTIONS)
