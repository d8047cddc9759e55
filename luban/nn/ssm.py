"""State space models: a linear system driven by the text, in each of the forms it can be computed in.

    h'(t) = A h(t) + B x(t),   y(t) = C h(t)

Held constant over a step (`zero_order_hold`), the system is a recurrence over tokens. While A, B, C and the step
stay the same throughout a text it is also a convolution and a scan (`by_recurrence`, `by_convolution`,
`by_scan`); once they follow the text, as in Mamba, only the recurrence is left: `selective_scan`, or
`selective_step` for one more token. A is diagonal everywhere: each channel of `dim` has `state` numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

CHUNK_NUMBERS = 2**18
"""How many numbers one chunk of a selective scan may hold: what stays in a core's cache."""


def zero_order_hold(
    a: Float[Tensor, "dim state"], b: Float[Tensor, "dim state"], step: Float[Tensor, " dim"]
) -> tuple[Float[Tensor, "dim state"], Float[Tensor, "dim state"]]:
    """The system from token to token, `x` held for a time of `step`: `exp(ΔA)`, `(ΔA)^-1 (exp(ΔA) - 1) ΔB`.

    Where `a` is 0 the second is its limit, `ΔB`.

    Source: Gu and Dao 2023, eq. 4 (arXiv:2312.00752).
    """
    rate = step[:, None] * a
    held = torch.where(rate == 0, 1.0, torch.expm1(rate) / torch.where(rate == 0, 1.0, rate))
    return rate.exp(), held * step[:, None] * b


def by_recurrence(
    x: Float[Tensor, "batch seq dim"],
    decay: Float[Tensor, "dim state"],
    drive: Float[Tensor, "dim state"],
    c: Float[Tensor, "dim state"],
) -> Float[Tensor, "batch seq dim"]:
    """`y` token by token: constant memory, as decoding needs it."""
    state = x.new_zeros(len(x), *decay.shape)
    outputs = []
    for token in x.unbind(1):
        state = decay * state + drive * token[..., None]
        outputs.append((c * state).sum(-1))
    return torch.stack(outputs, 1)


def by_convolution(
    x: Float[Tensor, "batch seq dim"],
    decay: Float[Tensor, "dim state"],
    drive: Float[Tensor, "dim state"],
    c: Float[Tensor, "dim state"],
) -> Float[Tensor, "batch seq dim"]:
    """`y` as one convolution by FFT, with the kernel `C B, C A B, C A² B, ...`: `seq log seq`, all at once.

    Source: Gu et al. 2022 (S4), eq. 4 and 5 (arXiv:2111.00396).
    """
    seq = x.shape[1]
    powers = decay[..., None] ** torch.arange(seq, dtype=x.dtype, device=x.device)
    kernel = torch.einsum("ds,ds,dst->td", c, drive, powers)
    size = 2 * seq  # room for what would wrap around
    spectrum = torch.fft.rfft(x, size, dim=1) * torch.fft.rfft(kernel, size, dim=0)
    return torch.fft.irfft(spectrum, size, dim=1)[:, :seq]


def by_scan(
    x: Float[Tensor, "batch seq dim"],
    decay: Float[Tensor, "dim state"],
    drive: Float[Tensor, "dim state"],
    c: Float[Tensor, "dim state"],
) -> Float[Tensor, "batch seq dim"]:
    """`y` in `log2 seq` rounds, each over all tokens in parallel."""
    driven = drive * x[..., None]
    states = parallel_scan(decay.expand_as(driven), driven)
    return (c * states).sum(-1)


def parallel_scan(
    decays: Float[Tensor, "batch seq dim state"], driven: Float[Tensor, "batch seq dim state"]
) -> Float[Tensor, "batch seq dim state"]:
    """All states of `h[t] = decays[t] h[t-1] + driven[t]`, by doubling the stretch each token has seen.

    Source: Hillis and Steele 1986; the operator is that of Blelloch 1990, section 1.4.1.
    """
    reach = 1
    while reach < driven.shape[1]:
        more = decays[:, reach:] * driven[:, :-reach] + driven[:, reach:]
        longer = decays[:, reach:] * decays[:, :-reach]
        driven = torch.cat([driven[:, :reach], more], 1)
        decays = torch.cat([decays[:, :reach], longer], 1)
        reach *= 2
    return driven


def selective_step(
    x: Float[Tensor, "batch dim"],
    step: Float[Tensor, "batch dim"],
    a: Float[Tensor, "dim state"],
    b: Float[Tensor, "batch state"],
    c: Float[Tensor, "batch state"],
    state: Float[Tensor, "batch state dim"],
) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch state dim"]]:
    """`y` and the next state after one token: what `selective_scan` does for each of its tokens."""
    state = (step[:, None] * a.t()).exp() * state + b[..., None] * (step * x)[:, None]
    return (c[:, None] @ state).squeeze(1), state


