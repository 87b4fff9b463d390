"""Sliding windows: an image too large for one pass, part by part, to one map.

Takes a model, its image processor and an image of any size. Windows overlap; each goes through the
model as if it were an image. Semantic: the label scores of windows are blended, a window counting
less towards those of its edges that lie within the image, and the highest wins. Panoptic: each
window is segmented by itself, and `stitching.py` joins what is one thing.

Memory: the map itself, the logits of the windows that reach into the current row of windows (about
two rows of them), and `byte_budget` for scores. Nothing else grows with the image.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int16, Int64
from PIL import Image
from torch import Tensor, nn

from maskformer.bilinear import bands
from maskformer.image_processor import MaskFormerImageProcessor
from maskformer.inference.prediction import ImagePrediction, predict_image
from maskformer.inference.spans import Span, spans
from maskformer.inference.stitching import Stitcher
from maskformer.postprocessing.geometry import HeightWidth
from maskformer.postprocessing.panoptic import PanopticRule
from maskformer.postprocessing.score_sum import ScoreSum
from maskformer.postprocessing.segments import Segmentation
from maskformer.preprocessing.resizing import to_rgb

BYTE_BUDGET = 64 << 20


@dataclass(frozen=True, kw_only=True)
class _Window:
    """A window, and what the model says of it."""

    rows: Span
    columns: Span
    prediction: ImagePrediction

    @property
    def size(self) -> HeightWidth:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


class SlidingWindows:
    """Predicts images window by window, and merges the results."""

    def __init__(
        self,
        model: nn.Module,
        image_processor: MaskFormerImageProcessor,
        *,
        window_size: HeightWidth,
        overlap: int,
        byte_budget: int = BYTE_BUDGET,
    ) -> None:
        """`window_size` and `overlap` are pixels of the image, ahead of the processor's resizing.

        The overlap is at least one pixel, so that windows can be joined, and at most half a
        window. An image that is no larger than a window is predicted whole.
        """
        if not 1 <= overlap <= min(window_size) // 2:
            raise ValueError(
                f"overlap must be 1 to half of the window, got {overlap} for a window_size of "
                f"{tuple(window_size)}"
            )
        self._model = model
        self._processor = image_processor
        self._window_size = window_size
        self._overlap = overlap
        self._byte_budget = byte_budget

    @torch.inference_mode()
    def semantic(self, image: Image.Image | np.ndarray) -> Int64[Tensor, "height width"]:
        """The label of each pixel of the image, turned upright."""
        rgb = _upright(image)
        labels = torch.empty((rgb.height, rgb.width), dtype=torch.int64)
        within_reach: list[_Window] = []
        done = 0
        row_spans, column_spans = self._grid(rgb)
        for rows, next_start in zip(
            row_spans, [*(each.start for each in row_spans[1:]), rgb.height], strict=True
        ):
            within_reach += [self._predict(rgb, rows, columns) for columns in column_spans]
            bytes_per_row = 4 * within_reach[0].prediction.num_labels * rgb.width
            # Rows that the next windows do not reach are final.
            for band in bands(
                next_start - done, bytes_per_row=bytes_per_row, byte_budget=self._byte_budget
            ):
                part = slice(done + band.start, done + band.stop)
                labels[part] = _leaders(within_reach, part, width=rgb.width)
            done = next_start
            within_reach = [window for window in within_reach if window.rows.stop > done]
        return labels

    @torch.inference_mode()
    def panoptic(
        self,
        image: Image.Image | np.ndarray,
        *,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        label_ids_to_fuse: Collection[int] = frozenset(),
    ) -> Segmentation:
        """The segments of the image, turned upright; settings as in `panoptic_segmentation`."""
        rule = PanopticRule(
            threshold=threshold,
            mask_threshold=mask_threshold,
            overlap_mask_area_threshold=overlap_mask_area_threshold,
            label_ids_to_fuse=frozenset(label_ids_to_fuse),
        )
        rgb = _upright(image)
        stitcher = Stitcher((rgb.height, rgb.width), label_ids_to_fuse=rule.label_ids_to_fuse)
        row_spans, column_spans = self._grid(rgb)
        for rows in row_spans:
            for columns in column_spans:
                window = self._predict(rgb, rows, columns)
                stitcher.add(
                    window.prediction.panoptic(window.size, rule=rule), rows=rows, columns=columns
                )
        return stitcher.joined()

    def _grid(self, rgb: Image.Image) -> tuple[list[Span], list[Span]]:
        """The windows along the rows, and those along the columns."""
        rows, columns = (
            spans(length, window=window, overlap=self._overlap)
            for length, window in zip((rgb.height, rgb.width), self._window_size, strict=True)
        )
        return rows, columns

    def _predict(self, rgb: Image.Image, rows: Span, columns: Span) -> _Window:
        part = rgb.crop((columns.start, rows.start, columns.stop, rows.stop))
        prediction = predict_image(
            self._processor.resize(part), model=self._model, image_processor=self._processor
        )
        return _Window(rows=rows, columns=columns, prediction=prediction)


def _upright(image: Image.Image | np.ndarray) -> Image.Image:
    return to_rgb(image if isinstance(image, Image.Image) else Image.fromarray(image))


def _leaders(windows: list[_Window], rows: slice, *, width: int) -> Int16[Tensor, "rows width"]:
    """The label of each pixel in some rows of the image, by the windows' weighted scores."""
    prediction = windows[0].prediction
    total = ScoreSum(
        num_labels=prediction.num_labels,
        num_rows=rows.stop - rows.start,
        width=width,
        device=prediction.class_logits.device,
    )
    for window in windows:
        start, stop = max(rows.start, window.rows.start), min(rows.stop, window.rows.stop)
        if start >= stop:
            continue
        inner = slice(start - window.rows.start, stop - window.rows.start)
        total.add(
            window.prediction.semantic_scores(window.size, rows=inner),
            row=start - rows.start,
            column=window.columns.start,
            row_weights=window.rows.weights()[inner],
            column_weights=window.columns.weights(),
        )
    return total.leaders()
