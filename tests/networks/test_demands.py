"""Every demand on a user's network: met, and refused where it is not."""

import pytest
import torch
from torch import nn

from segkit.errors import UserError
from segkit.networks.demands import Demands, check_own_network
from segkit.networks.own import OwnNetwork
from segkit.precision import choose_precision

CPU = torch.device("cpu")
DEMANDS = Demands(
    in_channels=2,
    out_channels=3,
    patch_size=(8, 6),
    batch_size=2,
    precision=choose_precision("fp32", CPU),
    device=CPU,
)


class Net(nn.Module):
    """A convolution; what becomes of its output is a value."""

    def __init__(self, change=lambda logits, training: logits, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(2, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.spare = nn.Linear(2, 2)
        self.change = change

    def forward(self, image):
        return self.change(self.norm(self.conv(image)), self.training)


class Odd(Net):
    def get_extra_state(self):
        return {"epoch": 3}

    def set_extra_state(self, state):
        pass


def check(network, **changes):
    own = OwnNetwork(network, name="nets:Net")
    check_own_network(own, Demands(**{**_values(DEMANDS), **changes}))
    return own


def _values(demands):
    return {name: getattr(demands, name) for name in demands.__dataclass_fields__}


def coarse(logits, training):
    return [logits, logits[..., ::2, ::3]] if training else logits


@pytest.mark.parametrize("change", [lambda logits, _: logits, coarse, lambda x, _: (x, x)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_that_meets_them_is_left_as_it_was(change, precision):
    network = Net(change)
    before = {name: x.clone() for name, x in network.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    own = check(network, precision=choose_precision(precision, CPU))
    assert torch.equal(torch.rand(1), expected)
    assert own.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in network.parameters())


def test_parameters_without_a_gradient_are_named(caplog):
    check(Net())
    assert "no gradient reaches spare.weight, spare.bias" in caplog.text


def in_train(change):
    return lambda logits, training: change(logits) if training else logits


def in_eval(change):
    return lambda logits, training: logits if training else change(logits)


def broken(logits):
    raise RuntimeError("shapes\ndo not match")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_train(broken), r"fails in train mode on an image \[2, 2, 8, 6\]: RuntimeError: shapes"),
        (in_eval(broken), r"fails in eval mode on an image \[1, 2, 8, 6\]"),
        (in_train(lambda x: {"out": x}), "in train mode is of type dict"),
        (in_train(lambda x: []), "an empty list in train mode"),
        (in_train(lambda x: x[:1]), "gives 1 outputs for 2 images"),
        (in_train(lambda x: x[:, :2]), r"shape \[2, 2, 8, 6\], \(batch, 3, voxels, voxels\)"),
        (in_train(lambda x: x.flatten(2)), r"shape \[2, 3, 48\]"),
        (in_train(lambda x: x[..., :4, :]), r"has voxels \[4, 6\], exactly \[8, 6\]"),
        (
            in_train(lambda x: [x[..., ::2, ::2], x]),
            r"output 0 .* exactly \[8, 6\] .* finest first",
        ),
        (in_train(lambda x: [x, x[..., ::2, :], x]), r"output 2 .* at most \[4, 6\]"),
        (in_train(lambda x: x.argmax(1, keepdim=True).expand(x.shape)), "of torch.int64; logits"),
        (in_train(lambda x: x * float("nan")), "is NaN or infinite on noise"),
        (in_train(lambda x: x.softmax(1)), "in train mode holds probabilities"),
        (in_eval(lambda x: x.softmax(1)), "in eval mode holds probabilities"),
        (in_eval(lambda x: x[..., ::2]), r"in eval mode has voxels \[8, 3\]"),
        (in_train(lambda x: x.detach()), "has no gradient"),
        (in_train(lambda x: torch.zeros_like(x).requires_grad_()), "no gradient reaches"),
        (in_train(lambda x: (x - x).sqrt() + x), "a gradient that is NaN or infinite"),
    ],
)
def test_each_demand_has_a_refusal(change, message):
    with pytest.raises(UserError, match=message) as caught:
        check(Net(change))
    assert str(caught.value).startswith("error: nets:Net: ")


def test_a_device_without_memory_is_no_fault_of_the_network():
    def fail(logits, training):
        raise torch.cuda.OutOfMemoryError("out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        check(Net(fail))


def test_what_a_checkpoint_cannot_hold_is_refused():
    with pytest.raises(UserError, match="other things than tensors in its state"):
        check(Odd())


def test_nothing_to_train_is_refused():
    network = Net()
    network.requires_grad_(False)
    with pytest.raises(UserError, match="no parameter to train"):
        check(network)


def test_one_sigmoid_output_is_no_probability():
    check(Net(channels=1), out_channels=1)
