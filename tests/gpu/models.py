"""Networks and samples for the GPU check, for ``model.factory`` and ``kind: callable`` data.

There is no way to fetch weights where the check runs, so weights are random, drawn from the seed
that the caller set (orchestrate sets one before it calls a factory). Random networks easily compute
nearly the same for every input, and then any artifact would pass: batch statistics are those of the
samples, heads that start at zero are drawn, and every sample differs from every other.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_THREADS = 4
_REFRESHED_ON = 16
_FIRST_WORD = 1000  # where BERT's vocabulary has words; those before are marks


def images(
    *, dims: Mapping[str, int], offset: int, seed: int, size: int = 224
) -> dict[str, NDArray[np.float32]]:
    """Return ``dims["batch"]`` pictures from number *offset* on.

    Coarse patches with a little noise: unlike plain noise they differ after averaging too.

    Returns:
        ``image``, ``[batch, 3, size, size]`` float32 of mean 0 and variance about 1. Picture n is
        the same in whichever batch it is.
    """
    pictures = [_picture(seed, offset + number, size) for number in range(dims["batch"])]
    return {"image": np.stack(pictures)}


def _picture(seed: int, number: int, size: int) -> NDArray[np.float32]:
    generator = np.random.default_rng((seed, number))
    patches = generator.normal(size=(3, 7, 7))
    picture = np.kron(patches, np.ones((1, size // 7, size // 7)))
    return (picture + 0.1 * generator.normal(size=picture.shape)).astype(np.float32)


def sentences(
    *, dims: Mapping[str, int], offset: int, seed: int, length: int = 128, vocabulary: int = 8192
) -> dict[str, NDArray[np.int64]]:
    """Return ``dims["batch"]`` random sentences of 1/8 of *length* to *length* tokens.

    Returns:
        ``input_ids`` and ``attention_mask``, ``[batch, length]`` int64; padding has id 0, mask 0.
    """
    tokens = np.zeros((dims["batch"], length), dtype=np.int64)
    mask = np.zeros_like(tokens)
    for number in range(dims["batch"]):
        generator = np.random.default_rng((seed, offset + number))
        words = int(generator.integers(length // 8, length + 1))
        tokens[number, :words] = generator.integers(_FIRST_WORD, vocabulary, size=words)
        mask[number, :words] = 1
    return {"input_ids": tokens, "attention_mask": mask}


def torchvision_model(name: str) -> nn.Module:
    """Return torchvision's network *name* (``resnet50``, ``vit_b_16``, …) with random weights.

    Raises:
        ImportError: torchvision is not installed.
    """
    torchvision: Any = importlib.import_module("torchvision")  # there is no build of it everywhere
    module: nn.Module = getattr(torchvision.models, name)(weights=None)
    # The fused attention of torch.nn.MultiheadAttention has no translation to ONNX by tracing.
    torch.backends.mha.set_fastpath_enabled(False)
    for part in module.modules():
        if isinstance(part, nn.Linear) and not part.weight.any():
            nn.init.trunc_normal_(part.weight, std=0.02)  # a vision transformer's head is all 0
    refresh_statistics(module, images(dims={"batch": _REFRESHED_ON}, offset=0, seed=1)["image"])
    return module.eval()


def refresh_statistics(module: nn.Module, pictures: NDArray[np.float32]) -> None:
    """Set the running statistics of *module*'s batch normalizations to those of *pictures*.

    Always with the same number of threads: sums depend on it, and the exported and the reference
    module shall have equal weights.
    """
    normalizations = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    if not normalizations:
        return
    for part in normalizations:
        part.momentum = None  # the plain mean over all batches
        part.reset_running_stats()
    threads = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    module.train()
    with torch.no_grad():
        module(torch.from_numpy(pictures))
    torch.set_num_threads(threads)


class Encoder(nn.Module):
    """A transformers ``BertModel``; the output is the mean over the tokens that are no padding."""

    def __init__(self, bert: nn.Module, *, plain_mask: bool) -> None:
        """Wrap *bert*, which has no pooling layer; see :func:`encoder`."""
        super().__init__()
        self.bert = bert
        self.plain_mask = plain_mask

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return ``[batch, hidden]`` float32 of ``[batch, length]`` int64 ids and masks."""
        mask = attention_mask
        if self.plain_mask:
            mask = (1.0 - mask[:, None, None, :].to(torch.float32)) * -10_000.0
        tokens = self.bert(input_ids=input_ids, attention_mask=mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(tokens.dtype)
        pooled: Tensor = (tokens * weight).sum(dim=1) / weight.sum(dim=1)
        return pooled


def encoder(
    layers: int = 6, hidden: int = 512, vocabulary: int = 8192, *, plain_mask: bool = False
) -> nn.Module:
    """Return a transformer encoder with random weights, by default of BERT-small's width.

    Args:
        layers: Number of layers; BERT-base has 12.
        hidden: Width, 64 for each head; BERT-base has 768.
        vocabulary: Number of token ids.
        plain_mask: Make the additive mask of attention here, by three operators; transformers makes
            it by thirty, on integers and booleans.
    """
    from transformers.models.bert.configuration_bert import BertConfig
    from transformers.models.bert.modeling_bert import BertModel

    settings: dict[str, Any] = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": hidden // 64,
        "intermediate_size": 4 * hidden,
        "vocab_size": vocabulary,
        "initializer_range": 0.05,  # so that attention is not nearly uniform
        "attn_implementation": "eager",  # plain matrix products, which every exporter knows
    }
    bert = BertModel(BertConfig(**settings), add_pooling_layer=False)
    return Encoder(bert, plain_mask=plain_mask).eval()
