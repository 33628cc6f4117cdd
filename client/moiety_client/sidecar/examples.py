"""Examples of requests in three languages. The OpenAPI document and its page show them."""

INFER_BODY = {
    "inputs": [{"name": "input", "shape": [1, 28, 28], "datatype": "UINT8", "data": [0] * 784}],
    "outputs": [{"name": "label"}, {"name": "probability"}],
}

_CURL = """\
curl -s localhost:7704/v2/models/mnist/infer -H 'content-type: application/json' -d "{
  \\"inputs\\": [{\\"name\\": \\"input\\", \\"shape\\": [1], \\"datatype\\": \\"BYTES\\",
               \\"data\\": [\\"$(base64 -w0 digit.png)\\"]}],
  \\"outputs\\": [{\\"name\\": \\"label\\"}, {\\"name\\": \\"probability\\"}]}"
"""

_PYTHON = """\
import numpy as np
from PIL import Image
from tritonclient.http import InferenceServerClient, InferInput

pixels = np.asarray(Image.open("digit.png").convert("L"))[None]  # uint8, 1 x 28 x 28
tensor = InferInput("input", pixels.shape, "UINT8").set_data_from_numpy(pixels)
with InferenceServerClient("localhost:7704") as client:
    answer = client.infer("mnist", [tensor])
print(answer.as_numpy("label"), answer.as_numpy("probability"))
"""

_JAVASCRIPT = """\
import { readFile } from "node:fs/promises";

const file = await readFile("digit.png");
const inputs = [{ name: "input", shape: [1], datatype: "BYTES", data: [file.toString("base64")] }];
const answer = await fetch("http://localhost:7704/v2/models/mnist/infer", {
  method: "POST",
  body: JSON.stringify({ inputs, outputs: [{ name: "label" }] }),
});
console.log((await answer.json()).outputs[0].data);
"""

INFER = [
    {"lang": "Shell", "label": "curl", "source": _CURL},
    {"lang": "Python", "label": "Python (tritonclient)", "source": _PYTHON},
    {"lang": "JavaScript", "label": "JavaScript (Node)", "source": _JAVASCRIPT},
]

_SHOW_CURL = """\
curl -s localhost:7704/v1/show/mnist --data-binary @digit.png -H 'content-type: image/png'
"""

_SHOW_PYTHON = """\
import pathlib
import httpx

shown = httpx.post("http://localhost:7704/v1/show/mnist", content=pathlib.Path("digit.png").read_bytes()).json()
print(shown["label"], shown["measured"], [party["envelope"] for party in shown["parties"]])
"""

_SHOW_JAVASCRIPT = """\
import { readFile } from "node:fs/promises";

const body = await readFile("digit.png");
const shown = await (await fetch("http://localhost:7704/v1/show/mnist", { method: "POST", body })).json();
console.log(shown.label, shown.measured);
"""

SHOW = [
    {"lang": "Shell", "label": "curl", "source": _SHOW_CURL},
    {"lang": "Python", "label": "Python (httpx)", "source": _SHOW_PYTHON},
    {"lang": "JavaScript", "label": "JavaScript (Node)", "source": _SHOW_JAVASCRIPT},
]
