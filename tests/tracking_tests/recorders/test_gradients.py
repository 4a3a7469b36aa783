"""The gradients at a model's layers, against autograd and NumPy."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.tracking_tests.flow import assert_gradients, output_gradients
from tests.tracking_tests.models import batches, cnn, rows, sgd
from tests.tracking_tests.reference import any_tensor
from tracking.recorders.gradients import GradientStats

__all__: list[str] = []


class Same(nn.Module):
    """Gives its input's values as a new tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1


def recorded(model: nn.Module, *inputs: Tensor, **options: Any) -> dict[str, dict[str, Any]]:
    """The rows of one step in which the mean square of the output is minimised, by layer."""
    with GradientStats(model, **options) as stats:
        for x in inputs:
            model(x).square().mean().backward()
        stats.step()
    table = rows(stats.read())
    assert {row["step"] for row in table} <= {0}
    found = {row["layer"]: row for row in table}
    assert len(found) == len(table)
    return found


@settings(max_examples=40)
@given(st.lists(any_tensor(), min_size=1, max_size=3))
def test_any_gradient_of_any_step(gradients: list[Tensor]) -> None:
    model = nn.Sequential(Same())
    with GradientStats(model, layers="0", flush_every=2) as stats:
        for gradient in gradients:
            model(torch.zeros_like(gradient, requires_grad=True)).backward(gradient)
            stats.step()
    found = rows(stats.read())
    assert [(row["step"], row["layer"]) for row in found] == [
        (step, "0") for step in range(len(gradients))
    ]
    for row, gradient in zip(found, gradients, strict=True):
        assert_gradients(row, [gradient])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("layers", "names"), [("activations", "13"), ("params", "03"), ("all", "0123")]
)
def test_layers_are_those_of_the_activations(layers: str, names: str, dtype: torch.dtype) -> None:
    model = cnn().to(dtype)
    x = batches(1)[0].to(dtype)
    expected = output_gradients(model, x)
    found = recorded(model, x, layers=layers)
    assert list(found) == list(names)
    for name in names:
        assert_gradients(found[name], [expected[name]])


def test_every_second_step_of_a_training_run() -> None:
    model = cnn()
    optimizer = sgd(model)
    expected = []
    with GradientStats(model, optimizer=optimizer, layers="all", every=2) as stats:
        for x in batches(5):
            expected.append(output_gradients(deepcopy(model), x))
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    found = rows(stats.read())
    assert [(row["step"], row["layer"]) for row in found] == [
        (step, layer) for step in (0, 2, 4) for layer in "0123"
    ]
    for row in found:
        assert_gradients(row, [expected[row["step"]][row["layer"]]])
    assert stats.current_step == 5
    assert stats.layers == tuple("0123")


def test_gradients_of_a_step_merge_as_if_they_were_one() -> None:
    model = cnn()
    inputs = [x[: 5 - i] for i, x in enumerate(batches(3))]
    expected = [output_gradients(model, x) for x in inputs]
    found = recorded(model, *inputs)
    for name, row in found.items():
        assert_gradients(row, [gradients[name] for gradients in expected])
    assert list(found) == ["1", "3"]


def test_one_backward_for_several_forwards_is_the_same() -> None:
    model = cnn()
    a, b = batches(2)
    expected = [output_gradients(model, x) for x in (a, b)]
    with GradientStats(model) as stats:
        (model(a).square().mean() + model(b).square().mean()).backward()
        stats.step()
    for row in rows(stats.read()):
        assert_gradients(row, [gradients[row["layer"]] for gradients in expected])


