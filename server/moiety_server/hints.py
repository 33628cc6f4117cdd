"""What to do instead, for the layers and operations that people try first and that cannot be served."""

import re

_NORM = "it divides by a norm computed from the secret input; use BatchNorm, whose statistics are fixed, and retrain"
_COMPARE = "which branch or element is taken would depend on secret values; relu, clamp and max pools are served"
_ATTENTION = "attention multiplies secrets and divides by their sum; serve a convolutional or fully connected model"
_SEQUENCE = "recurrent layers are not served; a Conv1d over the sequence is"
_LOOKUP = "an index would be a secret; serve what comes behind the embedding and let the client send vectors"

_BATCH = "keep the batch the first dimension, and each of its inputs apart: x.flatten(1), x.mean((2, 3))"

# First match counts, in "<type of the layer> <ATen operation>", in lower case.
_HINTS: tuple[tuple[str, str], ...] = (
    (r"group_?norm|layer_?norm|instance_?norm|rms_?norm|local_?response|cosine_sim", _NORM),
    (r"batch_?norm", "it uses the statistics of the batch; keep the running ones (track_running_stats=True)"),
    (r"multihead|transformer|attention|bmm|baddbmm", _ATTENTION),
    (r"lstm|gru|rnn", _SEQUENCE),
    (r"embedding", _LOOKUP),
    (r"softmax|softmin", "softmax is served only as the model's last operation, over dimension 1"),
    (r"var|std|norm", _NORM),
    (r"bilinear|bicubic|trilinear|linear1d|area", "upsample with mode='nearest' by a whole factor"),
    (r"nearest", "upsample by a whole factor"),
    (r"reflection|replication|circular", "pad with zeros"),
    (r"3d", "only 1-d and 2-d layers are served"),
    (r"fractional|unpool|lp_pool", "use MaxPool2d or AvgPool2d"),
    (
        r"dropout|bernoulli|rrelu",
        "F.dropout is active unless told otherwise: pass training=self.training, or nn.Dropout",
    ),
    (r"\brand|normal|uniform|multinomial", "a served model must not draw random numbers"),
    (r"scatter|copy|index_put|fill", "assignment into a tensor is not served; put the parts together with torch.cat"),
    (r"where|\b(gt|lt|ge|le|eq|ne)\b|argmax|argmin|sort|topk|max|min|threshold|shrink|sign|logical|any|all", _COMPARE),
    (
        r"sqrt|reciprocal|div|log",
        "divide by numbers or parameters; functions of one value: sigmoid, tanh, silu, gelu, elu",
    ),
    (r"fft|stft|complex", "transform the input before it is sent"),
    (r"index|gather|flip|roll|cumsum", "take slices with fixed limits and torch.cat"),
    (r"cond|while_loop|wrap", "control flow is not served; write the layers one after the other"),
    (r"\bbatch\b", _BATCH),
    (r"softsign|sin|cos|erf|abs", "functions of one value that are served: sigmoid, tanh, silu, gelu, elu, softplus"),
)
_OTHERWISE = "see the list of the layers that are served, or ask for this one"


def hint_for(layers: str, operation: str) -> str:
    """`layers` are the types of the layer and those around it, innermost first."""
    text = f"{layers} {operation.replace('.', ' ')}".lower()
    return next((hint for pattern, hint in _HINTS if re.search(pattern, text)), _OTHERWISE)
