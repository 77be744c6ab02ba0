"""network -> graph: the graph computes what the network computes, or there is none and the message says why."""

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, fx, nn
from torch.nn import functional as F

from graftcli.errors import PairError
from graftcli.models.tracing.trace import Traced, identical, trace, trace_inside
from tests.nets import randomise, resnet
from tests.traces import Small, images, run

# ---- what a graph knows ----


def test_the_graph_is_the_network_bit_for_bit_also_for_other_images() -> None:
    network = randomise(resnet(20)).eval()
    traced = trace(network, images())
    others = images(3, 32, 32, count=5)
    with torch.no_grad():
        assert torch.equal(run(traced, others), network(others))


def test_every_node_has_its_line_and_column() -> None:
    traced = trace(resnet(20), images())
    paths = list(traced.paths.values())
    assert paths[:4] == ["x", "conv1", "bn1", "relu"]
    assert "layer2.0.conv1" in paths and "layer2.0.add" in paths and "layer2.1.add" in paths
    assert traced.end_name(traced.returned["layer1"]) == "layer1", "the outermost module that ends there"
    assert traced.span_names([n for n in traced.nodes if traced.paths[n].startswith("layer2.")]) == ("layer2", "layer2")
    assert traced.span_names([n for n in traced.nodes if "layer3.1" in traced.paths[n]]) == ("layer3.1", "layer3.1")


def test_shapes_and_work_are_measured_for_one_image() -> None:
    traced = trace(resnet(20), images())
    conv = next(n for n in traced.nodes if traced.paths[n] == "layer2.0.conv1")
    assert traced.shapes[conv] == (2, 32, 16, 16)
    assert traced.macs[conv] == 16 * 16 * 32 * 16 * 9
    assert sum(trace(torchvision.models.resnet18(), images(3, 224, 224)).macs.values()) == 1_814_073_344


def test_a_module_called_twice_returns_what_it_returned_last() -> None:
    class Twice(Small):
        def forward(self, x: Tensor) -> Any:
            return self.head(self.stage2(self.stage1(self.stage1(self.stem(x)))).mean((2, 3)))

    traced = trace(Twice(), images())
    assert sum(node.target == "stage1.0" for node in traced.nodes) == 2
    assert traced.nodes.index(traced.returned["stage1"]) > traced.nodes.index(traced.nodes[5])


def test_a_tensor_that_the_code_makes_belongs_to_the_graph_not_to_the_network() -> None:
    class Scaled(Small):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x * torch.tensor([0.5, 1.0, 2.0]).view(1, 3, 1, 1))

    network = Scaled().eval()
    before = set(vars(network)) | set(network.state_dict())
    traced = trace(network, images())
    assert set(vars(network)) | set(network.state_dict()) == before
    with torch.no_grad():
        assert torch.equal(run(traced, images(count=4)), network(images(count=4)))


def test_sizes_stay_dynamic_and_numbers_read_from_the_images_are_refused() -> None:
    class Sized(Small):
        def forward(self, x: Tensor) -> Any:
            height = x.shape[2] // 2
            return super().forward(x[:, :, :height] / height * x.abs().max().item())

    traced = trace(Sized(), images())
    known = {traced.paths[node]: value for node, value in traced.sizes.items()}
    assert known["floordiv"] == 16
    assert "item" not in known


# ---- what is kept whole ----


