"""What the weights of saved folders are called there, and in `transformers.py`."""

import re
from collections.abc import Mapping

from torch import Tensor

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.origin import shown

_BERT = {
    "bert.embeddings.word_embeddings": "words",
    "bert.embeddings.position_embeddings": "positions",
    "bert.embeddings.token_type_embeddings": "types",
    "bert.embeddings.LayerNorm": "norm",
    "bert.encoder.layer.*.attention.self.query": "layers.*.query",
    "bert.encoder.layer.*.attention.self.key": "layers.*.key",
    "bert.encoder.layer.*.attention.self.value": "layers.*.value",
    "bert.encoder.layer.*.attention.output.dense": "layers.*.out",
    "bert.encoder.layer.*.attention.output.LayerNorm": "layers.*.norm1",
    "bert.encoder.layer.*.intermediate.dense": "layers.*.wide",
    "bert.encoder.layer.*.output.dense": "layers.*.narrow",
    "bert.encoder.layer.*.output.LayerNorm": "layers.*.norm2",
    "bert.pooler.dense": "pooler",
    "classifier": "classifier",
}
_DISTILBERT = {
    "distilbert.embeddings.word_embeddings": "words",
    "distilbert.embeddings.position_embeddings": "positions",
    "distilbert.embeddings.LayerNorm": "norm",
    "distilbert.transformer.layer.*.attention.q_lin": "layers.*.query",
    "distilbert.transformer.layer.*.attention.k_lin": "layers.*.key",
    "distilbert.transformer.layer.*.attention.v_lin": "layers.*.value",
    "distilbert.transformer.layer.*.attention.out_lin": "layers.*.out",
    "distilbert.transformer.layer.*.sa_layer_norm": "layers.*.norm1",
    "distilbert.transformer.layer.*.ffn.lin1": "layers.*.wide",
    "distilbert.transformer.layer.*.ffn.lin2": "layers.*.narrow",
    "distilbert.transformer.layer.*.output_layer_norm": "layers.*.norm2",
    "pre_classifier": "pooler",
    "classifier": "classifier",
}
_VIT = {
    "vit.embeddings.cls_token": "token",
    "vit.embeddings.position_embeddings": "positions",
    "vit.embeddings.patch_embeddings.projection": "patches",
    "vit.encoder.layer.*.attention.attention.query": "layers.*.query",
    "vit.encoder.layer.*.attention.attention.key": "layers.*.key",
    "vit.encoder.layer.*.attention.attention.value": "layers.*.value",
    "vit.encoder.layer.*.attention.output.dense": "layers.*.out",
    "vit.encoder.layer.*.layernorm_before": "layers.*.norm1",
    "vit.encoder.layer.*.layernorm_after": "layers.*.norm2",
    "vit.encoder.layer.*.intermediate.dense": "layers.*.wide",
    "vit.encoder.layer.*.output.dense": "layers.*.narrow",
    "vit.layernorm": "norm",
    "classifier": "classifier",
}
NAMES: Mapping[str, Mapping[str, str]] = {"bert": _BERT, "distilbert": _DISTILBERT, "vit": _VIT}
"""By the kind of model: a module's name in the folder, with * for a layer's number, and its name here."""
_COUNTED = re.compile(r"(?<=\.)\d+(?=\.)")
_BEFORE = {"gamma": "weight", "beta": "bias"}  # of norms, in files of TensorFlow's time
_NUMBERS = "position_ids"  # 0, 1, 2, ..., which some files hold


def renamed(kind: str, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a folder's tensors under their names here. Raises NotServable for one that such a model does not have."""
    names = NAMES[kind]
    made = {}
    for name, tensor in found.items():
        module, _, last = name.rpartition(".")
        if last == _NUMBERS:
            continue
        number = _COUNTED.search(module)
        numbered = _COUNTED.sub("*", module, count=1)
        whole = names.get(name)
        if whole is None and numbered not in names:
            raise NotServable(f"the folder has a tensor {shown(name)}, which a model of the kind {kind} does not have")
        here = whole or f"{names[numbered]}.{_BEFORE.get(last, last)}"
        made[here.replace("*", number.group() if number else "")] = tensor
    return made
