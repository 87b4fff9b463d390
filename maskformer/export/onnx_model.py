"""Runs an exported model with ONNX Runtime, on the CPU."""

from collections.abc import Sequence
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskformer.configuration import MaskFormerConfig
from maskformer.export.graph_file import GraphFiles
from maskformer.outputs import QueryDecoding
from maskformer.query_masks import QueryMasks

BLOCK = 32
"""Pixels of a side of the blocks that a graph takes."""

OUTPUTS = ("class_queries_logits", "mask_embeddings", "pixel_features")
"""Of a graph, in the order of the fields of `QueryDecoding`."""

_NO_MEMORY = ("Failed to allocate memory", "bad allocation", "bad_alloc")


class OnnxModel(QueryMasks):
    """A model whose queries ONNX Runtime decodes; the masks of kept queries are torch's.

    An image's numbers do not depend on its batch, to the bit: images go through the graph one by
    one. Of torch's weights it holds the mask projection alone.
    """

    device = torch.device("cpu")

    def __init__(self, files: GraphFiles, *, config: MaskFormerConfig, num_threads: int) -> None:
        """Opens the graph.

        Raises:
            ModuleNotFoundError: onnxruntime is not installed.
        """
        self.config = config
        self._session = _session(files.graph, num_threads=num_threads)
        (given,) = self._session.get_inputs()
        self._input = given.name
        weights = safetensors.torch.load(files.mask_projection)
        channels_out, channels_in, size, _ = weights["weight"].shape
        with torch.device("meta"):
            projection = nn.Conv2d(channels_in, channels_out, size, padding=size // 2)
        projection.load_state_dict(weights, assign=True)
        self._projection = projection.requires_grad_(False)

    @property
    def mask_projection(self) -> nn.Conv2d:
        return self._projection

    def decode_queries(self, pixel_values: Float[Tensor, "batch colours _ _"]) -> QueryDecoding:
        """Classes of all queries, and what `kept_masks` makes masks of.

        Raises:
            ValueError: a side is no multiple of 32 pixels.
            MemoryError: the machine has too little memory for an image.
        """
        height, width = pixel_values.shape[2:]
        if height % BLOCK or width % BLOCK:
            raise ValueError(
                f"sides of an exported model's images must be multiples of {BLOCK} pixels, got "
                f"{height} x {width}; see size_divisor in preprocessor_config.json"
            )
        blocks = pixel_values.unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK))
        outputs = [self._decoded(image[None]) for image in blocks]
        joined = [torch.cat(output) for output in zip(*outputs, strict=True)]
        return QueryDecoding(**dict(zip(OUTPUTS, joined, strict=True)))

    def _decoded(self, blocks: Float[Tensor, "1 colours _ _ _ _"]) -> Sequence[Tensor]:
        try:
            outputs = self._session.run(OUTPUTS, {self._input: blocks.contiguous().numpy()})
        except Exception as error:  # its classes are ONNX Runtime's own, and private
            if any(words in str(error) for words in _NO_MEMORY):
                raise MemoryError(str(error)) from error
            raise
        return [torch.from_numpy(output) for output in outputs]


def _session(graph: bytes, *, num_threads: int) -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--engine onnx needs onnxruntime on every node of the cluster, and it is not on this "
            "one; type there: pip install 'maskformer-pipeline[onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.log_severity_level = 3
    # Memory comes from the C library's allocator, and is torch's when post-processing needs it.
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
