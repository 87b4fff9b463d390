"""The image processor: images and label maps to the model's inputs, its outputs to segments.

Takes images of any kind; `model.py` takes the batch it makes. The names and signatures are those
of transformers, whose preprocessor_config.json it reads and writes. The batch job calls `resize`
where it reads, without torch, and `normalize` where the model runs; everyone else calls the
processor.

Three things differ from transformers on purpose: images are made upright and RGB first, masks of
labels are padded with 0, and with `image_sizes` post-processing cuts padding off before it resizes.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Float32, Int64, Integer, UInt8
from PIL import Image

from maskformer import resizing
from maskformer.batch import BatchFeature
from maskformer.hub import HubOptions, Pushable, resolve_folder
from maskformer.postprocessing.outputs_to_segments import OutputsToSegments
from maskformer.resizing import HeightWidth, ResizeRule, Size
from maskformer.zoo import entry_of

if TYPE_CHECKING:
    from torch import Tensor
else:
    # The shapes are still checked; torch is not imported for their sake.
    Tensor = Any

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
FILE_NAME = "preprocessor_config.json"

ChannelOrder = Literal["channels_first", "channels_last"]
TensorType = Literal["pt", "np"]
IdToLabel = Mapping[int, int]

_OLD_NAMES = {"size_divisibility": "size_divisor", "reduce_labels": "do_reduce_labels"}


class MaskFormerImageProcessor(OutputsToSegments, Pushable):
    """Settings of the way into and out of the model, and the way itself."""

    model_input_names: ClassVar[list[str]] = ["pixel_values", "pixel_mask"]

    def __init__(
        self,
        *,
        do_resize: bool = True,
        size: Size | None = None,
        size_divisor: int = 32,
        resample: int = Image.Resampling.BILINEAR,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_normalize: bool = True,
        image_mean: float | Sequence[float] | None = None,
        image_std: float | Sequence[float] | None = None,
        ignore_index: int | None = None,
        do_reduce_labels: bool = False,
        num_labels: int | None = None,
        pad_size: Mapping[str, int] | None = None,
        resize_rule: ResizeRule = "transformers",
        **old_names: Any,
    ) -> None:
        """`max_size`, `size_divisibility`, `reduce_labels` are read as transformers 4 read them."""
        max_size = old_names.pop("max_size", None)
        if old_names.keys() & _OLD_NAMES.keys():
            warnings.warn(
                f"{sorted(old_names)} are old names; write {_OLD_NAMES}",
                DeprecationWarning,
                stacklevel=2,
            )
        size_divisor = old_names.pop("size_divisibility", size_divisor)
        do_reduce_labels = old_names.pop("reduce_labels", do_reduce_labels)
        if old_names:
            raise TypeError(f"the image processor has no setting {sorted(old_names)}")
        if pad_size is not None and {*pad_size} != {"height", "width"}:
            raise ValueError(f"pad_size must have the keys height and width, got {pad_size}")
        if resize_rule not in ("transformers", "detectron2"):
            raise ValueError(f"resize_rule is transformers or detectron2, got {resize_rule!r}")
        self.do_resize = do_resize
        self.size = resizing.size_form(size, max_size=max_size)
        self.size_divisor = int(size_divisor or 0)
        self.resample = int(resample)
        self.do_rescale = do_rescale
        self.rescale_factor = rescale_factor
        self.do_normalize = do_normalize
        self.image_mean = _three_channels(IMAGENET_MEAN if image_mean is None else image_mean)
        self.image_std = _three_channels(IMAGENET_STD if image_std is None else image_std)
        if not all(self.image_std):
            raise ValueError(f"image_std must differ from 0, got {list(self.image_std)}")
        self.ignore_index = ignore_index
        self.do_reduce_labels = do_reduce_labels
        self.num_labels = num_labels
        self.pad_size = None if pad_size is None else dict(pad_size)
        self.resize_rule = resize_rule

    # Files

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **changes: Any) -> Any:
        """The processor of a folder, a model of the zoo or a hub id.

        `changes` replace settings; those of `hub.HubOptions` say how it is fetched.
        """
        options, changes = HubOptions.split(changes)
        name = str(pretrained_model_name_or_path)
        if not Path(name).is_dir():
            entry = entry_of(name)
            if entry is not None:
                return cls.from_dict(entry.image_processor, **changes)
        folder = Path(resolve_folder(name, options))
        path = folder / FILE_NAME
        if not path.is_file():
            raise OSError(
                f"a model's folder holds {FILE_NAME}, which says how its images are prepared; "
                f"there is none in {folder}. Copy it from where the model was trained, or write "
                "it with MaskFormerImageProcessor(...).save_pretrained(folder)"
            )
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise OSError(f"{path} must be JSON, and is not: {error}") from error
        try:
            cls.from_dict(settings)
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            raise ValueError(
                f"{path} must hold the settings of an image processor: {error}"
            ) from error
        return cls.from_dict(settings, **changes)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], **changes: Any) -> Any:
        """The processor with the settings of a file of transformers 4 or 5, or of ours.

        Entries of such files that say nothing about MaskFormer are passed over.
        """
        with warnings.catch_warnings():
            # A file is as old as it is; who wrote it is not here to change it.
            warnings.simplefilter("ignore", DeprecationWarning)
            known = {key: value for key, value in settings.items() if key in _SETTINGS}
            for old, new in _OLD_NAMES.items():
                if old in known and new in {**known, **changes}:
                    known.pop(old)
            return cls(**{**known, **changes})

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings for `from_dict`; transformers ignores `resize_rule` in them."""
        settings = {key: value for key, value in vars(self).items() if value is not None}
        return {**settings, "image_processor_type": "MaskFormerImageProcessor"}

    def save_pretrained(
        self, save_directory: str | Path, *, push_to_hub: bool = False, **push_options: Any
    ) -> None:
        """Writes the settings into the folder, beside the model's.

        `push_options` are those of `push_to_hub`, `repo_id` among them.
        """
        path = Path(save_directory)
        path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
        (path / FILE_NAME).write_text(text, encoding="utf-8")
        self._finish_saving(path, push_to_hub=push_to_hub, push_options=push_options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.to_dict()})"

    # In: for the batch job

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
        from maskformer.device_resize import resize_bytes

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
            _check_fits(resized_size, padded)
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

        from maskformer.device_constants import float_constant

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
            mean = np.array(_three_channels(chosen["image_mean"]))
            std = np.array(_three_channels(chosen["image_std"]))
            scale, shift = scale / std, -mean / std
        return scale.astype(np.float32), shift.astype(np.float32)

    # In: for everyone else

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
        chosen = self._with({name: value for name, value in given.items() if value is not None})
        pictures = _as_list(images, num_dims=3)
        pixels = [chosen._pixels(image, input_data_format=input_data_format) for image in pictures]
        maps = None
        if segmentation_maps is not None:
            maps = [_id_map(item) for item in _as_list(segmentation_maps, num_dims=2)]
            _check_same_length(pictures, maps)
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
        chosen = self._with({name: value for name, value in given.items() if value is not None})
        pixel_values = [
            np.moveaxis(_channels_last(_array(image), input_data_format), -1, 0)
            for image in pixel_values_list
        ]
        maps = None
        if segmentation_maps is not None:
            maps = [_id_map(item) for item in _as_list(segmentation_maps, num_dims=2)]
            _check_same_length(pixel_values, maps)
            for place, (id_map, image) in enumerate(zip(maps, pixel_values, strict=True)):
                _check_same_size(id_map.shape, image.shape[1:], place=place)
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
        arrays = [_array(image) for image in images]
        target = padded_size or self._batch_size([array.shape[-2:] for array in arrays])
        batch = BatchFeature(
            pixel_values=[_padded(array, target) for array in arrays],
            pixel_mask=[_padded(np.ones(array.shape[-2:], np.int64), target) for array in arrays],
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
        chosen = self._with({name: value for name, value in given.items() if value is not None})
        return chosen._binary_masks(_id_map(segmentation_map), instance_id_to_semantic_id)

    def _with(self, changes: dict[str, Any]) -> "MaskFormerImageProcessor":
        """This processor with some settings changed."""
        if not changes:
            return self
        known = {key: value for key, value in vars(self).items() if key in _SETTINGS}
        return MaskFormerImageProcessor(**{**known, **changes})

    def _pixels(self, image: Any, *, input_data_format: ChannelOrder | None) -> np.ndarray:
        """The image as (height, width, 3), in its own range of values."""
        if isinstance(image, Image.Image):
            return np.array(resizing.to_rgb(image))
        array = _array(image)
        array = array[..., None] if array.ndim == 2 else _channels_last(array, input_data_format)
        if array.shape[-1] == 1:
            return np.repeat(array, 3, axis=-1)
        return array[..., :3]

    def _resized(self, pixels: np.ndarray) -> np.ndarray:
        if not self.do_resize:
            return pixels
        in_unit_range = _is_in_unit_range(pixels)
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
        _check_same_size(id_map.shape, pixels.shape[:2], place=place)
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
        encoded = [self._binary_masks(*pair) for pair in zip(maps, per_image, strict=True)]
        # Padding belongs to no mask: 0, whatever number stands for ignored pixels in the maps.
        batch["mask_labels"] = [_padded(masks, padded_size) for masks, _ in encoded]
        batch["class_labels"] = [labels for _, labels in encoded]
        return batch

    def _batch_size(self, sizes: Sequence[tuple[int, ...]]) -> HeightWidth:
        """The size that images of these sizes are padded to together."""
        if not sizes:
            raise ValueError("a batch has at least one image, got none")
        height, width = (max(side) for side in zip(*sizes, strict=True))
        return self.padded_size((height, width))

    def _binary_masks(
        self, id_map: Integer[np.ndarray, "height width"], mapping: IdToLabel | None
    ) -> tuple[Float32[np.ndarray, "masks height width"], Int64[np.ndarray, " masks"]]:
        if self.do_reduce_labels and self.ignore_index is None:
            raise ValueError(
                "do_reduce_labels turns id 0 into ignore_index, which is None; give both"
            )
        ids = np.unique(id_map).astype(np.int64)
        # Pixels that were ignored before labels are reduced stay so: they make no label 254.
        ignored = [] if self.ignore_index is None else [self.ignore_index]
        if self.do_reduce_labels:
            ignored += [0, ignored[0] + 1]
        kept = ids[~np.isin(ids, ignored)]
        masks = id_map[None] == kept.astype(id_map.dtype)[:, None, None]
        labels = kept if mapping is None else _mapped(kept, mapping)
        return masks.astype(np.float32), labels - 1 if self.do_reduce_labels else labels


class MaskFormerFeatureExtractor(MaskFormerImageProcessor):
    """The old name of `MaskFormerImageProcessor`."""

    def __init__(self, **settings: Any) -> None:
        warnings.warn(
            "MaskFormerFeatureExtractor is an old name; use MaskFormerImageProcessor",
            FutureWarning,
            stacklevel=2,
        )
        super().__init__(**settings)


_SETTINGS = {
    *("do_resize", "size", "size_divisor", "resample", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std", "ignore_index", "do_reduce_labels"),
    *("num_labels", "pad_size", "resize_rule", "max_size", *_OLD_NAMES),
}


def _three_channels(value: float | Sequence[float]) -> list[float]:
    channels = [float(value)] * 3 if isinstance(value, int | float) else [float(v) for v in value]
    if len(channels) != 3:
        raise ValueError(f"image_mean and image_std have three channels or one number, got {value}")
    return channels


def _as_list(items: Any, *, num_dims: int) -> list[Any]:
    """Items as a list, also when there is one alone, or all in one array."""
    if isinstance(items, Image.Image):
        return [items]
    if isinstance(items, list | tuple):
        nested = items and isinstance(items[0], list | tuple) and num_dims == 3
        return [image for group in items for image in group] if nested else list(items)
    array = _array(items)
    return [array] if array.ndim <= num_dims else list(array)


def _array(item: Any) -> np.ndarray:
    """An array of a PIL image, an array, nested lists, or a tensor on any device."""
    if hasattr(item, "detach"):
        item = item.detach().cpu()
    return np.asarray(item)


def _channels_last(array: np.ndarray, order: ChannelOrder | None) -> np.ndarray:
    if array.ndim != 3:
        raise ValueError(
            f"an image has 2 dimensions, or 3 with its channels, got an array of {array.shape}"
        )
    if order is None:
        has_few = [array.shape[axis] in (1, 3, 4) for axis in (0, 2)]
        if not any(has_few):
            raise ValueError(
                f"an image has 1, 3 or 4 channels, first or last, got an array of {array.shape}"
            )
        # Where both fit it is the first, as in transformers; input_data_format says otherwise.
        order = "channels_first" if has_few[0] else "channels_last"
    return np.moveaxis(array, 0, -1) if order == "channels_first" else array


def _is_in_unit_range(pixels: np.ndarray) -> bool:
    """Tells whether pixels for Pillow to resize are floats in [0, 1] rather than levels to 255."""
    if not np.issubdtype(pixels.dtype, np.floating):
        lowest, highest = (0, 0) if pixels.dtype == np.uint8 else (pixels.min(), pixels.max())
        if lowest < 0 or highest > 255:
            raise ValueError(f"whole pixel values are in 0..255, got {lowest}..{highest}")
        return False
    if ((pixels >= 0) & (pixels <= 1)).all():
        return not np.isin(pixels, (0.0, 1.0)).all()
    if ((pixels >= 0) & (pixels <= 255) & (pixels == np.floor(pixels))).all():
        return False
    raise ValueError(
        f"an image of floats is resized from [0, 1] or from whole levels to 255, got values from "
        f"{pixels.min()} to {pixels.max()}; pass do_resize=False for values of another range"
    )


def _id_map(item: Any) -> Integer[np.ndarray, "height width"]:
    array = _array(item)
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2:
        raise ValueError(f"a segmentation map is (height, width), got an array of {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        ids = array.astype(np.int64)
        if (ids != array).any():
            raise ValueError(f"a segmentation map holds whole ids, got {array.dtype} values")
        return ids
    return array


def _mapped(ids: Int64[np.ndarray, " ids"], mapping: IdToLabel) -> Int64[np.ndarray, " ids"]:
    missing = [int(i) for i in ids if int(i) not in mapping]
    if missing:
        raise KeyError(
            f"instance_id_to_semantic_id must know every id in the map, and lacks {missing[:10]}; "
            "add them, or mark their pixels with ignore_index"
        )
    return np.array([mapping[int(i)] for i in ids], dtype=np.int64)


def _check_same_length(images: Sequence[Any], maps: Sequence[Any]) -> None:
    if len(images) != len(maps):
        raise ValueError(
            "Images and segmentation maps must have the same length. "
            f"Got {len(images)} and {len(maps)}."
        )


def _check_same_size(map_size: Sequence[int], image_size: Sequence[int], *, place: int) -> None:
    if tuple(map_size) != tuple(image_size):
        raise ValueError(
            f"a segmentation map has its image's (height, width), got {tuple(map_size)} for an "
            f"image of {tuple(image_size)} at position {place}; an image that EXIF says to turn "
            "is turned first"
        )


def _check_fits(size: Sequence[int], padded: Sequence[int]) -> None:
    if size[0] > padded[0] or size[1] > padded[1]:
        raise ValueError(
            f"an image cannot be padded from {tuple(size)} to a smaller {tuple(padded)}; raise "
            "pad_size, or lower size"
        )


def _padded(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The array with zeros below and to the right."""
    _check_fits(array.shape[-2:], size)
    if array.shape[-2:] == tuple(size):
        return array
    padded = np.zeros((*array.shape[:-2], *size), array.dtype)
    padded[..., : array.shape[-2], : array.shape[-1]] = array
    return padded


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
