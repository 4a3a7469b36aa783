"""Hooks: in copies of a module, in whole compiled graphs, and where a graph cannot take them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.utils.checkpoint import checkpoint

from tests.tracking_tests.models import Elsewhere
from tracking.hooks.graph_operators import forget_graphs
from tracking.hooks.module_hooks import GradientHook, Hook, ValuesHook

__all__: list[str] = []

# What the compiler itself warns of is not this project's.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
Kind = Callable[[Callable[..., None]], Hook]
KINDS: list[Kind] = [Hook, ValuesHook, GradientHook]
X = torch.arange(-6.0, 9.0).reshape(5, 3)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Network(nn.Module):
    """Whose middle is to be hooked; ``through`` is what calls it and what is before it."""

    def __init__(self, middle: nn.Module | None = None, through: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.middle = middle or nn.ReLU()
        self.through = through

    def body(self, x: Tensor) -> Any:
        return self.middle(self.first(x))

    def forward(self, x: Tensor) -> Any:
        given = self.through(self.body, x) if self.through else self.body(x)
        return self.last(given if isinstance(given, Tensor) else given["x"])


class InMapping(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"n": 3, "x": x.relu(), "more": (x.argmax(1), [2 * x])}


def tensors_of(output: Any) -> tuple[Tensor, ...]:
    """As hooks of a compiled model are given it."""
    return output if isinstance(output, tuple) else (output,)


def test_a_hook_passes_on_its_arguments_and_returns_nothing() -> None:
    seen: list[tuple[object, ...]] = []
    Hook(lambda *args: seen.append(args))(1, "a")
    assert seen == [(1, "a")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copied_hook_does_nothing(copied: Callable[[Hook], Hook], kind: Kind) -> None:
    hook = copied(kind(lambda *args: pytest.fail("a copy's hook was called")))
    assert type(hook) is kind
    assert hook(nn.ReLU(), (X,), X) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_hook_that_is_disarmed_does_nothing(kind: Kind, compiled: bool) -> None:
    seen: list[Any] = []
    hook, network = kind(lambda *args: seen.append(args)), Network()
    if isinstance(hook, (ValuesHook, GradientHook)):
        hook.after(network.middle)
    else:
        network.middle.register_forward_hook(hook)
    called: Any = torch.compile(network, backend="eager") if compiled else network
    with torch.no_grad():
        called(X)
        had = len(seen)
        hook.disarm()
        called(X)
    assert had == (0 if compiled and kind is GradientHook else 1)
    assert len(seen) == had


# -- in compiled models --


def told_by(wrap: Callable[[nn.Module], Any]) -> tuple[list[Tensor], list[ValuesHook]]:
    """What hooks before the network and behind its middle are told in two steps and a look."""
    seen: list[Tensor] = []
    network = Network()
    hooks = [
        ValuesHook(lambda inputs: seen.append(inputs[0].clone())),
        ValuesHook(lambda output: seen.extend(x.detach().clone() for x in tensors_of(output))),
    ]
    hooks[0].before(network)
    hooks[1].after(network.middle)
    called = wrap(network)
    for x in (X, 2 * X):
        called(x).sum().backward()
    called.eval()
    with torch.inference_mode():
        called(X)
    return seen, hooks


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_graph_with_hooks_stays_whole_and_they_are_told_its_values(backend: str) -> None:
    plain, hooks = told_by(lambda network: network)
    assert len(plain) == 6
    assert not any(hook.compiled for hook in hooks)
    compiled, hooks = told_by(partial(torch.compile, backend=backend, fullgraph=True))
    assert all(hook.compiled for hook in hooks)
    torch.testing.assert_close(compiled, plain)


def test_hooks_cost_a_compiled_model_neither_graphs_nor_compilations() -> None:
    counter = CompileCounter()
    seen: list[Tensor] = []
    network = nn.Sequential(*[nn.ReLU() for _ in range(12)])
    for module in network:
        ValuesHook(seen.extend).after(module)
    compiled: Any = torch.compile(network, backend=counter)
    for _ in range(3):
        compiled(X)
    assert counter.frame_count == 1
    assert len(seen) == 36


def test_the_tensors_inside_an_output_are_told_in_their_order() -> None:
    network, seen = Network(InMapping()), []
    ValuesHook(seen.extend).after(network.middle)
    compiled: Any = torch.compile(network, backend="eager", fullgraph=True)
    compiled(X)
    assert [tuple(x.shape) for x in seen] == [(5, 4), (5,), (5, 4)]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("inplace", [False, True])
def test_gradients_of_a_whole_graph_are_those_of_the_plain_model(
    backend: str, inplace: bool
) -> None:
    found: list[Tensor] = []
    plain = Network()
    y = plain.first(X)
    loss = plain.last(y.relu()).square().mean()
    expected = torch.autograd.grad(loss, [y, plain.first.weight])
    network = Network(nn.ReLU(inplace=inplace))
    hook = GradientHook(lambda *args: pytest.fail("interrupted"), found.append)
    hook.after(network.first)
    compiled: Any = torch.compile(network, backend=backend, fullgraph=True)
    compiled(X).square().mean().backward()
    assert network.first.weight.grad is not None
    torch.testing.assert_close([*found, network.first.weight.grad], list(expected))
    with torch.no_grad():
        compiled(X)
    assert len(found) == 1


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("gradients", [False, True])
def test_layers_under_checkpointing(backend: str, gradients: bool) -> None:
    network, told = Network(through=partial(checkpoint, use_reentrant=False)), []
    hook = GradientHook(lambda *args: None, told.append) if gradients else ValuesHook(told.extend)
    hook.after(network.middle)
    compiled: Any = torch.compile(network, backend=backend, fullgraph=True)
    compiled(X).sum().backward()
    # Without AOTAutograd the second computation calls again; who is told sees that it is backward.
    assert len(told) == (2 if backend == "eager" and not gradients else 1)


@pytest.mark.parametrize("kind", [ValuesHook, GradientHook])
@pytest.mark.parametrize("transform", [torch.vmap, "grad"])
def test_what_torch_func_transforms_is_left_out(kind: Kind, transform: Any) -> None:
    network = Network()

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(network, weights, (x,)).sum()

    def function(weights: dict[str, Tensor], x: Tensor) -> Any:
        if transform == "grad":
            return torch.func.grad(loss)(weights, x)
        return torch.vmap(network)(x)

    weights = dict(network.named_parameters())
    expected = function(weights, X)
    kind(lambda *args: pytest.fail("told")).after(network.middle)
    compiled: Any = torch.compile(function, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(weights, X), expected)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", [ValuesHook, GradientHook])
def test_an_exported_program_has_no_hooks(kind: Kind, strict: bool) -> None:
    network = Network()
    kind(lambda *args: None).after(network.middle)
    program = torch.export.export(network, (X,), strict=strict)
    assert not [node for node in program.graph.nodes if "layerscope" in str(node.target)]


def test_where_a_graph_cannot_take_a_hook_the_model_is_interrupted() -> None:
    class Away(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.as_subclass(Elsewhere)

    network, seen = nn.Sequential(nn.ReLU(), Away()), []
    ValuesHook(lambda value: seen.append(type(value))).after(network[1])
    compiled: Any = torch.compile(network, backend="eager")
    compiled(X)
    compiled(X)
    assert seen == [Elsewhere, Elsewhere]


def test_gradients_of_several_outputs_are_left_to_an_interrupted_model() -> None:
    network, seen = Network(InMapping()), []
    hook = GradientHook(lambda module, inputs, output: seen.append(list(output)))
    hook.after(network.middle)
    compiled: Any = torch.compile(network, backend="eager")
    compiled(X).sum().backward()
    assert seen == [["n", "x", "more"]]


def test_compiled_code_forgets_a_hook_that_is_gone() -> None:
    network, seen = Network(), []
    handle = ValuesHook(seen.extend).after(network.middle)
    compiled: Any = torch.compile(network, backend="eager")
    compiled(X)
    handle.remove()
    before = compiled(X)
    assert len(seen) <= 2
    torch.testing.assert_close(before, network(X))


def graph_of_a_recording(told: list[Tensor]) -> str:
    graphs: list[str] = []

    def backend(module: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(module.code)
        return module

    forget_graphs()
    network = Network()
    hook = ValuesHook(told.extend)
    handle = hook.after(network.middle)
    compiled: Any = torch.compile(network, backend=backend)
    compiled(X)
    handle.remove()
    compiled(X)
    STILL_THERE.append((hook, compiled))
    return graphs[0]


STILL_THERE: list[Any] = []
"""As results of trainings are that somebody keeps."""


def test_the_next_recording_has_the_same_graph_and_hears_nothing_of_the_last() -> None:
    first: list[Tensor] = []
    second: list[Tensor] = []
    graph = graph_of_a_recording(first)
    assert graph_of_a_recording(second) == graph
    STILL_THERE[-2][1](X)
    assert (len(first), len(second)) == (1, 1)
