"""Networks: plain nn.Modules, images (N, C, H, W) in, logits (N, classes) out; one architecture a file."""

from litcnn.networks.cnn import CNN
from litcnn.networks.resnet import ResNet
from litcnn.networks.whitened import WhitenedCNN

__all__ = ["CNN", "ResNet", "WhitenedCNN"]
