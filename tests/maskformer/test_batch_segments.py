"""Segments of a batch, made on its device, are those that each image has alone, to the byte.

Plain operations run in this process. Kernels run interpreted, in a process of their own: Triton
looks for TRITON_INTERPRET when it is imported.
"""

import importlib
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from maskformer import (
    BatchPostprocessor,
    EncodedSegments,
    encode_segmentation,
    instance_segmentation,
    keep_instance,
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
        if task == "instance":
            kept = keep_instance(classes, threshold=threshold)
            segmentation = instance_segmentation(
                masks[kept.queries], kept, threshold=threshold, **settings, **sizes
            )
        else:
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


@RULES
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("threshold", [0.02, 0.4])
def test_instances_are_those_of_each_image(is_padded, overlap, threshold):
    """At the lower threshold a query is several instances, each with a label of its own."""
    drawn = draw_outputs(is_padded=is_padded, num_queries=40)
    settings = {
        "threshold": threshold,
        "mask_threshold": 0.4,
        "overlap_mask_area_threshold": overlap,
    }
    found = of_the_batch("instance", drawn, **settings)
    assert_same_segments(found, of_each_image("instance", drawn, **settings))
    assert found.num_segments[2] == 0
    assert found.num_segments.max() > (1 if overlap < 0.5 else 0)
    assert (found.second_label_ids >= 0).all()


def test_instances_of_equal_scores_stand_in_the_order_of_queries():
    drawn = draw_outputs()
    drawn.class_logits[:, 1::2] = drawn.class_logits[:, ::2]
    drawn.mask_logits[:, 1::2] = drawn.mask_logits[:, ::2].flip(-1).contiguous()
    settings = {"threshold": 0.3, "overlap_mask_area_threshold": 0.1}
    found = of_the_batch("instance", drawn, **settings)
    assert_same_segments(found, of_each_image("instance", drawn, **settings))


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


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_a_model_of_one_label_has_no_second_one(task):
    drawn = draw_outputs()
    classes = drawn.class_logits[..., -2:].contiguous()
    one = Batch(class_logits=classes, mask_logits=drawn.mask_logits, sizes=drawn.sizes)
    found = of_the_batch(task, one)
    assert len(found.scores)
    assert set(found.second_label_ids.tolist()) == {-1}
    assert_same_segments(found, of_each_image(task, one))


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


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_where_nothing_is_kept_in_any_image_there_are_no_segments(task):
    found = of_the_batch(task, draw_outputs(), threshold=1.0)
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


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_a_pixel_of_a_segment_beyond_the_255th(task):
    """Stripes of one column, each the best of a query of its own."""
    logits = torch.full((1, 300, 2, 300), -9.0)
    logits[0, torch.arange(300), :, torch.arange(300)] = 9.0
    classes = torch.zeros(1, 300, NUM_LABELS + 1)
    classes[..., 0] = 20
    drawn = Batch(class_logits=classes, mask_logits=logits, sizes={"target_sizes": [(2, 300)]})
    found = of_the_batch(task, drawn)
    assert found.num_segments.tolist() == [300]
    assert_same_segments(found, of_each_image(task, drawn))


@RULES
@pytest.mark.parametrize("task", ["panoptic", "instance"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_logits_of_half_the_bits(is_padded, task, dtype):
    drawn = draw_outputs(is_padded=is_padded, dtype=dtype)
    settings = {"threshold": 0.4, "overlap_mask_area_threshold": 0.3}
    found = of_the_batch(task, drawn, **settings)
    assert_same_segments(found, of_each_image(task, drawn, **settings))


@RULES
def test_more_runs_than_there_is_room_for_come_in_a_second_transfer(is_padded):
    drawn = draw_outputs(is_padded=is_padded)
    settings = {"threshold": 0.4, "overlap_mask_area_threshold": 0.0}
    processor = BatchPostprocessor("panoptic", uses_kernels=IS_INTERPRETED, **settings)
    processor._runs_per_column = 0.1
    found = processor.start(drawn.class_logits, drawn.mask_logits, **drawn.sizes).result()
    assert_same_segments(found, of_each_image("panoptic", drawn, **settings))
    assert processor._runs_per_column > 0.1


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_an_image_alone_gives_what_it_gives_in_a_batch(task):
    drawn = draw_outputs()
    alone = []
    for index, size in enumerate(TARGETS):
        one = Batch(
            class_logits=drawn.class_logits[index : index + 1],
            mask_logits=drawn.mask_logits[index : index + 1],
            sizes={"target_sizes": [size]},
        )
        alone.append(of_the_batch(task, one, threshold=0.4))
    assert_same_segments(of_the_batch(task, drawn, threshold=0.4), EncodedSegments.joined(alone))


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


class Kernel:
    """Stands in for a kernel: notes the arguments of a launch and computes nothing."""

    def __init__(self, name: str, launched: list[tuple[str, tuple[Any, ...]]]) -> None:
        self._name, self._launched = name, launched

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self._launch

    def _launch(self, *args: Any, **constants: Any) -> None:
        self._launched.append((self._name, args))


_OF_ALL, _OF_INSTANCES = (
    f"maskformer.postprocessing.{name}" for name in ("batch_kernels", "instance_kernels")
)
KERNELS = [
    (_OF_ALL, "resized_argmax"), (_OF_INSTANCES, "note_covers"), (_OF_INSTANCES, "place"),
    (_OF_ALL, "count_runs"), (_OF_ALL, "write_runs"),
]  # fmt: skip


@pytest.fixture
def kernels(monkeypatch):
    """Names and arguments of launches; the kernels themselves need a GPU at these sizes."""
    if IS_INTERPRETED:
        pytest.skip("interpreted kernels are operations of their own")
    pytest.importorskip("triton")
    launched: list[tuple[str, tuple[Any, ...]]] = []
    for module, name in KERNELS:
        monkeypatch.setattr(f"{module}.{name}", Kernel(name, launched))
    return launched


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
    kernels.clear()
    with Operations() as operations:
        pending = processor.start(drawn.class_logits, drawn.mask_logits, **drawn.sizes)
    assert len(kernels) == 3
    assert operations.waits == 0
    assert operations.counts["copy_"] == 1  # to the host
    # 64 images alone are 64 times 33 to 38. Views of numbers in order are counted here too.
    assert operations.launches + len(kernels) <= 64
    # At first there is room for twice the runs of a photograph; a map takes 614,400 bytes.
    assert pending.bytes_back / 64 < 62_000


@RULES
def test_a_batch_of_64_of_instances_is_few_launches_and_one_transfer(kernels, is_padded):
    drawn = block_of_64(is_padded=is_padded)
    processor = BatchPostprocessor("instance", uses_kernels=True)
    with Operations() as operations:
        pending = processor.start(drawn.class_logits, drawn.mask_logits, **drawn.sizes)
    assert [name for name, _ in kernels] == ["note_covers", "place", "count_runs", "write_runs"]
    assert operations.waits == 0
    assert operations.counts["copy_"] == 1
    assert operations.launches + len(kernels) <= 80
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
    assert len(kernels) == 3
    assert operations.waits == 0
    assert operations.counts["copy_"] == 1
    assert operations.launches + len(kernels) <= 50
    assert pending.bytes_back / 64 < 62_000


@pytest.fixture
def alignment_matters():
    """Tells of each argument of each kernel whether another alignment has it compiled again."""
    pytest.importorskip("triton")
    return {
        name: [
            not param.do_not_specialize_on_alignment
            for param in getattr(importlib.import_module(module), name).params
        ]
        for module, name in KERNELS
    }


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_no_number_of_images_has_kernels_compiled_again(alignment_matters, kernels, task):
    """Triton compiles apart for pointers that are multiples of 16 bytes."""
    processor = BatchPostprocessor(task, uses_kernels=True)
    for count in (1, 2, 3):
        drawn = draw_outputs(num_queries=21, targets=TARGETS[:count])
        processor.start(drawn.class_logits, drawn.mask_logits, **drawn.sizes)
    assert len(kernels) == (12 if task == "instance" else 9)
    for name, args in kernels:
        for arg, matters in zip(args, alignment_matters[name], strict=False):
            assert not (matters and isinstance(arg, torch.Tensor) and arg.data_ptr() % 16)


def test_scores_of_a_batch_are_those_of_each_image():
    drawn = draw_outputs()
    at_once = semantic_scores_at_once(drawn.class_logits, drawn.mask_logits)
    alone = batch_semantic_scores(drawn.class_logits, drawn.mask_logits)
    torch.testing.assert_close(at_once, alone, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
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
        "(beyond_the_255th and instance)",
        "(instances_are and 0.02-0.3)",
        "(half_the_bits and bf16 and panoptic and stretched)",
        "(more_runs and stretched)",
        "(nothing_is_kept and panoptic)",
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
    assert "9 passed" in result.stdout
