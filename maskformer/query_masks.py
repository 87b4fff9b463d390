"""Makes the masks of decoded queries: of those that are kept, or of all.

Two models decode queries, `model.py` by torch and `export/onnx_model.py` by ONNX Runtime; the masks
of both are made here.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from maskformer.network.convolutions import convolution_of_same_size
from maskformer.outputs import QueryDecoding


class QueryMasks(ABC):
    """Base of the models: the masks of what they decoded."""

    @property
    @abstractmethod
    def mask_projection(self) -> nn.Conv2d:
        """The projection of pixel features to the masks' channels."""

    def kept_masks(
        self, decoding: QueryDecoding, kept: Sequence[Int[Tensor, " _"]]
    ) -> list[Float[Tensor, "_ height width"]]:
        """The mask logits of the kept queries of each image of the batch.

        The fewest operations on a CPU: `query_masks` for each image. The fewest calls on other
        devices, which have done each before the host can ask for the next: all at once.
        """
        if decoding.pixel_features.device.type == "cpu":
            return [
                self.query_masks(decoding, index=index, kept=queries)
                for index, queries in enumerate(kept)
            ]
        return self._masks_at_once(decoding, kept)

    def all_masks(self, decoding: QueryDecoding) -> Float[Tensor, "batch queries height width"]:
        """The mask logits of all queries, without a wait for the device."""
        if decoding.pixel_features.device.type == "cpu":
            every = torch.arange(decoding.mask_embeddings.shape[1])
            return torch.stack(self.kept_masks(decoding, [every] * len(decoding.mask_embeddings)))
        features = self.mask_projection(decoding.pixel_features)
        return torch.einsum("bqc,bchw->bqhw", decoding.mask_embeddings, features)

    def _masks_at_once(
        self, decoding: QueryDecoding, kept: Sequence[Int[Tensor, " _"]]
    ) -> list[Float[Tensor, "_ height width"]]:
        features = self.mask_projection(decoding.pixel_features)
        padded = nn.utils.rnn.pad_sequence(list(kept), batch_first=True)
        queries = padded.to(features.device, non_blocking=True)[:, :, None]
        width = decoding.mask_embeddings.shape[2]
        embeddings = decoding.mask_embeddings.gather(1, queries.expand(-1, -1, width))
        masks = torch.einsum("bqc,bchw->bqhw", embeddings, features)
        return [masks[index, : len(queries)] for index, queries in enumerate(kept)]

    def query_masks(
        self, decoding: QueryDecoding, *, index: int, kept: Int[Tensor, " kept"]
    ) -> Float[Tensor, "kept height width"]:
        """The mask logits of the kept queries of one image of the batch; `kept` may be empty.

        A mask is its query's embedding times the projected features, and the projection is linear:
        the embeddings go into the projection's weights, and it has one output for each kept query
        instead of one for each mask channel.
        """
        features = decoding.pixel_features[index : index + 1]
        if len(kept) == 0:
            return features.new_zeros(0, *features.shape[-2:])
        projection = self.mask_projection
        embeddings = decoding.mask_embeddings[index].index_select(0, kept)
        weight = torch.einsum("nc,cfyx->nfyx", embeddings, projection.weight)
        bias = embeddings @ projection.get_parameter("bias")
        return convolution_of_same_size(features, weight, bias)[0]
