"""Readers of data sets: CIFAR, folders of images, EMNIST; their arrays are decoded once and kept in a cache."""
