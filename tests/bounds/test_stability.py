"""The training penalty: its bounds are those of `bounds.interval`, in both frameworks, and training on it stabilises."""

from __future__ import annotations

import numpy as np
import pytest

from decascade.bounds.box import Box
from decascade.bounds.interval import propagate
from decascade.errors import UsageError
from decascade.formats.registry import format_of
from decascade.ir.ops import Activation
from decascade.stability import stability_loss

torch = pytest.importorskip("torch")
nn = torch.nn


def torch_net():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.ReLU()),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(6 * 9, 5), nn.ReLU(),
    )  # fmt: skip
    with torch.no_grad():
        net[1].running_mean += 0.3
        net[1].running_var *= 2
    return net.eval()


def penalty(low, high, kind):
    if kind == "tanh":
        return -np.tanh(1 + low * high)
    return np.maximum(-low, 0) if kind == "active" else np.minimum(np.maximum(-low, 0), np.maximum(high, 0))


def wanted(graph, span, kind):
    bounds = propagate(graph, Box.of(graph, span))
    relus = [bounds[n.inputs[0]] for n in graph.nodes if isinstance(n.op, Activation) and n.op.kind == "relu"]
    return [float(penalty(b.lo, b.hi, kind).mean()) for b in relus]


@pytest.mark.parametrize("kind", ["active", "distance", "tanh"])
def test_torch_penalty_is_that_of_the_interval_bounds(kind):
    net = torch_net()
    form = format_of(net)
    graph = form.read(net, input_shape=(1, 2, 12, 12)).graph
    each = wanted(graph, (-0.5, 1), kind)
    assert stability_loss(net, (-0.5, 1), kind=kind, input_shape=(2, 12, 12)).item() == pytest.approx(
        np.mean(each), rel=1e-3, abs=1e-4
    )
    for i, value in enumerate(each):
        assert stability_loss(net, (-0.5, 1), kind=kind, layers=[i], input_shape=(2, 12, 12)).item() == pytest.approx(
            value, rel=1e-3, abs=1e-4
        )


@pytest.mark.parametrize("kind", ["active", "distance", "tanh"])
def test_keras_penalty_is_that_of_the_interval_bounds(kind):
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    net = keras.Sequential([
        keras.Input((12, 12, 2)), layers.Rescaling(0.5, 0.1), layers.Conv2D(4, 3, 2, "same", activation="relu"),
        layers.Conv2D(6, 3, padding="valid", use_bias=False), layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D(),
        layers.Flatten(), layers.Dense(5, "relu"), layers.Dense(3, "softmax"),
    ])  # fmt: skip
    each = wanted(format_of(net).read(net).graph, (-0.5, 1), kind)
    assert float(stability_loss(net, (-0.5, 1), kind=kind)) == pytest.approx(np.mean(each), rel=1e-3, abs=1e-4)


def test_training_on_the_penalty_makes_a_layer_stable():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        stability_loss(net, (0, 1), kind="active").backward()
        optimiser.step()
    graph = format_of(net).read(net, input_shape=(1, 1, 6, 6)).graph
    from decascade.bounds import prove

    assert prove(graph, (0, 1), 5).activations[0].counts == {"proven-active": 4}


class Branch(nn.Module):
    def forward(self, x):
        return x


@pytest.mark.parametrize(("model", "options", "words"), [
    (nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU()), {"input_range": (1, 0)}, r"input range \(1, 0\): give two numbers"),
    (nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU()), {"kind": "l2"}, "kind = 'l2': give one of active, distance, tanh"),
    (nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU()), {"layers": [3]},
     r"the model has 1 ReLUs, of which layers = \[3\] picks none"),
    (nn.Sequential(nn.ReLU()), {}, "the model has no layer with weights"),
    (nn.Sequential(nn.Conv2d(1, 1, 3), nn.GELU(), nn.ReLU()), {}, "GELU has no interval rule"),
    (nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(7, 1)), {}, "no square input fits the model's dense layers"),
    (object(), {}, "an object of type object: give a torch.nn.Sequential or a keras model"),
])  # fmt: skip
def test_what_the_penalty_refuses(model, options, words):
    with pytest.raises(UsageError, match=words):
        stability_loss(model, **options)
