"""Networks: plain nn.Modules, images (N, C, H, W) in, logits (N, classes) out; one architecture a file."""

from litcnn.networks.cnn import CNN

__all__ = ["CNN"]
