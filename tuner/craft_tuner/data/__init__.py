"""Images with labels: class folders, manifests, the paper's datasets, the Hub, digits.

Owns reading, few-shot sampling and augmented views.
"""
