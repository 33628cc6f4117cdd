"""Hints on what to do instead, for the layers and operations that people try first and that cannot be served."""

import re

_NORM = "it divides by a norm computed from the secret input: use BatchNorm, whose statistics are fixed, and retrain"
_COMPARE = "which branch or element is taken would depend on secret values; relu, clamp and max pools are served"
_ATTENTION = "attention multiplies secrets and divides by their sum; serve a convolutional or fully connected model"
_LOOKUP = "an index would be a secret; serve what comes behind the embedding and let the client send vectors"
_SMOOTH = "functions of one value that are served: sigmoid, tanh, silu, gelu, elu, softplus, exp"

# Patterns in the types of layers, in lower case. The innermost layer is tried first, and the first match counts.
_LAYERS = {
    r"group_?norm|layer_?norm|instance_?norm|rms_?norm|localresponsenorm": _NORM,
    r"batchnorm": "it uses the statistics of the batch; keep the running ones (track_running_stats=True)",
    r"multihead|transformer|attention": _ATTENTION,
    r"lstm|\bgru|\brnn": "recurrent layers are not served; a Conv1d over the sequence is",
    r"embedding": _LOOKUP,
    r"softmax|softmin": "softmax is served only as the model's last operation, over dimension 1",
    r"3d\b": "only 1-d and 2-d layers are served",
    r"fractional|unpool|lppool": "use MaxPool2d or AvgPool2d",
}
# Patterns in the name of the operation.
_OPERATIONS = {
    r"(group|layer|instance|rms)_norm|cosine_similarity": _NORM,
    r"batch_norm": _LAYERS[r"batchnorm"],
    r"attention|bmm|baddbmm": _ATTENTION,
    r"einsum|bilinear\b": "write the product with a parameter as nn.Linear, or x @ parameter",
    r"fft|stft|complex": "transform the input before it is sent",
    r"embedding": _LOOKUP,
    r"softmax": _LAYERS[r"softmax|softmin"],
    r"\b(std|var|(linalg_(vector_)?)?norm|var_mean|std_mean)\b": _NORM,
    r"upsample_(bilinear|bicubic|trilinear|linear)|grid_sampl": "upsample with mode='nearest' by a whole factor",
    r"upsample": "upsample by a whole factor",
    r"reflection|replication|circular": "pad with zeros",
    r"3d\b": _LAYERS[r"3d\b"],
    r"dropout|bernoulli": "F.dropout is active unless told otherwise: pass training=self.training, or use nn.Dropout",
    r"rand|normal|uniform|multinomial|rrelu": "a served model must not draw random numbers",
    r"scatter|copy|index_put|fill": "assignment into a tensor is not served; put the parts together with torch.cat",
    r"\b(where|gt|lt|ge|le|eq|ne|arg\w+|sort|topk|a?max|a?min|maximum|minimum|sign|any|all)\b": _COMPARE,
    r"threshold|shrink": _COMPARE,
    r"logical|bitwise|isnan|masked|nonzero|round|floor|ceil|\bitem\b|local_scalar": _COMPARE,
    r"sqrt|reciprocal|\bdiv|\blog|pow": f"divide by numbers or parameters only; {_SMOOTH}",
    r"index|gather|flip|roll|cumsum": "take slices with fixed limits and put them together with torch.cat",
    r"cond|while_loop|wrap": "control flow is not served; write the layers one after the other",
    r"softsign|sin|cos|erf|abs": _SMOOTH,
    r"\bbatch\b": "keep the batch the first dimension, and its inputs apart: x.flatten(1), x.mean((2, 3))",
}


def hint_for(layers: str, operation: str) -> str:
    """Return a hint. `layers` are the types of the layer and of those around it, innermost first."""
    for text, hints in (
        (layers.partition(" ")[0].lower(), _LAYERS),
        (operation.replace(".", " ").strip("_"), _OPERATIONS),
        (layers.lower(), _LAYERS),
    ):
        for pattern, hint in hints.items():
            if re.search(pattern, text):
                return hint
    return "use one of the layers that are served"
