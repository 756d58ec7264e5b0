import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litcnn.networks import CNN


def reference(
    state: dict[str, Tensor],
    images: Tensor,
    blocks: int = 3,
    convolutions: int = 2,
    stride: int = 1,
    padding: int = 1,
    pool=F.max_pool2d,
    activation=F.relu,
) -> Tensor:
    """The article's network in eval mode, from nothing but the tensors."""
    tensors = iter([value for name, value in state.items() if not name.endswith("num_batches_tracked")])
    for _ in range(blocks):
        for _ in range(convolutions):
            images = F.conv2d(images, next(tensors), next(tensors), stride, padding)
            weight, bias, mean, variance = (next(tensors) for _ in range(4))
            images = activation(F.batch_norm(images, mean, variance, weight, bias, training=False, eps=1e-5))
        images = pool(images, 2)
    hidden = activation(F.linear(images.flatten(1), next(tensors), next(tensors)))
    logits = F.linear(hidden, next(tensors), next(tensors))
    assert next(tensors, None) is None
    return logits


def shaken(network: CNN) -> CNN:
    """With random BatchNorm statistics, as after training, so that none of them can be left out unseen."""
    for name, value in network.state_dict().items():
        if "running" in name or name.endswith("bias"):
            value.uniform_(0.5, 1.5)
    return network.eval()


def number_of_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_default_has_the_articles_3_249_994_parameters_and_its_logits():
    torch.manual_seed(0)
    network, images = shaken(CNN()), torch.randn(2, 3, 32, 32)
    assert number_of_parameters(network) == 3_249_994
    with torch.no_grad():
        logits = network(images)
        torch.testing.assert_close(logits, reference(network.state_dict(), images), rtol=1e-5, atol=1e-5)
    assert logits.shape == (2, 10)
    assert logits.std() > 0.01


SMALL = {"widths": (4, 6), "hidden": 9, "image_size": 16}
OPTIONS = {
    "pooling": ({"pooling": "avg"}, {"pool": F.avg_pool2d}, 6 * 4 * 4),
    "stride": ({"stride": 2, "widths": (4,)}, {"stride": 2, "blocks": 1}, 4 * 2 * 2),
    "padding": ({"padding": 0}, {"padding": 0}, 6 * 1 * 1),
    "kernel": ({"kernel_size": 5, "padding": 2}, {"padding": 2}, 6 * 4 * 4),
    "even kernel": ({"kernel_size": 2, "padding": 1}, {}, 6 * 5 * 5),
    "activation": ({"activation": nn.GELU}, {"activation": F.gelu}, 6 * 4 * 4),
    "one convolution": ({"convolutions": 1}, {"convolutions": 1}, 6 * 4 * 4),
    "three convolutions": ({"convolutions": 3}, {"convolutions": 3}, 6 * 4 * 4),
    "widths": ({"widths": (3, 5, 7, 2)}, {"blocks": 4}, 2 * 1 * 1),
    "in_channels": ({"in_channels": 1}, {}, 6 * 4 * 4),
    "odd image_size": ({"image_size": 19}, {}, 6 * 4 * 4),
    "oblong": ({"image_size": (19, 26)}, {}, 6 * 4 * 6),
    "num_classes": ({"num_classes": 3}, {}, 6 * 4 * 4),
    "hidden": ({"hidden": 31}, {}, 6 * 4 * 4),
    "dropout": ({"dropout": 0.9, "conv_dropout": 0.9}, {}, 6 * 4 * 4),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_option_changes_the_network_as_the_reference_says(name):
    given, of_reference, flat = OPTIONS[name]
    options = SMALL | given
    torch.manual_seed(0)
    network = shaken(CNN(**options))
    size = options["image_size"]
    sides = [size, size] if isinstance(size, int) else size
    images = torch.randn(3, options.get("in_channels", 3), *sides)
    with torch.no_grad():
        expected = reference(network.state_dict(), images, **({"blocks": 2} | of_reference))
        torch.testing.assert_close(network(images), expected, rtol=1e-5, atol=1e-5)
    assert expected.shape == (3, options.get("num_classes", 10))

    channels, area, convolutions = options.get("in_channels", 3), options.get("kernel_size", 3) ** 2, 0
    for width in options["widths"]:
        for _ in range(options.get("convolutions", 2)):
            convolutions += channels * width * area + width + 2 * width
            channels = width
    head = flat * options["hidden"] + options["hidden"]
    head += options["hidden"] * options.get("num_classes", 10) + options.get("num_classes", 10)
    assert number_of_parameters(network) == convolutions + head


@pytest.mark.parametrize(
    ("option", "kind", "probability"),
    [("dropout", nn.Dropout, 0.5), ("dropout", nn.Dropout, 0.0), ("conv_dropout", nn.Dropout2d, 0.2)],
)
def test_dropout_drops_units_or_whole_channels_in_training_only(option, kind, probability):
    torch.manual_seed(0)
    # GELU: after ReLU and pooling a channel may be zero without having been dropped
    network = CNN(widths=(40,), hidden=800, image_size=8, activation=nn.GELU, **{option: probability})
    layers = [module for module in network.modules() if isinstance(module, kind)]
    seen = []
    layers[0].register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    images = torch.randn(20, 3, 8, 8)
    with torch.no_grad():
        network.train()(images)
        network.eval()(images)
    (before, after), (before_in_eval, after_in_eval) = seen
    assert len(layers) == 1
    assert torch.equal(before_in_eval, after_in_eval)
    dropped = (after == 0).flatten(2).all(2) if kind is nn.Dropout2d else after == 0  # (N, channels or units)
    kept = (before / (1 - probability)).masked_fill(dropped.view(*dropped.shape, *[1] * (after.ndim - 2)), 0)
    torch.testing.assert_close(after, kept)
    deviation = (probability * (1 - probability) / dropped.numel()) ** 0.5
    assert abs(dropped.float().mean() - probability) <= 5 * deviation


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 4}, r"nothing is left of a 4x4 image after block 3 of 3 .*larger images, fewer widths"),
        ({"padding": 0, "kernel_size": 7}, r"after block 2 of 3 .*kernel_size 7, stride 1, padding 0"),
        ({"widths": []}, r"number of widths is 0: choose 1 or more"),
        ({"padding": -1}, r"padding is -1: choose 0 or more"),
        ({"dropout": 1.0}, r"CNN: dropout is 1.0: choose a probability of 0 to below 1"),
        ({"pooling": "mean"}, r"pooling is 'mean': choose 'max' or 'avg'"),
    ],
)
def test_what_cannot_work_says_which_and_why(options, words):
    with pytest.raises(ValueError, match=words):
        CNN(**options)
