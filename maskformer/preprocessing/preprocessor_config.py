"""The image processor's settings, and the file that keeps them beside a model.

`preprocessor_config.json` is that of transformers 4 and 5, whose names the settings have.
"""

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from maskformer.hub import HubOptions, Pushable, resolve_folder
from maskformer.preprocessing import resizing
from maskformer.preprocessing.resizing import ResizeRule, Size
from maskformer.zoo import entry_of

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
FILE_NAME = "preprocessor_config.json"

_OLD_NAMES = {"size_divisibility": "size_divisor", "reduce_labels": "do_reduce_labels"}


class ImageProcessorSettings(Pushable):
    """Settings of the image processor, which can be read, changed, saved and pushed."""

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
        self.image_mean = three_channels(IMAGENET_MEAN if image_mean is None else image_mean)
        self.image_std = three_channels(IMAGENET_STD if image_std is None else image_std)
        if not all(self.image_std):
            raise ValueError(f"image_std must differ from 0, got {list(self.image_std)}")
        self.ignore_index = ignore_index
        self.do_reduce_labels = do_reduce_labels
        self.num_labels = num_labels
        self.pad_size = None if pad_size is None else dict(pad_size)
        self.resize_rule = resize_rule

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

    def changed(self, changes: Mapping[str, Any]) -> Any:
        """Returns a copy with some settings changed; what is None in `changes` stays."""
        given = {name: value for name, value in changes.items() if value is not None}
        if not given:
            return self
        known = {key: value for key, value in vars(self).items() if key in _SETTINGS}
        result = copy.copy(self)
        # A class with an old name warns as it is made, and this is no new use of it.
        ImageProcessorSettings.__init__(result, **{**known, **given})
        return result


_SETTINGS = {
    *("do_resize", "size", "size_divisor", "resample", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std", "ignore_index", "do_reduce_labels"),
    *("num_labels", "pad_size", "resize_rule", "max_size", *_OLD_NAMES),
}


def three_channels(value: float | Sequence[float]) -> list[float]:
    """Repeats one number for all channels; refuses other counts than three."""
    channels = [float(value)] * 3 if isinstance(value, int | float) else [float(v) for v in value]
    if len(channels) != 3:
        raise ValueError(f"image_mean and image_std have three channels or one number, got {value}")
    return channels
