"""Makes the folders anew: `python -m tests.server.checkpoints`, in an environment that has `transformers`."""

from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

HERE = Path(__file__).parent
WORDS, LENGTH = 40, 8
SIZES = {"num_attention_heads": 2, "initializer_range": 0.4}
TEXTS = {"vocab_size": WORDS, "max_position_embeddings": LENGTH + 2, "id2label": {0: "no", 1: "yes", 2: "perhaps"}}


def save(name: str, model: torch.nn.Module, **inputs: torch.Tensor) -> None:
    """Save a model with weights that fit into float16, its inputs, and its outputs in float32."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter + 0.05 * torch.randn_like(parameter)).half().float())
        outputs = model.eval()(**inputs).logits
    model.half().save_pretrained(HERE / name)
    inputs.pop("attention_mask", None)
    save_file({**inputs, "outputs": outputs}, HERE / name / "expected.safetensors")


torch.manual_seed(0)
ids = torch.randint(1, WORDS, (16, LENGTH)) * (torch.arange(LENGTH) < torch.randint(2, LENGTH + 1, (16, 1)))
mask, types = (ids != 0).long(), (torch.arange(LENGTH) > 2).long().expand(16, -1).contiguous()
bert = transformers.BertConfig(hidden_size=16, num_hidden_layers=2, intermediate_size=24, **SIZES, **TEXTS)
save("bert", transformers.BertForSequenceClassification(bert), input_ids=ids, attention_mask=mask, token_type_ids=types)
small = transformers.DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=24, initializer_range=0.4, **TEXTS)
save("distilbert", transformers.DistilBertForSequenceClassification(small), input_ids=ids, attention_mask=mask)
vit = transformers.ViTConfig(
    hidden_size=16, num_hidden_layers=1, intermediate_size=24, image_size=8, patch_size=4, **SIZES
)
save("vit", transformers.ViTForImageClassification(vit), pixel_values=torch.rand(6, 3, 8, 8) * 2 - 1)
