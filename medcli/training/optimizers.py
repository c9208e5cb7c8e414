"""Optimizers: AdamW of torch, and Adan."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from medcli.settings.training import OptimizerName


class Adan(torch.optim.Optimizer):
    """Adaptive Nesterov momentum.

    With g_k the gradient, after clipping, and d_k = g_k - g_(k-1), 0 at the first step:
    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) d;  n <- b3 n + (1 - b3) (g + b2 d)^2;
    update = (m / (1 - b1^k) + b2 v / (1 - b2^k)) / (sqrt(n / (1 - b3^k)) + eps);
    weight <- (weight - lr update) / (1 + lr decay), or without `proximal` weight (1 - lr decay) - lr update.

    The state of a parameter has the names of the references' checkpoints; `neg_pre_grad` is minus its last gradient.
    Its updates k are counted for each parameter, as AdamW does: a step without its gradient does not count.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        betas: b1, b2, b3 above.
        eps: Added to the root.
        weight_decay: `decay` above.
        max_grad_norm: Maximum norm of all gradients together; 0 disables clipping.
        proximal: Decay by division, as above.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        max_grad_norm: float = 0.0,
        proximal: bool = True,
    ) -> None:
        super().__init__(
            params,
            {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "proximal": proximal},
        )
        self.max_grad_norm = max_grad_norm

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        factor = self._clip_factor()
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            if trained:
                self._update(group, trained, factor)
        return loss

    def _clip_factor(self) -> Tensor | None:
        """Factor of the gradients, a scalar; None without clipping."""
        if not self.max_grad_norm:
            return None
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        return (self.max_grad_norm / (norm + self.param_groups[0]["eps"])).clamp(max=1.0)

    def _update(self, group: dict[str, Any], trained: list[Tensor], factor: Tensor | None) -> None:
        beta1, beta2, beta3 = group["betas"]
        grads = [cast(Tensor, parameter.grad) for parameter in trained]
        if factor is not None:
            grads = list(torch._foreach_mul(grads, factor))
        for parameter, grad in zip(trained, grads, strict=True):
            state = self.state[parameter]
            if not state:
                zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_diff", "exp_avg_sq")}
                state.update(zeros, neg_pre_grad=-grad, step=torch.zeros(()))
            state["step"] += 1
        means, diffs, squares, before = (
            [self.state[parameter][name] for parameter in trained]
            for name in ("exp_avg", "exp_avg_diff", "exp_avg_sq", "neg_pre_grad")
        )
        steps = [int(self.state[parameter]["step"]) for parameter in trained]
        torch._foreach_add_(before, grads)  # now the difference of the two gradients
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_lerp_(diffs, before, 1 - beta2)
        ahead = torch._foreach_add(grads, before, alpha=beta2)
        torch._foreach_mul_(squares, beta3)
        torch._foreach_addcmul_(squares, ahead, ahead, 1 - beta3)
        torch._foreach_copy_(before, torch._foreach_neg(grads))
        update = torch._foreach_div(means, [1 - beta1**step for step in steps])
        torch._foreach_add_(update, torch._foreach_mul(diffs, [beta2 / (1 - beta2**step) for step in steps]))
        root = torch._foreach_sqrt(torch._foreach_div(squares, [1 - beta3**step for step in steps]))
        torch._foreach_add_(root, group["eps"])
        torch._foreach_div_(update, root)
        shrink = group["lr"] * group["weight_decay"]
        if shrink and not group["proximal"]:
            torch._foreach_mul_(trained, 1 - shrink)
        torch._foreach_add_(trained, update, alpha=-group["lr"])
        if shrink and group["proximal"]:
            torch._foreach_div_(trained, 1 + shrink)


COUNTER = "step"
"""Name of the count of a parameter's updates: a step without a gradient does not count."""
MOMENTS: dict[OptimizerName, tuple[str, ...]] = {
    "adamw": ("exp_avg", "exp_avg_sq"),
    "adan": ("exp_avg", "exp_avg_sq", "exp_avg_diff", "neg_pre_grad"),
}
"""Tensors kept for each parameter, of its shape: running means, and Adan's last gradient."""
NUM_MOMENTS: dict[OptimizerName, int] = {name: len(moments) for name, moments in MOMENTS.items()}


def build_optimizer(
    parameters: list[nn.Parameter], lr: float, device: torch.device, name: OptimizerName = "adamw"
) -> torch.optim.Optimizer:
    """Create an optimizer without weight decay, fused on GPUs.

    On CPUs `foreach` gives the same bits as a loop over parameters; AdamW's fused kernel does not.
    """
    if name == "adan":
        return Adan(parameters, lr)
    is_fused = device.type == "cuda"
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0, fused=is_fused, foreach=not is_fused)