def selective_scan(
    x: Float[Tensor, "batch seq dim"],
    step: Float[Tensor, "batch seq dim"],
    a: Float[Tensor, "dim state"],
    b: Float[Tensor, "batch seq state"],
    c: Float[Tensor, "batch seq state"],
    *,
    begins: Bool[Tensor, "batch seq"] | None = None,
    state: Float[Tensor, "batch state dim"] | None = None,
    chunk: int = 0,
) -> tuple[Float[Tensor, "batch seq dim"], Float[Tensor, "batch state dim"]]:
    """`y` and the last state of `h[t] = exp(step[t] a) h[t-1] + step[t] b[t] x[t]`, `y[t] = c[t] h[t]`.

    A token whose `step` is 0 leaves the state as it is; one that `begins` finds an empty state. `state` is the
    one before the first token (None: empty). Time is cut into pieces of `chunk` tokens (0: as many as stay in
    cache). Only the states between pieces are kept for the gradient, the others computed again, so memory
    grows with `seq * dim`, not with `seq * dim * state`.

    Source: Gu and Dao 2023, algorithm 2 and section 3.3.2 (arXiv:2312.00752). As in the authors' code B is held
    by `step * b`, the first term of `zero_order_hold`'s series.
    """
    if state is None:
        state = x.new_zeros(len(x), *a.t().shape)
    chunk = chunk or max(4, CHUNK_NUMBERS // (len(x) * a.numel()))
    by_time = [part.transpose(0, 1).contiguous() for part in (x, step, b, c)]
    kept = None if begins is None else (~begins).t()[..., None, None].to(x.dtype)
    y, last, _ = _Scan.apply(*by_time, a.t().contiguous(), state, kept, chunk)
    return y.transpose(0, 1), last


class _Scan(torch.autograd.Function):
    """`selective_scan` over tensors with time first, states as [time batch state dim]."""

    @staticmethod
    def forward(
        x: Tensor,
        step: Tensor,
        b: Tensor,
        c: Tensor,
        a: Tensor,
        state: Tensor,
        kept: Tensor | None,
        chunk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, borders = torch.empty_like(x), []
        for piece in _pieces(len(x), chunk):
            borders.append(state)
            _, states = _states(x[piece], step[piece], b[piece], a, state, _part(kept, piece))
            y[piece] = (c[piece, :, None] @ states).squeeze(2)
            state = states[-1].clone()
        return y, state, torch.stack(borders)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        x, step, b, c, a, _, kept, ctx.chunk = inputs
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(x, step, b, c, a, kept, output[2])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        to_y, carried, _ = gradients
        x, step, b, c, a, kept, borders = ctx.saved_tensors
        to_x, to_step, to_b, to_c = (torch.empty_like(part) for part in (x, step, b, c))
        to_a = torch.zeros_like(a)
        pieces = _pieces(len(x), ctx.chunk)
        for piece, border in zip(reversed(pieces), borders.flip(0), strict=True):
            decays, states = _states(x[piece], step[piece], b[piece], a, border, _part(kept, piece))
            to_c[piece] = (states @ to_y[piece, ..., None]).squeeze(-1)
            to_states = _backwards(decays, c[piece, ..., None] * to_y[piece, :, None], carried)
            carried = decays[0] * to_states[0]
            to_b[piece] = (to_states @ (step[piece] * x[piece])[..., None]).squeeze(-1)
            to_driven = (b[piece, :, None] @ to_states).squeeze(2)
            to_rate = to_states.mul_(decays)  # of `step * a`, whose exponential the decay is
            to_rate[1:] *= states[:-1]
            to_rate[0] *= border
            to_x[piece] = to_driven * step[piece]
            to_step[piece] = torch.addcmul((to_rate * a).sum(2), to_driven, x[piece])
            to_a += (to_rate * step[piece, :, None]).sum((0, 1))
        return to_x, to_step, to_b, to_c, to_a, carried, None, None


def _pieces(seq: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, seq)) for start in range(0, seq, chunk)]


def _part(kept: Tensor | None, piece: slice) -> Tensor | None:
    return None if kept is None else kept[piece]


def _states(
    x: Tensor, step: Tensor, b: Tensor, a: Tensor, state: Tensor, kept: Tensor | None
) -> tuple[Float[Tensor, "time batch state dim"], Float[Tensor, "time batch state dim"]]:
    """The decays of a piece and its states: one fused multiply-add per token."""
    decays = (step[:, :, None] * a).exp_()
    if kept is not None:
        decays *= kept
    states = b[..., None] * (step * x)[:, :, None]
    for now, decay in zip(states.unbind(0), decays.unbind(0), strict=True):
        state = now.addcmul_(decay, state)
    return decays, states


def _backwards(decays: Tensor, to_states: Tensor, carried: Tensor) -> Tensor:
    """Add to each state's gradient what reaches it through the next one; `carried` reaches the last."""
    later = to_states[-1].add_(carried)
    for now, decay in zip(reversed(to_states[:-1].unbind(0)), reversed(decays[1:].unbind(0)), strict=True):
        later = now.addcmul_(decay, later)
    return to_states
