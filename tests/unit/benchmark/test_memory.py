"""The trackers on graphs whose bytes are counted by hand."""

import contextlib
import gc
from typing import Any

import torch
from torch import Tensor

from detector.benchmark.memory import Held, Live

N = 1024
BYTES = 4 * N


def leaf() -> Tensor:
    return torch.ones(N, requires_grad=True)


class TestHeld:
    def test_a_product_holds_both_factors(self) -> None:
        x, y, held = leaf(), leaf(), Held(Live())
        with held.watching():
            z = x * y
        assert held.now == held.peak == 2 * BYTES
        assert held.mark() == held.now
        z.sum().backward()
        assert held.now == 0
        assert held.peak == 2 * BYTES

    def test_a_square_holds_its_storage_once(self) -> None:
        x, held = leaf(), Held(Live())
        with held.watching():
            z = x * x
        assert held.now == BYTES
        del z
        assert held.now == 0

    def test_parameters_are_left_out(self) -> None:
        x, y = leaf(), leaf()
        held = Held(Live(), [y])
        with held.watching():
            z = x * y
        assert held.now == BYTES
        assert z.grad_fn is not None

    def test_views_are_one_storage(self) -> None:
        x, held = leaf(), Held(Live())
        with held.watching():
            z = x[:10] * x[10:20]
        assert held.now == BYTES
        assert z.grad_fn is not None

    def test_relu_in_place_holds_what_the_next_layer_holds(self) -> None:
        x, y, held = leaf(), leaf(), Held(Live())
        with held.watching():
            a = (x + 1).relu_()  # its result
            z = a * y  # the same, and y
        assert held.now == 2 * BYTES
        z.sum().backward()
        assert held.now == 0

    def test_the_gradients_are_those_without_it(self) -> None:
        x, held = leaf(), Held(Live())
        with held.watching():
            (x.exp() * x).sum().backward()
        assert x.grad is not None
        torch.testing.assert_close(x.grad, torch.full((N,), 2 * torch.e))
        assert held.now == 0
        assert held.peak == 2 * BYTES

    def test_a_graph_inside_a_function_counts_and_so_does_what_the_function_keeps(self) -> None:
        class Inside(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                with torch.enable_grad():
                    y = x.detach().requires_grad_()
                    z = y.exp().exp()  # two results
                    seen.append(held.now)
                    (kept,) = torch.autograd.grad(z.sum(), y)
                seen.append(held.now)
                ctx.save_for_backward(kept)
                return z.detach().sum()

            @staticmethod
            def backward(ctx: Any, factor: Tensor) -> Tensor:
                return ctx.saved_tensors[0] * factor

        seen: list[int] = []
        x, held = leaf(), Held(Live())
        with held.watching():
            z = Inside.apply(x)
        assert seen == [2 * BYTES, 0]
        assert held.now == BYTES
        z.backward()
        del z
        gc.collect()
        assert held.now == 0

    def test_what_is_saved_again_counts_while_it_is_saved(self) -> None:
        x = leaf()
        with Live() as live:
            held = Held(live)
            y = torch.ones(N)
            for _ in range(3):
                with held.watching():
                    (x * y).sum().backward()
                    assert held.now == 0
            assert held.peak == BYTES

    def test_what_is_made_after_the_mark_counts_from_its_making(self) -> None:
        class Fills(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                kept = torch.zeros_like(x)
                with torch.enable_grad():
                    kept += x.detach().requires_grad_().exp()  # saved while `kept` fills
                kept = kept.detach()
                ctx.save_for_backward(kept)
                return kept.sum()

            @staticmethod
            def backward(ctx: Any, factor: Tensor) -> Tensor:
                return ctx.saved_tensors[0] * factor

        x = leaf()
        with Live() as live:
            held = Held(live)
            with held.watching():
                early = torch.ones(N)
                z = (x * 1.5).exp()  # saves its result
                assert held.mark() == BYTES
                value = Fills.apply(z)
                assert held.now == 2 * BYTES
                assert held.peak == 3 * BYTES
                more = x * early  # made before the mark
            assert held.now == held.peak == 3 * BYTES
        assert value.grad_fn is not None
        assert more.grad_fn is not None


class TestLive:
    def test_a_chain_needs_two_at_a_time(self) -> None:
        x = torch.ones(N)
        with Live() as live:
            y = x + 1
            for _ in range(5):
                y = y + 1
        assert live.peak == 2 * BYTES
        assert live.now == BYTES
        del y
        assert live.now == 0

    def test_views_and_work_in_place_are_free(self) -> None:
        x = torch.ones(N)
        with Live() as live:
            y = x.view(2, -1).t()
            x.add_(1)
            assert live.peak == 0
            y = x + 1
            z = y.view(2, -1)
            z.mul_(2)
            y = torch.add(z, 1, out=z)
            assert live.now == live.peak == BYTES
            del y, z
        assert live.now == 0

    def test_what_the_backward_pass_keeps_lives_and_gradients_do(self) -> None:
        x = leaf()
        with Live() as live:
            z = x.exp().exp().sum()
            assert live.now == 2 * BYTES + 4
            z.backward()
            del z
        assert live.now == BYTES  # the gradient
        x.grad = None
        assert live.now == 0

    def test_memory_that_is_used_again_counts_again(self) -> None:
        with Live() as live:
            for _ in range(10):
                torch.ones(N)
                assert live.now == 0
        assert live.peak == BYTES

    def test_held_does_not_change_what_lives(self) -> None:
        peaks: list[int] = []
        for watching in (contextlib.nullcontext, Held(Live()).watching):
            x, y = leaf(), leaf()
            with Live() as live, watching():
                ((x + 1).relu_() * y).exp().sum().backward()
            peaks.append(live.peak)
        assert peaks[0] == peaks[1] > 3 * BYTES
