"""A checkpoint as a classifier of images."""
