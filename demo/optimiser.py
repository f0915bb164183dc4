"""Muon for matrices and convolutions (Jordan et al. 2024), AdamW for the rest, over float32 copies of the weights.

The live network may be bfloat16: its gradients are copied to the float32 weights, and these back after each step.
Matrices of one shape are orthogonalised together, so that a step takes few kernels.
"""

from __future__ import annotations

import torch


@torch.no_grad()
def orthogonalised(matrices: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """Each of `matrices` (n, rows, columns) with its singular values brought near one, by Newton-Schulz iterations."""
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return (x if wide else x.mT).float()


class Optimiser:
    """Steps the weights of `network`; `average` holds their exponential moving average.

    plain: parts of names whose weights AdamW takes although they are matrices (first and last layers, embeddings).
    """

    def __init__(
        self,
        network: torch.nn.Module,
        plain: tuple[str, ...] = (),
        dtype: torch.dtype = torch.float32,
        weight_decay: float = 0.01,
        ema: float = 0.999,
    ):
        self.network, self.weight_decay, self.ema, self.count = network, weight_decay, ema, 0
        live = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.names = list(live)
        self.weights = [p.detach().float().clone() for p in live.values()]
        self.average = [w.clone() for w in self.weights]
        network.to(dtype)
        self.live = [p for p in network.parameters() if p.requires_grad]
        self.gradients = [torch.empty_like(w) for w in self.weights]
        self.first = [torch.zeros_like(w) for w in self.weights]
        matrix = [w.ndim > 1 and not any(part in name for part in plain) for name, w in zip(self.names, self.weights)]
        self.shapes: dict[tuple[int, int], list[int]] = {}
        for i, weight in enumerate(self.weights):
            if matrix[i]:
                self.shapes.setdefault(tuple(weight.flatten(1).shape), []).append(i)
        self.others = [i for i in range(len(matrix)) if not matrix[i]]
        self.second = [torch.zeros_like(self.weights[i]) for i in self.others]

    @torch.no_grad()
    def step(self, rate: float, clip: float = 1.0) -> None:
        """One step at a learning rate, from the live network's gradients, which are cleared."""
        gradients = self.gradients
        torch._foreach_copy_(gradients, [p.grad for p in self.live])
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (clip / (norm + 1e-6)).clamp(max=1.0))
        self.count += 1
        torch._foreach_mul_(self.weights, 1 - rate * self.weight_decay)
        self._muon(gradients, rate)
        self._adamw(gradients, rate)
        torch._foreach_copy_(self.live, self.weights)
        decay = min(self.ema, (1 + self.count) / (10 + self.count))
        torch._foreach_lerp_(self.average, self.weights, 1 - decay)
        for p in self.live:
            p.grad = None

    def _muon(self, gradients, rate: float, momentum: float = 0.95) -> None:
        for (rows, columns), chosen in self.shapes.items():
            first, gradient = [self.first[i] for i in chosen], [gradients[i] for i in chosen]
            torch._foreach_lerp_(first, gradient, 1 - momentum)
            looked_ahead = torch._foreach_lerp(gradient, first, momentum)
            updates = orthogonalised(torch.stack([u.flatten(1) for u in looked_ahead]))
            weights = [self.weights[i] for i in chosen]
            torch._foreach_add_(weights, [u.view(w.shape) for u, w in zip(updates, weights)], alpha=-rate * 0.2 * max(rows, columns) ** 0.5)

    def _adamw(self, gradients, rate: float, betas: tuple[float, float] = (0.9, 0.98)) -> None:
        if not self.others:
            return
        first, gradient = [self.first[i] for i in self.others], [gradients[i] for i in self.others]
        torch._foreach_lerp_(first, gradient, 1 - betas[0])
        torch._foreach_mul_(self.second, betas[1])
        torch._foreach_addcmul_(self.second, gradient, gradient, 1 - betas[1])
        size = torch._foreach_div(self.second, 1 - betas[1] ** self.count)
        torch._foreach_sqrt_(size)
        torch._foreach_add_(size, 1e-8)
        torch._foreach_addcdiv_([self.weights[i] for i in self.others], first, size, -rate / (1 - betas[0] ** self.count))

    def averaged(self) -> dict[str, torch.Tensor]:
        """The network's state with the averaged weights, in float32 on the CPU."""
        return self._state_with(self.average)

    def latest(self) -> dict[str, torch.Tensor]:
        """The network's state with the float32 weights as they are, on the CPU."""
        return self._state_with(self.weights)

    def _state_with(self, weights: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        state = {name: value.detach().float().cpu() for name, value in self.network.state_dict().items()}
        return state | {name: value.cpu().clone() for name, value in zip(self.names, weights)}

    def state(self) -> dict[str, torch.Tensor]:
        parts = {"weights": self.weights, "average": self.average, "first": self.first}
        tensors = {f"{part}.{name}": value for part, values in parts.items() for name, value in zip(self.names, values)}
        return tensors | {f"second.{self.names[i]}": value for i, value in zip(self.others, self.second)}

    @torch.no_grad()
    def restore(self, tensors: dict[str, torch.Tensor], count: int) -> None:
        for name, value in self.state().items():
            value.copy_(tensors[name])
        torch._foreach_copy_(self.live, self.weights)
        self.count = count
