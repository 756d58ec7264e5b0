"""A checkpoint as a classifier of images."""

from .predictor import Classifier, Prediction, Predictor, load

__all__ = ["Classifier", "Prediction", "Predictor", "load"]
