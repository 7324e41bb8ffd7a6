"""Pools made of an image dataset by a seed: unbalanced, noisy, redundant, with rare conditions; and ImageNet-C."""