def test_a_layer_that_is_changed_in_place_has_the_gradient_before_the_change() -> None:
    # A hook on the module (full backward hook) would refuse the in-place ReLU.
    x = batches(1)[0]
    expected = output_gradients(cnn(), x)
    found = recorded(cnn(inplace=True), x, layers="all")
    assert list(found) == list("0123")
    for name, row in found.items():
        assert_gradients(row, [expected[name]])
    assert found["0"]["zeros"] > found["1"]["zeros"]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(4, 3), (2, 5, 4)),
        (nn.Linear(4, 3), (4,)),
        (nn.InstanceNorm2d(3), (2, 3, 4, 4)),
        (nn.MaxPool1d(2), (2, 3, 8)),
    ],
    ids=["linear 3-D", "linear 1-D", "instance norm", "pooling"],
)
def test_a_view_that_the_layer_made_may_be_changed_in_place(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    expected = output_gradients(nn.Sequential(Same(), layer, nn.ReLU()), x.requires_grad_())
    model = nn.Sequential(Same(), layer, nn.ReLU(inplace=True))
    assert layer(model[0](x))._is_view()
    found = recorded(model, x, layers=".")
    assert list(found) == list("012")
    for name, row in found.items():
        assert_gradients(row, [expected[name]])


def test_a_view_of_the_input_has_the_gradient_of_the_view() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flatten = nn.Flatten()

        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            return self.flatten(y).sum() + 10 * y.sum()

    found = recorded(Both(), torch.ones(2, 3, 4, requires_grad=True), layers="flatten")
    [row] = found.values()
    loss_at_sum = 2 * (11 * 2 * 24)
    assert row["norm"] == pytest.approx(loss_at_sum * 24**0.5)


def test_a_view_of_the_input_that_is_changed_in_place_has_no_row() -> None:
    # Torch forgets the hooks of such a view; what stands behind it is recorded all the same.
    model = nn.Sequential(Same(), nn.Flatten(), nn.ReLU(inplace=True))
    found = recorded(model, torch.ones(2, 3, 4, requires_grad=True), layers="all")
    assert list(found) == ["0", "2"]
    assert found["0"]["norm"] == found["2"]["norm"] == pytest.approx(2 / 24**0.5)


def test_a_shared_non_linearity_has_one_row_for_all_its_calls() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)
            self.relu = nn.ReLU(inplace=True)
            self.outputs: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(self.a(x))
            y = self.relu(self.b(x))
            self.outputs = [x, y]
            return self.c(y)

    torch.manual_seed(0)
    model = Shared()
    x = torch.randn(3, 4)
    expected = torch.autograd.grad(model(x).square().mean(), model.outputs)
    found = recorded(model, x, layers="relu")
    assert_gradients(found["relu"], expected)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_gradients_that_are_no_numbers_are_counted_and_left_out(bad: float) -> None:
    model = nn.Sequential(Same())
    gradient = torch.tensor([[1.0, 0.0, bad], [-2.0, bad, bad]])
    with GradientStats(model, layers="0") as stats:
        for g in (gradient, gradient[:, 2]):
            model(torch.zeros_like(g, requires_grad=True)).backward(g)
            stats.step()
    first, second = rows(stats.read())
    assert (first["count"], first["nonfinite"], first["zeros"]) == (6, 3, 1 / 6)
    assert (first["norm"], first["mean_abs"]) == (pytest.approx(5**0.5), 1)
    assert (second["count"], second["nonfinite"], second["zeros"]) == (2, 2, 0)
    assert (second["norm"], second["mean_abs"]) == (None, None)


def test_layers_that_no_gradient_reaches_have_no_row() -> None:
    model = nn.Sequential(cnn(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    model[3].requires_grad_(False)
    # The last layer is frozen as well, but a gradient passes through its output.
    assert list(recorded(model, *batches(1), layers="all")) == ["1", "2", "3"]
    model.requires_grad_(False)
    with GradientStats(model) as stats, torch.no_grad():
        model(batches(1)[0])
        stats.step()
    assert rows(stats.read()) == []


def test_a_layer_that_the_loss_does_not_depend_on_has_no_row() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.b(x)
            return self.a(x)

    assert list(recorded(TwoHeads(), torch.ones(4, 3), layers="all")) == ["a"]


def test_forward_without_gradients_or_in_evaluation_leaves_nothing() -> None:
    model = cnn()
    x, y = batches(2)
    expected = output_gradients(model, x)
    with GradientStats(model) as stats:
        with torch.no_grad():
            model(y)
        model.eval()
        model(y).sum().backward()
        with torch.inference_mode():
            model(y)
        model.train()
        model(x).square().mean().backward()
        stats.step()
    for row in rows(stats.read()):
        assert_gradients(row, [expected[row["layer"]]])


def test_outputs_inside_tuples_and_mappings() -> None:
    class Nested(nn.Module):
        def forward(self, x: Tensor) -> Any:
            # Of unbind's outputs the second gets no gradient: its hook is given None.
            used, unused = x.mul(1).unbind()
            return {"a": [used], "b": (x * 3, unused, "text", torch.ones(2, dtype=torch.int64))}

    model = nn.Sequential(Nested())
    with GradientStats(model, layers="0") as stats:
        y = model(torch.ones(2, 3, requires_grad=True))
        (y["a"][0] * 5).sum().backward(retain_graph=True)
        (y["b"][0] * 7).sum().backward()
        stats.step()
    [row] = rows(stats.read())
    assert_gradients(row, [torch.full((3,), 5.0), torch.full((2, 3), 7.0)])


def test_a_tensor_that_is_only_handed_on_keeps_no_hook() -> None:
    x = torch.ones(3, requires_grad=True)
    model = nn.Sequential(nn.Identity())
    with GradientStats(model, layers="0") as stats:
        model(x).sum().backward()
        stats.step()
    assert rows(stats.read()) == []
    assert not x._backward_hooks


def test_every_backward_pass_that_comes_by_counts() -> None:
    # A penalty on the gradient of the input, which depends on the output of tanh.
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
    x = torch.ones(4, 3, requires_grad=True)
    with GradientStats(model, layers="1") as stats:
        y = model(x)
        [slope] = torch.autograd.grad(y.sum(), x, create_graph=True)
        penalty = slope.square().sum()
        penalty.backward(retain_graph=True)
        stats.step()
    [row] = rows(stats.read())
    assert_gradients(row, [torch.ones(4, 2), *torch.autograd.grad(penalty, y)])
