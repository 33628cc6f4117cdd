"""How the shipped models of texts are trained: AdamW with a one-cycle schedule, and gradients that are clipped."""

import torch
from torch import Tensor, nn


class OneCycle:
    """Takes `steps` steps of a training. Its highest learning rate is `peak`."""

    def __init__(self, model: nn.Module, peak: float, decay: float, steps: int) -> None:
        self._model = model
        self._optimiser = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=decay)
        self._rates = torch.optim.lr_scheduler.OneCycleLR(self._optimiser, peak, total_steps=steps)

    def step(self, loss: Tensor) -> None:
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimiser.step()
        self._rates.step()
