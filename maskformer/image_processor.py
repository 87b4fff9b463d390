"""The image processor: images and label maps to the model's inputs, its outputs to segments.

Takes images of any kind; `model.py` takes the batch it makes. The names and signatures are those
of transformers, whose preprocessor_config.json it reads and writes. The batch job calls `resize`
where it reads, without torch, and `normalize` where the model runs; everyone else calls the
processor.

Three things differ from transformers on purpose: images are made upright and RGB first, masks of
labels are padded with 0, and with `image_sizes` post-processing cuts padding off before it resizes.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Float32, Int64, Integer, UInt8
from PIL import Image

from maskformer.batch import BatchFeature
from maskformer.postprocessing.outputs_to_segments import OutputsToSegments
from maskformer.preprocessing import resizing
from maskformer.preprocessing.label_masks import (
    IdToLabel,
    as_id_map,
    binary_masks,
    check_map_count,
    check_map_size,
)
from maskformer.preprocessing.pixel_arrays import (
    ChannelOrder,
    as_array,
    as_list,
    channels_last,
    check_fits,
    image_pixels,
    is_in_unit_range,
    pad_array,
)
from maskformer.preprocessing.preprocessor_config import ImageProcessorSettings, three_channels
from maskformer.preprocessing.resizing import HeightWidth, Size

if TYPE_CHECKING:
    from torch import Tensor
else:
    # The shapes are still checked; torch is not imported for their sake.
    Tensor = Any

TensorType = Literal["pt", "np"]


class MaskFormerImageProcessor(OutputsToSegments, ImageProcessorSettings):
    """Settings of the way into and out of the model, and the way itself."""

    # For the batch job

    def resize(
        self, image: Image.Image, *, original_size: HeightWidth | None = None
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The image's pixels, upright, RGB, and of the size that the model is given.

        That is the size for an image of `original_size`, where this one was decoded at less.
        """
        rgb = resizing.to_rgb(image)
        if not self.do_resize:
            return np.array(rgb)
        size = self.resized_size(original_size or (rgb.height, rgb.width))
        return resizing.resize_image(rgb, size=size, resample=self.resample)

    @property
    def can_resize_on_device(self) -> bool:
        """Tells whether `resize_on_device` knows the filter of these settings."""
        return not self.do_resize or self.resample in resizing.DEVICE_FILTERS

    def resize_on_device(
        self, pixels: UInt8[Tensor, "batch height width 3"], *, size: HeightWidth
    ) -> UInt8[Tensor, "batch {size[0]} {size[1]} 3"]:
        """Resizes upright RGB images, where they are, to the bytes that `resize` gives them."""
        from maskformer.preprocessing.device_resize import resize_bytes

        if not self.do_resize or tuple(pixels.shape[1:3]) == size:
            return pixels
        return resize_bytes(pixels, size=size, resample=self.resample)

    def resized_size(self, image_size: HeightWidth) -> HeightWidth:
        """The (height, width) that `resize` gives to an upright image of `image_size`."""
        if not self.do_resize:
            return image_size
        return resizing.resized_size(
            image_size, size=self.size, size_divisor=self.size_divisor, rule=self.resize_rule
        )

    def padded_size(self, resized_size: HeightWidth) -> HeightWidth:
        """The (height, width) that `normalize` gives to pixels of `resized_size`."""
        if self.pad_size is not None:
            padded = (self.pad_size["height"], self.pad_size["width"])
            check_fits(resized_size, padded)
            return padded
        if self.resize_rule == "detectron2":
            return resizing.padded_size(resized_size, size_divisor=self.size_divisor)
        return resized_size

    def normalize(
        self,
        pixels: UInt8[Tensor, "batch height width 3"],
        *,
        dtype: Any = None,
        image_sizes: Sequence[HeightWidth] | None = None,
    ) -> Float[Tensor, "batch 3 padded_height padded_width"]:
        """Pixels rescaled, normalised and then padded with 0, where they are; float32 by default.

        The result is channels-last in memory. For images of several sizes under one padded size,
        put their pixels into the top left corners of one array and say in `image_sizes` how far
        each goes.
        """
        import torch

        from maskformer.preprocessing.device_constants import float_constant

        height, width = pixels.shape[1:3]
        padded = self.padded_size((height, width))
        scale, shift = (
            float_constant(tuple(constant.tolist()), pixels.device)
            for constant in self._scale_and_shift()
        )
        # In float32 whatever `dtype` is: rounding happens once, at the end.
        values = torch.addcmul(shift, pixels.float(), scale).to(dtype or torch.float32)
        if padded != (height, width):
            values = torch.nn.functional.pad(
                values, (0, 0, 0, padded[1] - width, 0, padded[0] - height)
            )
        for image, (valid_height, valid_width) in zip(values, image_sizes or (), strict=False):
            image[valid_height:] = 0
            image[:, valid_width:] = 0
        return values.permute(0, 3, 1, 2)

    def _scale_and_shift(
        self, **settings: Any
    ) -> tuple[Float32[np.ndarray, "3"], Float32[np.ndarray, "3"]]:
        """Returns the factor and the summand of each channel's pixels."""
        chosen = {**vars(self), **settings}
        scale = np.full(3, chosen["rescale_factor"] if chosen["do_rescale"] else 1.0)
        shift = np.zeros(3)
        if chosen["do_normalize"]:
            mean = np.array(three_channels(chosen["image_mean"]))
            std = np.array(three_channels(chosen["image_std"]))
            scale, shift = scale / std, -mean / std
        return scale.astype(np.float32), shift.astype(np.float32)

    # For everyone else

    def __call__(
        self,
        images: Any,
        segmentation_maps: Any = None,
        instance_id_to_semantic_id: Sequence[IdToLabel] | IdToLabel | None = None,
        **settings: Any,
    ) -> BatchFeature:
        """`preprocess`."""
        return self.preprocess(images, segmentation_maps, instance_id_to_semantic_id, **settings)

    def preprocess(
        self,
        images: Any,
        segmentation_maps: Any = None,
        instance_id_to_semantic_id: Sequence[IdToLabel] | IdToLabel | None = None,
        *,
        do_resize: bool | None = None,
        size: Size | None = None,
        size_divisor: int | None = None,
        resample: int | None = None,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        do_normalize: bool | None = None,
        image_mean: float | Sequence[float] | None = None,
        image_std: float | Sequence[float] | None = None,
        ignore_index: int | None = None,
        do_reduce_labels: bool | None = None,
        pad_size: Mapping[str, int] | None = None,
        return_tensors: TensorType | None = None,
        data_format: ChannelOrder = "channels_first",
        input_data_format: ChannelOrder | None = None,
        device: Any = None,
        disable_grouping: bool | None = None,
    ) -> BatchFeature:
        """The model's inputs from one image or a list of them, and from their label maps if given.

        Images are PIL images, arrays or tensors, of bytes or of floats in [0, 1]; label maps have
        their images' size. What is None here is as the processor was made. `instance_id_to_
        semantic_id` maps the ids in the label maps to labels, in one dict or in one per image.
        `disable_grouping` has no part in this implementation, which gives the same either way.

        The batch has `pixel_values` and `pixel_mask` (1 where there is image), and for label maps
        the lists `mask_labels` (float masks per image) and `class_labels` (the label of each).
        Without `return_tensors` all four are lists of arrays.
        """
        del disable_grouping
        given = {
            "do_resize": do_resize,
            "size": None if size is None else resizing.size_form(size),
            "size_divisor": size_divisor,
            "resample": resample,
            "do_rescale": do_rescale,
            "rescale_factor": rescale_factor,
            "do_normalize": do_normalize,
            "image_mean": image_mean,
            "image_std": image_std,
            "ignore_index": ignore_index,
            "do_reduce_labels": do_reduce_labels,
            "pad_size": pad_size,
        }
        chosen = self.changed(given)
        pictures = as_list(images, num_dims=3)
        pixels = [image_pixels(image, input_data_format=input_data_format) for image in pictures]
        maps = None
        if segmentation_maps is not None:
            maps = [as_id_map(item) for item in as_list(segmentation_maps, num_dims=2)]
            check_map_count(pictures, maps)
            maps = [
                chosen._resized_map(id_map, image, place=place)
                for place, (id_map, image) in enumerate(zip(maps, pixels, strict=True))
            ]
        batch = chosen._batch(
            [chosen._normalized(image) for image in (chosen._resized(image) for image in pixels)],
            maps,
            instance_id_to_semantic_id,
        )
        if data_format == "channels_last":
            batch["pixel_values"] = [np.moveaxis(p, 0, -1) for p in batch["pixel_values"]]
        return _converted(batch, return_tensors=return_tensors, device=device)

    def encode_inputs(
        self,
        pixel_values_list: Sequence[Any],
        segmentation_maps: Any = None,
        instance_id_to_semantic_id: Sequence[IdToLabel] | IdToLabel | None = None,
        ignore_index: int | None = None,
        do_reduce_labels: bool | None = None,
        return_tensors: TensorType | None = None,
        input_data_format: ChannelOrder | None = None,
    ) -> BatchFeature:
        """Pad images that are already pixel values into a batch, and turn label maps into masks."""
        given = {"ignore_index": ignore_index, "do_reduce_labels": do_reduce_labels}
        chosen = self.changed(given)
        pixel_values = [
            np.moveaxis(channels_last(as_array(image), input_data_format), -1, 0)
            for image in pixel_values_list
        ]
        maps = None
        if segmentation_maps is not None:
            maps = [as_id_map(item) for item in as_list(segmentation_maps, num_dims=2)]
            check_map_count(pixel_values, maps)
            for place, (id_map, image) in enumerate(zip(maps, pixel_values, strict=True)):
                check_map_size(id_map.shape, image.shape[1:], place=place)
        batch = chosen._batch(pixel_values, maps, instance_id_to_semantic_id)
        return _converted(batch, return_tensors=return_tensors, device=None)

    def pad(
        self,
        images: Sequence[Any],
        padded_size: HeightWidth | None = None,
        return_tensors: TensorType | None = None,
    ) -> BatchFeature:
        """Arrays of shape (..., height, width) padded with 0 to one size, and their `pixel_mask`.

        Without a `padded_size`, to the largest height and the largest width among them.
        """
        arrays = [as_array(image) for image in images]
        target = padded_size or self._batch_size([array.shape[-2:] for array in arrays])
        batch = BatchFeature(
            pixel_values=[pad_array(array, target) for array in arrays],
            pixel_mask=[pad_array(np.ones(array.shape[-2:], np.int64), target) for array in arrays],
        )
        return _converted(batch, return_tensors=return_tensors, device=None)

    def convert_segmentation_map_to_binary_masks(
        self,
        segmentation_map: Any,
        instance_id_to_semantic_id: IdToLabel | None = None,
        ignore_index: int | None = None,
        do_reduce_labels: bool | None = None,
    ) -> tuple[Float32[np.ndarray, "masks height width"], Int64[np.ndarray, " masks"]]:
        """Returns a mask and a label for each id in the map but `ignore_index`, ascending."""
        given = {"ignore_index": ignore_index, "do_reduce_labels": do_reduce_labels}
        return self.changed(given)._masks_of(
            as_id_map(segmentation_map), instance_id_to_semantic_id
        )

    def _resized(self, pixels: np.ndarray) -> np.ndarray:
        if not self.do_resize:
            return pixels
        in_unit_range = is_in_unit_range(pixels)
        # Pillow resizes bytes; so does transformers, and rounds floats to them.
        as_bytes = pixels * 255 if in_unit_range else pixels
        resized = resizing.resize_image(
            np.ascontiguousarray(as_bytes.astype(np.uint8)),
            size=self.resized_size((pixels.shape[0], pixels.shape[1])),
            resample=self.resample,
        )
        return resized * np.float32(1 / 255) if in_unit_range else resized

    def _normalized(self, pixels: np.ndarray) -> Float32[np.ndarray, "3 height width"]:
        scale, shift = self._scale_and_shift()
        return np.ascontiguousarray(
            np.moveaxis(pixels.astype(np.float32) * scale + shift, -1, 0), dtype=np.float32
        )

    def _resized_map(self, id_map: np.ndarray, pixels: np.ndarray, *, place: int) -> np.ndarray:
        check_map_size(id_map.shape, pixels.shape[:2], place=place)
        if not self.do_resize:
            return id_map
        size = self.resized_size((id_map.shape[0], id_map.shape[1]))
        return resizing.resize_map(id_map, size=size)

    def _batch(
        self,
        pixel_values: list[np.ndarray],
        maps: list[np.ndarray] | None,
        instance_id_to_semantic_id: Sequence[IdToLabel] | IdToLabel | None,
    ) -> BatchFeature:
        batch = self.pad(pixel_values)
        if maps is None:
            return batch
        padded_size = batch["pixel_mask"][0].shape
        per_image = (
            [instance_id_to_semantic_id] * len(maps)
            if instance_id_to_semantic_id is None or isinstance(instance_id_to_semantic_id, Mapping)
            else list(instance_id_to_semantic_id)
        )
        if len(per_image) != len(maps):
            raise ValueError(
                "instance_id_to_semantic_id is one mapping or one for each image, got "
                f"{len(per_image)} for {len(maps)} images"
            )
        encoded = [self._masks_of(*pair) for pair in zip(maps, per_image, strict=True)]
        # Padding belongs to no mask: 0, whatever number stands for ignored pixels in the maps.
        batch["mask_labels"] = [pad_array(masks, padded_size) for masks, _ in encoded]
        batch["class_labels"] = [labels for _, labels in encoded]
        return batch

    def _batch_size(self, sizes: Sequence[tuple[int, ...]]) -> HeightWidth:
        """The size that images of these sizes are padded to together."""
        if not sizes:
            raise ValueError("a batch has at least one image, got none")
        height, width = (max(side) for side in zip(*sizes, strict=True))
        return self.padded_size((height, width))

    def _masks_of(
        self, id_map: Integer[np.ndarray, "height width"], mapping: IdToLabel | None
    ) -> tuple[Float32[np.ndarray, "masks height width"], Int64[np.ndarray, " masks"]]:
        return binary_masks(
            id_map,
            mapping,
            ignore_index=self.ignore_index,
            do_reduce_labels=self.do_reduce_labels,
        )


class MaskFormerFeatureExtractor(MaskFormerImageProcessor):
    """The old name of `MaskFormerImageProcessor`."""

    def __init__(self, **settings: Any) -> None:
        warnings.warn(
            "MaskFormerFeatureExtractor is an old name; use MaskFormerImageProcessor",
            FutureWarning,
            stacklevel=2,
        )
        super().__init__(**settings)


def _converted(
    batch: BatchFeature, *, return_tensors: TensorType | None, device: Any
) -> BatchFeature:
    """Images stacked and everything in the type asked for; labels stay lists, being ragged."""
    if return_tensors not in (None, "pt", "np"):
        raise ValueError(f"return_tensors is 'pt', 'np' or None, got {return_tensors!r}")
    if return_tensors is None:
        if device is not None:
            raise ValueError(f"arrays have no device, got device={device}; ask for 'pt' tensors")
        return batch
    for name in ("pixel_values", "pixel_mask"):
        batch[name] = np.stack(batch[name])
    if return_tensors == "np":
        return batch
    import torch

    converted = BatchFeature(
        {
            name: [torch.from_numpy(item) for item in value]
            if isinstance(value, list)
            else torch.from_numpy(value)
            for name, value in batch.items()
        }
    )
    return converted if device is None else converted.to(device)
