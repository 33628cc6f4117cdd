"""Hints on what to do instead, for the layers and operations that people try first and that cannot be served."""

import re

_NORM = "use BatchNorm, whose statistics are fixed, and retrain: this layer divides by a norm of the secret input"
_COMPARE = (
    "use relu, clamp, max pools, maximum, or torch.where of a comparison: this operation picks a branch or an element "
    "by secret values"
)
_LABELS = "leave it out, and publish with --reveal labels: clients then get the label and nothing else"
_WHOLE = "keep floats to the end of the network: whole numbers made from secret values would be secret indices"
_STEEP = (
    "keep what it reads away from there, as x.clamp_min(0.1) or a larger constant that is added do, or let the client "
    "normalise its inputs"
)
_ATTENTION = "compute attention as nn.MultiheadAttention does: two products and a softmax, and constant masks"
_LOOKUP = "let nn.Embedding read the ids that the client gives: an index that is computed would be a secret"
_SMOOTH = "use one of the supported functions of one value: docs/models.md lists them"

OTHERWISE = "use the supported layers and forms: docs/models.md lists them, and docs/tables.md those of tables"
INPUT = (
    "give the model floats, or ids of tokens alone, (n, length), which its nn.Embedding looks up. Make what is the "
    "same for every input, such as a sampling rate, a constant of the model"
)

# Patterns in the types of layers, in lower case. The innermost layer is tried first, and the first match counts.
_LAYERS = {
    r"group_?norm|layer_?norm|instance_?norm|rms_?norm|localresponsenorm": _NORM,
    r"batchnorm": "keep running statistics (track_running_stats=True): this layer uses those of the batch",
    r"multihead|transformer|attention": _ATTENTION,
    r"lstm|\bgru|\brnn": "pass sequences of one length as plain tensors, neither packed nor quantised",
    r"embedding": _LOOKUP,
    r"3d\b": "use 1-d or 2-d layers",
    r"fractional|unpool|lppool": "use MaxPool2d or AvgPool2d",
}
# Patterns in the name of the operation.
_OPERATIONS = {
    r"(group|layer|instance|rms)_norm|cosine_similarity": _NORM,
    r"batch_norm": _LAYERS[r"batchnorm"],
    r"attention|bmm|baddbmm": _ATTENTION,
    r"einsum|bilinear\b|\bmatmul|\bmm\b": "write it as a product of two matrices, a @ b, with the batch first in both",
    r"fft|stft|complex": "let the client transform the input before it sends it",
    r"embedding": _LOOKUP,
    r"\b(std|var|(linalg_(vector_)?)?norm|var_mean|std_mean)\b": _NORM,
    r"trilinear|grid_sampl": "resize planes (C, H, W) by F.interpolate",
    r"reflection|replication|circular": "pad one or two dimensions",
    r"3d\b": _LAYERS[r"3d\b"],
    r"dropout|bernoulli": "pass training=self.training, or use nn.Dropout: F.dropout is active by default",
    r"rand|normal|uniform|multinomial|rrelu": "remove the operation: a published model must not draw random numbers",
    r"\bcast\b|\b(long|int|to dtype)\b|to_copy": _WHOLE,
    r"scatter|copy|index_put|fill": "assign to places that are constants, without the batch: x[:, 2:4] = y",
    r"\bargm(ax|in)\b|\btopk?\b": _LABELS,
    r"\b(eq|ne|equal|argsort|sort|unique|any|all|hardmax|compress)\b": _COMPARE,
    r"logical|bitwise|isnan|masked|nonzero|round|floor|ceil|\bitem\b|local_scalar": _COMPARE,
    r"sqrt|reciprocal|\bdiv|\blog|tan\b|asin|acos|atanh": _STEEP,
    r"pow": "raise to multiples of one half up to 16, or raise one positive number to what is computed",
    r"index|gather|take": "take places that are constants, without the batch: x[:, [0, 2]]",
    r"cond|while_loop|wrap": "write the layers one after the other: control flow is not supported",
    r"gamma|erfinv|erfc|i0\b|sinc": _SMOOTH,
    r"\bbatch\b": "keep the batch in the first dimension and its inputs apart, as x.flatten(1) and x.mean((2, 3)) do",
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
    return OTHERWISE