class Picky(nn.Module):
    """A module whose own code looks at the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x) if x.sum() > 0 else self.conv(-x)
        return result


def test_a_module_with_control_flow_on_its_data_is_kept_whole_and_named_with_the_line() -> None:
    network = Small()
    network.stage1 = nn.Sequential(Picky(), nn.ReLU(), Picky())
    traced = trace(network, images())
    assert list(traced.opaque) == ["stage1.0", "stage1.2"]
    assert "test_trace.py" in traced.opaque["stage1.0"] and "x.sum() > 0" in traced.opaque["stage1.0"]
    picky = next(node for node in traced.nodes if node.target == "stage1.0")
    assert traced.macs[picky] == 16 * 16 * 8 * 8 * 9, "the work inside is counted"


def test_a_leaf_is_traced_with_its_input_shapes() -> None:
    class Leaf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, 1, 1)

        def forward(self, x: Tensor) -> Any:
            return self.conv(x) + 1

    network = Small()
    network.stage1 = nn.Sequential(Leaf())
    traced = trace(network, images())
    before = torch.get_rng_state()
    inner = trace_inside(traced, next(n for n in traced.nodes if n.target == "stem"))
    assert inner is None, "a convolution holds no layers"
    # as timm's own leaves are: one node of the graph
    whole = fx.Graph()
    value = whole.call_module("stage1.0", (whole.placeholder("x"),))
    whole.output(value)
    shapes = {node: (2, 8, 16, 16) for node in whole.nodes}
    facts = vars(traced) | {"graph": whole, "shapes": shapes, "paths": {n: str(n) for n in whole.nodes}}
    inside = trace_inside(Traced(**facts), value)
    assert inside is not None and inside.shapes[inside.source] == (2, 8, 16, 16)
    assert torch.equal(torch.get_rng_state(), before), "looking does not draw from the common random numbers"


@pytest.mark.parametrize("defaults", [True, False])
def test_further_inputs_keep_their_defaults(defaults: bool) -> None:
    class Optional(Small):
        def forward(
            self, x: Tensor, mask: Tensor | None = None, *rest: object, scale: float = 2.0, **more: object
        ) -> Any:
            return super().forward(x if mask is None else x * mask) * scale

    class Variadic(Small):
        def forward(self, *inputs: Tensor) -> Any:
            return super().forward(inputs[0])

    network = (Optional() if defaults else Variadic()).eval()
    traced = trace(network, images())
    assert [n.op for n in traced.nodes].count("placeholder") == 1
    with torch.no_grad():
        assert torch.equal(run(traced, images(count=3)), network(images(count=3)))


# ---- what is refused ----


def refusal(network: nn.Module, batch: Tensor | None = None) -> PairError:
    with pytest.raises(PairError) as caught:
        trace(network, images() if batch is None else batch)
    return caught.value


def test_the_refusal_of_a_network_names_its_other_inputs() -> None:
    class Two(Small):
        def forward(self, x: Tensor, mask: Tensor) -> Any:  # type: ignore[override]
            return super().forward(x * mask)

    class Named(Small):
        def forward(self, *, images: Tensor) -> Any:  # type: ignore[override]
            return super().forward(images)

    error = refusal(Two())
    assert error.message.startswith("`Two` does not take images as its only input: forward(x:")
    assert "'mask'" in error.message
    assert "takes only the images" in error.fix
    assert "forward(*, images:" in refusal(Named()).message


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_torchscript_is_refused() -> None:
    error = refusal(torch.jit.trace(Small().eval(), images()))
    assert "TorchScript" in error.message
    assert "file.py:factory" in error.fix


@pytest.mark.parametrize(("answer", "kind"), [(lambda y: {"logits": y}, "dict"), (lambda y: (y, y), "tuple")])
def test_an_answer_that_is_no_tensor_is_named(answer: Any, kind: str) -> None:
    class Other(Small):
        def forward(self, x: Tensor) -> Any:
            return answer(super().forward(x))

    error = refusal(Other())
    assert error.message == f"`Other` returns a {kind}, not one tensor of logits."


def test_a_backbone_without_a_head_is_named() -> None:
    class Backbone(Small):
        def forward(self, x: Tensor) -> Any:
            return self.stem(x)

    error = refusal(Backbone())
    assert "returns a tensor of shape 2x8x16x16 for 2 images" in error.message
    assert "--num-classes" in error.fix


def test_an_image_that_is_too_small_is_answered_with_the_networks_own_line() -> None:
    error = refusal(torchvision.models.alexnet(num_classes=5), images(3, 32, 32))
    assert "`AlexNet` does not run on images of 3x32x32" in error.message
    assert "alexnet.py:" in error.message
    assert "--img-size" in error.fix


def test_control_flow_that_makes_no_chain_is_refused_with_its_line() -> None:
    class Residual(Small):
        def forward(self, x: Tensor) -> Any:
            x = self.stem(x)
            y = self.stage1(x)
            x = x + y if y.sum() > 0 else y
            return self.head(self.stage2(x).mean((2, 3)))

    error = refusal(Residual())
    assert "cannot be traced" in error.message
    assert "its code depends on tensor values or sizes" in error.message
    assert "test_trace.py" in error.message and "x = x + y if y.sum() > 0 else y" in error.message
    assert "a separate module" in error.fix and "chain of stages" in error.fix


def test_dropout_that_forgets_about_eval_mode_is_named() -> None:
    class Dropping(Small):
        def forward(self, x: Tensor) -> Any:
            return super().forward(F.dropout(x, 0.5))

    error = refusal(Dropping())
    assert "different outputs for the same images" in error.message
    assert "F.dropout" in error.fix


def test_a_hook_that_changes_the_output_is_suspected() -> None:
    network = Small()
    network.register_forward_hook(lambda *_: torch.ones(2, 5) * 3)
    error = refusal(network)
    assert "a different output than the network" in error.message and "hook" in error.message


def test_hooks_on_modules_inside_are_part_of_the_network() -> None:
    network = randomise(Small()).eval()
    network.stage1.register_forward_hook(lambda _m, _i, out: out * 2)
    network.stem.register_forward_hook(lambda _m, _i, out: out + 1)
    traced = trace(network, images())
    with torch.no_grad():
        assert torch.equal(run(traced, images(count=3)), network(images(count=3)))


# ---- what tracing leaves behind ----


def test_the_images_and_the_networks_numbers_stay_as_they_are() -> None:
    class Normalising(Small):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x.sub_(0.5).div_(0.25))

    network, batch = randomise(Normalising()), images()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    trace(network, batch)
    assert torch.equal(batch, images())
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_batchnorm_never_runs_in_train_mode() -> None:
    network = randomise(resnet(20)).train()
    mean = network.bn1.running_mean
    assert mean is not None
    before = mean.clone()
    trace(network, images())
    assert torch.equal(mean, before)
    assert not network.training, "a network that was looked at is in eval mode"


def test_nan_in_the_same_entries_is_equal() -> None:
    nan = float("nan")
    assert identical(torch.tensor([1.0, nan]), torch.tensor([1.0, nan]))
    assert not identical(torch.tensor([1.0, nan]), torch.tensor([nan, 1.0]))
    assert not identical(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]))
